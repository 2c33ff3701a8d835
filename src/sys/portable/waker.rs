//! [`Waker`]: a self-pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::pipe::pipe;
use crate::sys::descriptors::replace;

/// Readable after [`wake`](Waker::wake), which any thread may call, until
/// [`clear`](Waker::clear): one thread polls it, and clears it before it looks for work.
#[derive(Debug)]
pub(crate) struct Waker {
    read: OwnedFd,
    write: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        let (read, write) = pipe()?;
        Ok(Waker { read, write })
    }

    pub(crate) fn wake(&self) {
        // `WouldBlock`: the pipe is full, and so readable.
        let _ = rustix::io::write(&self.write, b"!");
    }

    pub(crate) fn clear(&self) {
        let mut bytes = [0; 256];
        while rustix::io::read(&self.read, &mut bytes).is_ok_and(|length| length == bytes.len()) {}
    }

    /// In a forked child: takes the place of the inherited waker, which is returned, and wakes the
    /// parent as before.
    pub(crate) fn replace_inherited(&self, own: &Waker) -> io::Result<Waker> {
        let parent = Waker { read: self.read.try_clone()?, write: self.write.try_clone()? };
        replace(self.read.as_fd(), own.read.as_fd())?;
        replace(self.write.as_fd(), own.write.as_fd())?;
        Ok(parent)
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
