//! Children of this process: none of them outlives it, and none is waited for without end.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

/// The same command, as a child that the system ends when this process does, however that happens.
pub(crate) fn tied_to_us(command: &Command) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut tied = Command::new(own);
    tied.arg("tied").arg(command.get_program()).args(command.get_args());
    Ok(tied)
}

/// The child itself, `tied PROGRAM ARGUMENTS`, which becomes the command. (What is asked of the
/// system here lasts beyond that.)
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<Infallible, lexopt::Error> {
    let program = parser.value()?;
    let arguments = parser.raw_args()?;
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| error.to_string())?;
    let error: io::Error = Command::new(&program).args(arguments).exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}

/// Waits for a child to end. It is still to be waited for afterwards.
pub(crate) fn ended(child: &Child, limit: Duration) -> bool {
    match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        Ok(process) => readable(process, limit),
        // There is no such process any more.
        Err(_) => true,
    }
}

/// Waits for something to read, or for the end of what a descriptor of a process stands for.
pub(crate) fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return matches!(result, Ok(1..)),
        }
    }
}
