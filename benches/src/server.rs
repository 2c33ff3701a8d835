//! A server as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::child::{ChildGuard, tied_to_parent, wait_readable};

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Stopped when this is dropped.
pub(crate) struct Server {
    process: ChildGuard,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a server, and waits until it prints `listening on ADDRESS`.
    pub(crate) fn start(command: &Command) -> Result<Server, String> {
        let mut command = tied_to_parent(command)?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start it: {error}"))?;
        // The pipe is closed after the first line. No server here fails on the `EPIPE`.
        let output = child.stdout.take();
        let process = ChildGuard::new(child);
        let address = announced_address(output.ok_or("no output")?)?;
        Ok(Server { process, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Fails if the server has exited.
    pub(crate) fn check_running(&mut self) -> Result<(), String> {
        self.process.check_running().map_err(|error| format!("the server {error}"))
    }
}

fn announced_address(output: ChildStdout) -> Result<SocketAddr, String> {
    let mut line = String::new();
    if wait_readable(&output, START_TIMEOUT) {
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
    }
    let address = line.trim_end().strip_prefix("listening on ");
    let address = address.map(|text| text.rsplit("//").next().unwrap_or(text));
    address
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| format!("expected `listening on ADDRESS`, got {line:?}"))
}
