//! A `redis-server` of this program's own, with its file in a directory of its own.

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{Running, readable, tied_to_us};

const PROGRAM: &str = "redis-server";
/// What it prints when it listens.
const READY: &str = "Ready to accept connections";
/// How long it may take until then.
const START: Duration = Duration::from_secs(20);
/// A port that was free may be somebody else's when Redis wants it.
const ATTEMPTS: usize = 3;

/// Ends when this is dropped, and its directory with it.
pub(crate) struct Redis {
    process: Running,
    address: SocketAddr,
    _directory: Directory,
}

/// An error if there is no such program.
pub(crate) fn is_there() -> Result<(), String> {
    match Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("there is no {PROGRAM}; Debian's package {PROGRAM} has it"))
        }
        Err(error) => Err(format!("cannot run {PROGRAM}: {error}")),
    }
}

impl Redis {
    /// As operators have it who take care of what was said: on TCP, since a room's servers are on
    /// several machines, and with an append-only file, synced each second.
    pub(crate) fn start() -> Result<Redis, String> {
        let attempt = || Redis::start_on(free_address()?);
        (1..ATTEMPTS).fold(attempt(), |started, _| started.or_else(|_| attempt()))
    }

    fn start_on(address: SocketAddr) -> Result<Redis, String> {
        let directory = Directory::new()?;
        let mut command = Command::new(PROGRAM);
        command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.arg("--dir").arg(&directory.0);
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
        let spawned = tied_to_us(&command)?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start {PROGRAM}: {error}"))?;
        let output = child.stdout.take();
        let redis = Redis { process: Running::new(child), address, _directory: directory };
        // What it prints from now on it prints for nobody, which it does not mind.
        until_ready(output.ok_or("no output")?)?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// An error if it has ended already.
    pub(crate) fn is_running(&mut self) -> Result<(), String> {
        self.process.is_running().map_err(|error| format!("{PROGRAM} {error}"))
    }
}

fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no port is free: {error}"))
}

fn until_ready(mut output: ChildStdout) -> Result<(), String> {
    let end = Instant::now() + START;
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.contains(READY) {
        let length = if readable(&output, end.saturating_duration_since(Instant::now())) {
            output.read(&mut buffer).unwrap_or(0)
        } else {
            0
        };
        if length == 0 {
            let last = said.lines().last().unwrap_or_default();
            return Err(format!("{PROGRAM} does not say that it is ready, but {last:?}"));
        }
        said += &String::from_utf8_lossy(&buffer[..length]);
    }
    Ok(())
}

/// Removed, with all that is in it, when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Directory, String> {
        let name = format!("socketserver-benches-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
