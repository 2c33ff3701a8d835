//! Child processes: they end with this process, and every wait for one has a timeout.

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

/// The time between `SIGTERM` and `SIGKILL`.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The same command, which the kernel ends with `SIGTERM` when this process dies
/// (`PR_SET_PDEATHSIG`).
pub(crate) fn tied_to_parent(command: &Command) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut tied = Command::new(own);
    tied.arg("tied").arg(command.get_program()).args(command.get_args());
    Ok(tied)
}

/// The child, `tied PROGRAM ARGUMENTS`: sets the parent death signal, which `execve` keeps, and
/// becomes the program.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<Infallible, lexopt::Error> {
    let program = parser.value()?;
    let arguments = parser.raw_args()?;
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| error.to_string())?;
    let error: io::Error = Command::new(&program).args(arguments).exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}

/// A child that is stopped and reaped when this is dropped.
pub(crate) struct ChildGuard(Child);

impl ChildGuard {
    pub(crate) fn new(child: Child) -> ChildGuard {
        ChildGuard(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Fails if the child has exited.
    pub(crate) fn check_running(&mut self) -> Result<(), String> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("exited early: {status}")),
            Err(error) => Err(format!("cannot be waited for: {error}")),
        }
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // After it was reaped, its PID may belong to another process.
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        if !wait_for_exit(&self.0, STOP_TIMEOUT) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// Waits until a child has exited, without reaping it; `false` after the timeout.
pub(crate) fn wait_for_exit(child: &Child, timeout: Duration) -> bool {
    match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        Ok(process) => wait_readable(process, timeout),
        // The process no longer exists.
        Err(_) => true,
    }
}

/// Waits until a descriptor is readable, which a pidfd is once its process has exited; `false`
/// after the timeout.
pub(crate) fn wait_readable(fd: impl AsFd, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return matches!(result, Ok(1..)),
        }
    }
}
