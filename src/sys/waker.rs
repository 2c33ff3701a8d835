//! Descriptors that wake the thread which polls them: [`Waker`] and [`ShutdownSignal`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::descriptors::replace;
use super::platform::pipe::pipe;
pub(crate) use super::platform::waker::Waker;

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
        let (read, write) = pipe()?;
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
