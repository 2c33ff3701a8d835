//! [fork(2)], the condition under which it is safe ([`ForkPermit`]), and leaving a child.
//!
//! [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Pid;

use super::platform::exec::make_descriptor;
use super::platform::process::{other_threads, prepare_to_fork};
use super::signals::BlockedSignals;

/// The caller's promise that forking is safe although the process has other threads; see
/// [`Forking::despite_threads`](crate::Forking::despite_threads).
#[derive(Clone, Copy, Debug)]
pub struct ForkDespiteThreads(());

impl ForkDespiteThreads {
    /// Makes the promise.
    ///
    /// # Safety
    /// A forked child has one thread, a copy of the one that called [fork(2)]. A lock that another
    /// thread held at that moment (of the allocator, the logger, standard output, any mutex) is
    /// never released in the child, and data that another thread was modifying stays half
    /// modified. The caller must ensure that no handler, and nothing that a handler calls, waits
    /// for such a lock or uses such data.
    ///
    /// [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html
    pub unsafe fn new() -> ForkDespiteThreads {
        ForkDespiteThreads(())
    }
}

/// How long a joined thread may still be counted: `pthread_join` returns slightly before the thread
/// leaves `/proc/self/task`.
const THREAD_EXIT_GRACE: Duration = Duration::from_millis(100);

/// Proof that forking is safe: the process has no other thread, or the user has promised that they
/// do no harm. It is for the thread that obtained it, to fork at once.
pub(crate) struct ForkPermit(());

impl ForkPermit {
    /// The inner `Err` is the number of other threads.
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

/// The side of the fork that the caller is on.
pub(crate) enum Fork {
    Parent(Pid),
    Child { parent: Pid, signals: BlockedSignals },
}

/// Forks. The child starts with `SIGINT` and `SIGTERM` blocked.
pub(crate) fn fork(_permit: ForkPermit) -> io::Result<Fork> {
    let parent = rustix::process::getpid();
    prepare_to_fork()?;
    // The child inherits the parent's signal handlers. They would write to the parent's shutdown
    // pipe and so stop the server; the child replaces them before it unblocks the signals.
    let signals = BlockedSignals::block()?;
    // It makes no descriptor, but waits for the lock of a program that is being started: in the child
    // that would never be released.
    //
    // SAFETY: `fork` takes and touches no memory. What it can break is the child, if another thread
    // held a lock or was modifying data. The permit rules that out: either this is the only thread,
    // and only this thread could start another; or the user has promised, by the unsafe
    // `ForkDespiteThreads::new`, that the child uses no such lock and no such data.
    match make_descriptor(|| unsafe { libc::fork() }) {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child { parent, signals }),
        pid => match Pid::from_raw(pid) {
            Some(pid) => Ok(Fork::Parent(pid)),
            None => Err(io::Error::other("fork returned a negative process id")),
        },
    }
}

static GENERATION: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the first server among its ancestors, counting those
/// after which both processes serve: what such a child inherits still belongs to its parent.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// In a child that serves beside its parent.
pub(crate) fn begin_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Ends this process at once. It runs no destructors and no exit handlers, and flushes no standard
/// output, whose buffer may hold output of the parent
/// ([_exit(2)](https://man7.org/linux/man-pages/man2/_exit.2.html)).
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` takes a number, does not return, and has no preconditions.
    unsafe { libc::_exit(status) }
}
