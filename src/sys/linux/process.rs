//! Descriptors, clocks and processes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal};
use rustix::time::ClockId;

use crate::sys::native;

/// The clock as of the kernel's last tick.
pub(in crate::sys) const COARSE_CLOCK: ClockId = ClockId::MonotonicCoarse;

/// With this flag, descriptors are closed in programs that this process starts from the moment on at
/// which they are received.
pub(in crate::sys) const RECEIVE_CLOEXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;

/// Has a descriptor refer to another file, in place, to be closed in programs that this process starts.
pub(in crate::sys) fn duplicate_over(
    descriptor: BorrowedFd<'_>,
    by: BorrowedFd<'_>,
) -> io::Result<()> {
    // SAFETY: `dup3` touches no memory. Both arguments are open descriptors, since they are borrowed.
    // The owner of the first keeps an open descriptor of that number, which it may use and close as
    // before.
    match unsafe { libc::dup3(by.as_raw_fd(), descriptor.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How many threads this process has besides the caller.
pub(in crate::sys) fn other_threads() -> io::Result<usize> {
    Ok(native::threads()?.saturating_sub(1))
}

/// Called before each fork.
pub(in crate::sys) fn prepare_to_fork() -> io::Result<()> {
    Ok(())
}

/// Ends the input of a child's connection, after what was received. It is async-signal-safe.
pub(in crate::sys) fn end_input(connection: RawFd) {
    // SAFETY: `shutdown` takes two numbers, touches no memory, and is async-signal-safe
    // (signal-safety(7)). For a number that is not an open socket it fails and changes nothing.
    unsafe { libc::shutdown(connection, libc::SHUT_RD) };
}

/// Has the kernel send this child `SIGTERM` when its parent (exactly: the thread that forked it)
/// ends, so that it does not outlive a parent that was killed
/// ([PR_SET_PDEATHSIG](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)).
pub(crate) fn end_with_parent(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if rustix::process::getppid() != Some(parent) {
        // The parent ended before the line above took effect.
        rustix::process::kill_process(rustix::process::getpid(), Signal::TERM)?;
    }
    Ok(())
}

/// Whether a write to a closed pipe or socket ends this process: Rust's `main` has `SIGPIPE` ignored, the
/// `main` of another language may not.
pub(super) fn sigpipe_kills() -> bool {
    // SAFETY: zeros are valid values for a `sigaction`. The call gets a pointer to a local one
    // that lives during the call, and changes no action.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut action);
        action.sa_sigaction == libc::SIG_DFL
    }
}
