//! A server as a process of its own: started, waited for until it listens, told to end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::child::{ended, readable, tied_to_us};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long one may take to end by itself, before it is killed.
const END: Duration = Duration::from_secs(15);

/// Ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a command that prints `listening on ADDRESS` once it does.
    pub(crate) fn start(command: &Command) -> Result<Server, String> {
        let mut command = tied_to_us(command)?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("cannot start it: {error}"))?;
        // What it prints from now on it prints for nobody, which no server here minds.
        let address = child.stdout.take().ok_or("no output").map_err(str::to_owned);
        match address.and_then(announced_address) {
            Ok(address) => Ok(Server { child, address }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended already.
    pub(crate) fn is_running(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            // It has been waited for, and is not there to be told anything.
            Ok(Some(status)) => Err(format!("the server ended by itself: {status}")),
            Err(error) => Err(format!("the server cannot be asked after: {error}")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has not been waited for, so that the number is still its own.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if !ended(&self.child, END) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
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
