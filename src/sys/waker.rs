//! Descriptors that wake the thread which polls them: [`Waker`] and [`ShutdownSignal`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::pipe::PipeFlags;

use super::descriptors::replace;

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

/// A self-pipe: it is readable for ever after one byte was written to it. It is a pipe, and not an
/// eventfd, because signal crates write one byte to a descriptor; write(2) is allowed in a signal
/// handler ([signal-safety(7)]).
///
/// [signal-safety(7)]: https://man7.org/linux/man-pages/man7/signal-safety.7.html
#[derive(Debug)]
pub(crate) struct ShutdownSignal {
    read: OwnedFd,
    write: OwnedFd,
}

impl ShutdownSignal {
    pub(crate) fn new() -> io::Result<ShutdownSignal> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(ShutdownSignal { read, write })
    }

    pub(crate) fn trigger(&self) {
        trigger(self.write.as_fd());
    }

    /// In a forked child: takes the place of the inherited signal. What is returned triggers that of
    /// the parent.
    pub(crate) fn replace_inherited(&self, own: &ShutdownSignal) -> io::Result<OwnedFd> {
        let parent = self.try_clone_writer()?;
        replace(self.read.as_fd(), own.read.as_fd())?;
        replace(self.write.as_fd(), own.write.as_fd())?;
        Ok(parent)
    }

    /// A second descriptor of the writing end; a byte written to it triggers the signal.
    pub(crate) fn try_clone_writer(&self) -> io::Result<OwnedFd> {
        self.write.try_clone()
    }
}

/// Triggers the signal that this is the writing end of.
pub(crate) fn trigger(writer: BorrowedFd<'_>) {
    // `WouldBlock`: the pipe is full, and so readable.
    let _ = rustix::io::write(writer, b"!");
}

impl AsFd for ShutdownSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
