//! Descriptors as a resource: their limit, and `/dev/null` in the place of inherited ones.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Puts `/dev/null` in the place of descriptors that a child has inherited and must not hold.
/// Each stays owned and valid where it is, and what was behind it is let go.
#[derive(Debug)]
pub(crate) struct DevNull(OwnedFd);

impl DevNull {
    pub(crate) fn open() -> io::Result<DevNull> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        Ok(DevNull(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?))
    }

    /// A descriptor that stands for one that is needed in a moment.
    pub(crate) fn reserve(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub(crate) fn replace(&self, inherited: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both numbers are open descriptors, the second of them borrowed from its owner,
        // which goes on owning the same number; only the file behind it changes, in a process
        // that uses it for nothing but closing it, if that.
        match unsafe { libc::dup3(self.0.as_raw_fd(), inherited.as_raw_fd(), libc::O_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// How many descriptors this process may have open (`RLIMIT_NOFILE`, the soft limit).
pub(crate) fn limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX))
}
