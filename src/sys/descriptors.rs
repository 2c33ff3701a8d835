//! The limit on open descriptors, and replacing descriptors in place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::platform::process::duplicate_over;

/// Replaces descriptors that a forked child has inherited by `/dev/null`, in place
/// ([dup(2)](https://man7.org/linux/man-pages/man2/dup.2.html)). The child's copy of the file is
/// closed, while the number stays open, and valid for its owner.
#[derive(Debug)]
pub(crate) struct DevNull(OwnedFd);

impl DevNull {
    pub(crate) fn open() -> io::Result<DevNull> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        Ok(DevNull(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?))
    }

    /// A descriptor that keeps a number free: the caller drops it when it needs another one.
    pub(crate) fn reserve(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub(crate) fn replace(&self, inherited: BorrowedFd<'_>) -> io::Result<()> {
        // Later reads and writes are harmless.
        replace(inherited, self.0.as_fd())
    }
}

/// Has a descriptor refer to another file, in place. Its own copy of the file before is closed.
pub(crate) fn replace(descriptor: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    duplicate_over(descriptor, by)
}

/// How many descriptors this process may have open (`RLIMIT_NOFILE`, the soft limit).
pub(crate) fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX))
}

/// Raises the soft limit to the hard limit.
pub(crate) fn raise_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}
