//! Waking a sleeper by a descriptor that it polls: [`Waker`], and [`ShutdownSignal`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::pipe::PipeFlags;

/// A doorbell: rung from any thread, heard by one sleeper, silent once heard
/// ([eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html)).
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        Ok(Waker(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        // It fails only when it has rung 2^64 - 2 times unheard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A switch that is thrown once: any byte written to it makes it readable for ever. A pipe, since
/// writing to one is allowed in a signal handler ([signal-safety(7)]) and is what signal crates
/// can do.
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
        // It fails only when the pipe is full, and then the switch was thrown long ago.
        let _ = rustix::io::write(&self.write, b"!");
    }

    pub(crate) fn try_clone_writer(&self) -> io::Result<OwnedFd> {
        self.write.try_clone()
    }
}

impl AsFd for ShutdownSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
