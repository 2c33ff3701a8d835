//! A server as a process of its own: started, waited for until it listens, told to end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::child::{Running, readable, tied_to_us};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);

/// Ends when this is dropped.
pub(crate) struct Server {
    process: Running,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a command that prints `listening on ADDRESS` once it does.
    pub(crate) fn start(command: &Command) -> Result<Server, String> {
        let mut command = tied_to_us(command)?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start it: {error}"))?;
        // What it prints from now on it prints for nobody, which no server here minds.
        let output = child.stdout.take();
        let process = Running::new(child);
        let address = announced_address(output.ok_or("no output")?)?;
        Ok(Server { process, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// An error if it has ended already.
    pub(crate) fn is_running(&mut self) -> Result<(), String> {
        self.process.is_running().map_err(|error| format!("the server {error}"))
    }
}

fn announced_address(output: ChildStdout) -> Result<SocketAddr, String> {
    let mut line = String::new();
    if readable(&output, START) {
        BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
    }
    let address = line.trim_end().strip_prefix("listening on ");
    let address = address.map(|text| text.rsplit("//").next().unwrap_or(text));
    address
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| format!("it does not say where it listens, but {line:?}"))
}
