//! How long a server with idle connections takes to stop.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::echo::Clients;
use super::{Figures, Outcome, Target};

/// Each connection must end without an error. A client closes as soon as it reads EOF.
pub(crate) fn run(connections: usize, target: Target) -> Outcome {
    let pid = Pid::from_raw(target.pid as i32).ok_or("0 is no PID")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let mut clients = Clients::connect(0..connections, 64, target)?;
    let start = Instant::now();
    pidfd_send_signal(&process, Signal::TERM).map_err(|error| error.to_string())?;
    let exited = clients.wait_for_eof(Some(process.as_fd()))?.unwrap_or(start);
    let taken = exited - start;
    Ok(Figures {
        value: taken.as_secs_f64() * 1e3,
        operations: connections as u64,
        seconds: taken.as_secs_f64(),
        ..Figures::default()
    })
}
