//! A pipe.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_setfd, ioctl_fionbio};

use super::exec::make_descriptor;

/// A non-blocking pipe, which is closed in programs that this process starts: where to read, and where
/// to write. There is no `pipe2` on macOS.
pub(in crate::sys) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    make_descriptor(|| {
        let (read, write) = rustix::pipe::pipe()?;
        for end in [&read, &write] {
            fcntl_setfd(end, FdFlags::CLOEXEC)?;
            ioctl_fionbio(end, true)?;
        }
        Ok((read, write))
    })
}
