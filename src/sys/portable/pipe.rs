//! A pipe.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};

/// A non-blocking pipe, which is closed in programs that this process starts: where to read, and where
/// to write. A program that another thread starts at the same moment may get it too: there is no
/// `pipe2` on macOS.
pub(in crate::sys) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe()?;
    for end in [&read, &write] {
        fcntl_setfd(end, FdFlags::CLOEXEC)?;
        ioctl_fionbio(end, true)?;
    }
    Ok((read, write))
}
