//! What a forked child does about signals.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Signal};

/// `SIGINT` and `SIGTERM`, held back from this thread until this is dropped
/// ([pthread_sigmask(3)](https://man7.org/linux/man-pages/man3/pthread_sigmask.3.html)).
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    pub(super) fn block() -> io::Result<BlockedSignals> {
        // SAFETY: all-zero sets are valid ones to be overwritten, all pointers are to live sets,
        // and both signals exist.
        unsafe {
            let mut held: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut held);
            libc::sigaddset(&mut held, libc::SIGINT);
            libc::sigaddset(&mut held, libc::SIGTERM);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &held, &mut before) {
                0 => Ok(BlockedSignals { before }),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: a set that the system has filled in, and none to fill in.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// The connection that the signal handler of a child shuts down; -1: none.
static CONNECTION: AtomicI32 = AtomicI32::new(-1);

extern "C" fn drain_connection(_signal: libc::c_int) {
    // SAFETY: `shutdown` is async-signal-safe (signal-safety(7)), and a descriptor that is no
    // socket, or none, is an error that changes nothing. The handler resets itself, so that errno
    // is disturbed once at most, in a process that is about to end.
    unsafe { libc::shutdown(CONNECTION.load(Ordering::Relaxed), libc::SHUT_RD) };
}

/// Has the system send this child `SIGTERM` when its parent is gone (the thread, to be exact, that
/// forked it), so that none is left without anybody who would end it
/// ([PR_SET_PDEATHSIG](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)).
pub(crate) fn end_with_parent(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if rustix::process::getppid() != Some(parent) {
        // It has gone in the meantime.
        rustix::process::kill_process(rustix::process::getpid(), Signal::TERM)?;
    }
    Ok(())
}

/// Makes the first `SIGINT`, and the first `SIGTERM`, end this child gracefully (its handler reads
/// end-of-file after what was received) and the second of its kind end it at once. What the parent
/// does with these signals (tell its server to stop) is not inherited; a signal that is ignored
/// stays ignored.
pub(crate) fn drain_on_signals(connection: Option<BorrowedFd<'_>>) {
    CONNECTION.store(connection.map_or(-1, |fd| fd.as_raw_fd()), Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero `sigaction` is a valid one (default action, empty mask), both
        // pointers are to live values of that type, and the handler installed is of the type
        // that goes without SA_SIGINFO.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            if action.sa_sigaction != libc::SIG_IGN {
                action = std::mem::zeroed();
                action.sa_sigaction = drain_connection as *const () as libc::sighandler_t;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}
