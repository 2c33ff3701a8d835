//! [`Waker`]: an eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;

use crate::sys::descriptors::replace;

/// Readable after [`wake`](Waker::wake), which any thread may call, until
/// [`clear`](Waker::clear): one thread polls it, and clears it before it looks for work
/// ([eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html)).
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        Ok(Waker(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        // `WouldBlock`: the counter is at its maximum, 2^64 - 2, and so readable.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    /// In a forked child: takes the place of the inherited waker, which is returned, and wakes the
    /// parent as before.
    pub(crate) fn replace_inherited(&self, own: &Waker) -> io::Result<Waker> {
        let parent = Waker(self.0.try_clone()?);
        replace(self.as_fd(), own.as_fd())?;
        Ok(parent)
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
