//! A `redis-server` as a child process, with its file in a temporary directory.

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{ChildGuard, tied_to_parent, wait_readable};

const PROGRAM: &str = "redis-server";
/// Printed by Redis once it listens.
const READY: &str = "Ready to accept connections";
/// How long Redis may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Another process may bind a port between the check that it is free and Redis's own `bind`.
const ATTEMPTS: usize = 3;

/// Stopped when this is dropped; then its directory is removed.
pub(crate) struct Redis {
    process: ChildGuard,
    address: SocketAddr,
    _directory: Directory,
}

/// Fails if `redis-server` is not installed.
pub(crate) fn check_installed() -> Result<(), String> {
    match Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("there is no {PROGRAM}; Debian's package {PROGRAM} has it"))
        }
        Err(error) => Err(format!("cannot run {PROGRAM}: {error}")),
    }
}

impl Redis {
    /// Set up as for production: on TCP, as for servers on several machines, and with an
    /// append-only file that is synced each second.
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
        let spawned = tied_to_parent(&command)?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start {PROGRAM}: {error}"))?;
        let output = child.stdout.take();
        let redis = Redis { process: ChildGuard::new(child), address, _directory: directory };
        // The pipe is closed then. Redis ignores the `EPIPE`.
        wait_until_ready(output.ok_or("no output")?)?;
        Ok(redis)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails if Redis has exited.
    pub(crate) fn check_running(&mut self) -> Result<(), String> {
        self.process.check_running().map_err(|error| format!("{PROGRAM} {error}"))
    }
}

fn free_address() -> Result<SocketAddr, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no port is free: {error}"))
}

fn wait_until_ready(mut output: ChildStdout) -> Result<(), String> {
    let deadline = Instant::now() + START_TIMEOUT;
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(READY) {
        let length = if wait_readable(&output, deadline.saturating_duration_since(Instant::now())) {
            output.read(&mut buffer).unwrap_or(0)
        } else {
            0
        };
        if length == 0 {
            let last = text.lines().last().unwrap_or_default();
            return Err(format!("{PROGRAM} is not ready; its last line is {last:?}"));
        }
        text += &String::from_utf8_lossy(&buffer[..length]);
    }
    Ok(())
}

/// Removed with its contents when this is dropped.
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
