//! Descriptors that this program was started with.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use parking_lot::Mutex;
use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// One thread at a time takes a descriptor: of two that take the same, the second finds its flag set.
static TAKING: Mutex<()> = Mutex::new(());

/// The descriptor of this number, if the program was started with it, closed in programs that this one
/// starts. Of standard input, output and error a copy is made, because std goes on using them.
///
/// What a program has inherited lacks `FD_CLOEXEC`
/// ([execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html)), which everything has that std and
/// this crate open, and a descriptor that was taken.
///
/// # Errors
/// `EBADF` if it is not open; `EBUSY` if it has the flag.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    match number {
        0 => return io::stdin().as_fd().try_clone_to_owned(),
        1 => return io::stdout().as_fd().try_clone_to_owned(),
        2 => return io::stderr().as_fd().try_clone_to_owned(),
        _ if number < 0 => return Err(Errno::BADF.into()),
        _ => {}
    }
    let _taking = TAKING.lock();
    // SAFETY: reads the flags of a descriptor, and touches no memory. It fails for a number that is not
    // open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(Errno::BUSY.into());
    }
    // SAFETY: it is open, and lacks `FD_CLOEXEC`, which all descriptors have that are made in Rust. So it
    // was there before the program began, and nothing in the program owns it. It has the flag before the
    // lock is released, so that no second owner is made.
    let taken = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&taken, FdFlags::CLOEXEC)?;
    Ok(taken)
}
