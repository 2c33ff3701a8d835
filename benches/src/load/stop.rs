//! How long a server takes to end, with connections that are silent.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::echo::Clients;
use super::{Figures, Outcome, Target};

/// Each connection must end without an error. Clients close as soon as they read the end.
pub(crate) fn run(connections: usize, target: Target) -> Outcome {
    let pid = Pid::from_raw(target.server as i32).ok_or("0 is no process")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let mut clients = Clients::connect(0..connections, 64, target)?;
    let begun = Instant::now();
    pidfd_send_signal(&process, Signal::TERM).map_err(|error| error.to_string())?;
    let ended = clients.wait_for_ends(Some(process.as_fd()))?.unwrap_or(begun);
    let taken = ended - begun;
    Ok(Figures {
        value: taken.as_secs_f64() * 1e3,
        operations: connections as u64,
        seconds: taken.as_secs_f64(),
        ..Figures::default()
    })
}
