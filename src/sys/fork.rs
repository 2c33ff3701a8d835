//! Forking: one child per request, reaped by its own descriptor.
#![allow(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Pid;

use super::signals::BlockedSignals;

/// A promise to fork although the process has other threads; see
/// [`Forking::despite_threads`](crate::Forking::despite_threads).
#[derive(Clone, Copy, Debug)]
pub struct ForkDespiteThreads(());

impl ForkDespiteThreads {
    /// Makes the promise.
    ///
    /// # Safety
    /// A forked child has only the thread that forked. Whatever another thread held at that
    /// moment (the allocator, the logger, standard output, any mutex) stays held in the child for
    /// ever. The caller vouches that no handler, nor anything it calls, waits for such a lock, and
    /// that no data which another thread was changing is used in a child ([fork(2)]).
    ///
    /// [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html
    pub unsafe fn new() -> ForkDespiteThreads {
        ForkDespiteThreads(())
    }
}

/// How many threads this process has besides the caller, read off the link count of
/// `/proc/self/task` ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).
pub(crate) fn other_threads() -> io::Result<usize> {
    let links = rustix::fs::stat("/proc/self/task")?.st_nlink;
    Ok((links as usize).saturating_sub(3))
}

/// How long a thread that has been joined may still be counted: joining it waits for the thread's
/// word that it ends, which comes a little before the system has forgotten it.
const THREAD_EXIT_GRACE: Duration = Duration::from_millis(100);

/// Leave to fork: the process has one thread, or the user has taken the risk.
pub(crate) struct ForkPermit(());

impl ForkPermit {
    /// `Err` is the number of other threads.
    pub(crate) fn obtain(promise: Option<ForkDespiteThreads>) -> io::Result<Result<Self, usize>> {
        if promise.is_some() {
            return Ok(Ok(ForkPermit(())));
        }
        let give_up = Instant::now() + THREAD_EXIT_GRACE;
        loop {
            match other_threads()? {
                0 => return Ok(Ok(ForkPermit(()))),
                count if Instant::now() >= give_up => return Ok(Err(count)),
                _ => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent(Pid),
    Child { parent: Pid, signals: BlockedSignals },
}

/// [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)
pub(crate) fn fork(_permit: ForkPermit) -> io::Result<Fork> {
    let parent = rustix::process::getpid();
    // The parent's handlers are not for the child to run: they would stop the server.
    let signals = BlockedSignals::block()?;
    // SAFETY: the permit says that this is the only thread, so that the child is a whole copy of
    // the process, with nothing half done by anybody else; or that the user vouched for it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child { parent, signals }),
        pid => match Pid::from_raw(pid) {
            Some(pid) => Ok(Fork::Parent(pid)),
            None => Err(io::Error::other("fork returned a negative process id")),
        },
    }
}

/// Ends this process at once: no destructors, no exit handlers, no flushing of buffers that are
/// the parent's ([_exit(2)](https://man7.org/linux/man-pages/man2/_exit.2.html)).
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}
