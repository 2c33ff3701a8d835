//! Children of this process: none of them outlives it, and none is waited for without end.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, set_parent_process_death_signal,
};

/// How long one may take to end by itself when it is told to, before it is killed.
const END: Duration = Duration::from_secs(15);

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

/// A child that is told to end when this is dropped, and waited for.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(child: Child) -> Running {
        Running(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// An error if it has ended already.
    pub(crate) fn is_running(&mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("ended by itself: {status}")),
            Err(error) => Err(format!("cannot be asked after: {error}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever was waited for is not there to be told anything; its number may be another's.
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        if !ended(&self.0, END) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
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
