//! Descriptors, clocks and processes.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use parking_lot::Mutex;
use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::RecvFlags;
use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::time::ClockId;

use super::pipe::pipe;
use crate::sys::native;

pub(in crate::sys) const COARSE_CLOCK: ClockId = ClockId::Monotonic;

/// macOS has no such flag.
pub(in crate::sys) const RECEIVE_CLOEXEC: RecvFlags = RecvFlags::empty();

/// Has a descriptor refer to another file, in place, to be closed in programs that this process starts.
pub(in crate::sys) fn duplicate_over(
    descriptor: BorrowedFd<'_>,
    by: BorrowedFd<'_>,
) -> io::Result<()> {
    // SAFETY: `dup2` touches no memory. Both arguments are open descriptors, since they are borrowed.
    // The owner of the first keeps an open descriptor of that number, which it may use and close as
    // before.
    match unsafe { libc::dup2(by.as_raw_fd(), descriptor.as_raw_fd()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(fcntl_setfd(descriptor, FdFlags::CLOEXEC)?),
    }
}

/// How many threads this process has besides the caller, and the one that watches its parent.
pub(in crate::sys) fn other_threads() -> io::Result<usize> {
    let watching = usize::from(WATCHING.load(Ordering::Relaxed) == getpid().as_raw_nonzero().get());
    Ok(native::threads()?.saturating_sub(1 + watching))
}

/// The connection of this child whose input has ended: see [`end_input`].
static DRAINED: AtomicI32 = AtomicI32::new(-1);

/// Ends the input of a child's connection, after what was received. It is async-signal-safe.
///
/// As in [`StreamSocket::shutdown`](super::socket::StreamSocket::shutdown), `SHUT_RD` only wakes a
/// reader that waits.
pub(in crate::sys) fn end_input(connection: RawFd) {
    DRAINED.store(connection, Ordering::SeqCst);
    let mut byte = [0u8; 1];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `recv` stores at most one byte through the pointer, which is to a local one, and
    // `shutdown` takes two numbers. Both are async-signal-safe (POSIX, 2.4.3). For a number that is not
    // an open socket they fail and change nothing.
    unsafe {
        if libc::recv(connection, byte.as_mut_ptr().cast(), byte.len(), flags) <= 0 {
            libc::shutdown(connection, libc::SHUT_RD);
        }
    }
}

/// Whether [`end_input`] has ended the input of this connection.
pub(super) fn is_drained(connection: RawFd) -> bool {
    DRAINED.load(Ordering::SeqCst) == connection
}

/// A pipe whose writing end this process has, and its children do not: they read EOF when it ends.
struct Lifeline {
    owner: Pid,
    read: OwnedFd,
    write: OwnedFd,
}

static LIFELINE: Mutex<Option<Lifeline>> = Mutex::new(None);

/// The process in which a thread watches the parent.
static WATCHING: AtomicI32 = AtomicI32::new(0);

/// Called before each fork.
pub(in crate::sys) fn prepare_to_fork() -> io::Result<()> {
    let mut lifeline = LIFELINE.lock();
    if !lifeline.as_ref().is_some_and(|lifeline| lifeline.owner == getpid()) {
        let (read, write) = pipe()?;
        ioctl_fionbio(&read, false)?;
        *lifeline = Some(Lifeline { owner: getpid(), read, write });
    }
    Ok(())
}

/// Has this child send itself `SIGTERM` when its parent ends, so that it does not outlive a parent that
/// was killed. A thread waits for that.
pub(crate) fn end_with_parent(parent: Pid) -> io::Result<()> {
    // Another thread of the parent may have held the lock at the fork.
    let lifeline = LIFELINE.try_lock().and_then(|mut lifeline| lifeline.take());
    let lifeline = lifeline.filter(|lifeline| lifeline.owner == parent);
    let Some(Lifeline { read, write, .. }) = lifeline else {
        return Err(io::Error::other("another thread was forking"));
    };
    drop(write);
    // Signals are for the other threads.
    let before = block_all_signals()?;
    let watch = move || {
        while rustix::io::read(&read, &mut [0; 1]) == Err(rustix::io::Errno::INTR) {}
        let _ = kill_process(getpid(), Signal::TERM);
    };
    let watching = thread::Builder::new().stack_size(WATCHER_STACK).spawn(watch);
    // SAFETY: the set is the one that the call in `block_all_signals` has filled in; a null pointer means
    // that the present mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    WATCHING.store(getpid().as_raw_nonzero().get(), Ordering::Relaxed);
    watching.map(drop)
}

const WATCHER_STACK: usize = 64 * 1024;

/// Returns the mask before.
fn block_all_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: a `sigset_t` consists of integers, for which zeros are a valid value. Each call gets
    // pointers to local sets that live during it.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (zeroed(), zeroed());
        libc::sigfillset(&mut all);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before) {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
