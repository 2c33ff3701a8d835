//! How a [`SharedStream`] is read.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::SharedStream;
use crate::net::{Interest, Stream};
use crate::sync::{Activity, Input, InputKind};
use crate::sys::poll::has_input;
use crate::sys::socket::{HIDES_END, Mode, retry_interrupted};
use crate::sys::splice::SplicePipe;

/// How long a read may wait for the peer.
#[derive(Clone, Copy)]
pub(crate) enum IoTimeout {
    /// The stream's own timeout (`SO_RCVTIMEO`), which is set to this; `None`: for ever.
    Socket(Option<Duration>),
    /// Until this instant, whatever the stream's own timeout is.
    Deadline(Instant),
}

impl IoTimeout {
    fn deadline(self) -> Option<Instant> {
        match self {
            IoTimeout::Socket(timeout) => timeout.and_then(|time| Instant::now().checked_add(time)),
            IoTimeout::Deadline(instant) => Some(instant),
        }
    }
}

impl SharedStream {
    /// Whether the next read has to wait first, for which it needs no buffer.
    pub(crate) fn needs_poll(&self) -> bool {
        self.needs_poll.load(Ordering::Relaxed)
    }

    /// Waits for input if the next read has to. From the first wait on, `timeout` is a deadline: what
    /// arrives may not be enough for the stream to return something.
    pub(crate) fn wait_for_input(&self, timeout: &mut IoTimeout) -> io::Result<()> {
        if let (true, Some(wait)) = (self.needs_poll(), self.wait.get()) {
            let deadline = timeout.deadline();
            if let Some(deadline) = deadline {
                *timeout = IoTimeout::Deadline(deadline);
            }
            self.doing(Activity::Reading, || wait.wait(&*self.inner, Interest::Read, deadline))?;
            self.needs_poll.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn read(&self, buffer: &mut [u8], mut timeout: IoTimeout) -> io::Result<usize> {
        loop {
            self.wait_for_input(&mut timeout)?;
            if let Some(length) = self.read_input(buffer, timeout)? {
                return Ok(length);
            }
        }
    }

    /// As [`read`](SharedStream::read), but the bytes that come before the stream's own: see
    /// [`Stream::carrier`].
    pub(crate) fn read_carrier(
        &self,
        buffer: &mut [u8],
        mut timeout: IoTimeout,
    ) -> io::Result<usize> {
        let carrier = self.inner.carrier().unwrap_or(&*self.inner);
        loop {
            self.wait_for_input(&mut timeout)?;
            if let Some(length) = self.read_once(carrier, buffer, timeout)? {
                return Ok(length);
            }
        }
    }

    /// As [`read`](SharedStream::read), but returns `None` where that would wait through a
    /// [`Wait`]: the caller releases its buffers, calls
    /// [`wait_for_input`](SharedStream::wait_for_input), and tries again.
    #[inline(always)]
    pub(crate) fn read_input(
        &self,
        buffer: &mut [u8],
        timeout: IoTimeout,
    ) -> io::Result<Option<usize>> {
        self.read_once(&*self.inner, buffer, timeout)
    }

    /// From the stream or its carrier.
    #[inline(always)]
    fn read_once(
        &self,
        from: &dyn Stream,
        buffer: &mut [u8],
        timeout: IoTimeout,
    ) -> io::Result<Option<usize>> {
        match self.wait.get() {
            None => {
                let read = || self.read_blocking(from, buffer, timeout);
                self.doing(Activity::Reading, read).map(Some)
            }
            Some(wait) => {
                wait.yield_now();
                self.read_ready(from, buffer)
            }
        }
    }

    /// Without a [`Wait`]: the stream itself blocks, unless there is a deadline.
    #[inline(always)]
    fn read_blocking(
        &self,
        from: &dyn Stream,
        buffer: &mut [u8],
        timeout: IoTimeout,
    ) -> io::Result<usize> {
        loop {
            let read = match timeout {
                IoTimeout::Socket(_) => self.receive(from, buffer, Mode::AsSet),
                IoTimeout::Deadline(_) => self.receive(from, buffer, Mode::Try),
            };
            match read {
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match timeout {
                    // The stream has blocked, and its own timeout is over.
                    IoTimeout::Socket(_) => return Err(io::ErrorKind::TimedOut.into()),
                    IoTimeout::Deadline(deadline) => {
                        self.block_until_ready(Interest::Read, Some(deadline))?;
                    }
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// With a [`Wait`]: reads without blocking, and notes whether the next read has to wait. `None`
    /// if this one has to.
    #[inline(always)]
    fn read_ready(&self, from: &dyn Stream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match retry_interrupted(|| self.receive(from, buffer, Mode::Try)) {
            Ok(length) => {
                if length < buffer.len() && from.short_read_empties() {
                    self.needs_poll.store(true, Ordering::Relaxed);
                }
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.needs_poll.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads without blocking, and without a yield before. `None` if there is nothing to read.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.uses_wait() {
            return match self.needs_poll() {
                true => Ok(None),
                false => self.read_ready(&*self.inner, buffer),
            };
        }
        match retry_interrupted(|| self.receive(&*self.inner, buffer, Mode::Try)) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`try_read`](SharedStream::try_read), into a pipe. The socket must not block. Only a read says
    /// for sure that there is nothing, or EOF: at an urgent mark splice(2) finds neither what is behind it
    /// nor how to go on.
    pub(crate) fn try_fill_pipe(&self, pipe: &mut SplicePipe, max: usize) -> io::Result<usize> {
        let Some(fd) = self.inner.as_fd().filter(|_| !self.needs_poll()) else { return Ok(0) };
        match retry_interrupted(|| pipe.fill(fd, max)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            filled => filled,
        }
    }

    /// Its descriptor, for a wait for several things; `None` for a stream that is always ready.
    pub(crate) fn input(&self) -> Option<Input<'_>> {
        let number = self.wait.get().and_then(|wait| wait.number());
        Some(Input { fd: self.inner.as_fd()?, kind: InputKind::Stream(number) })
    }

    /// Whether a read does not block, for a stream of which its descriptor does not say that.
    pub(crate) fn has_input_beyond_fd(&self) -> Option<bool> {
        if self.is_plain && !HIDES_END { None } else { self.inner.has_input() }
    }

    /// Whether a read does not block. `is_last`: there is no wait after this in which an event would come
    /// that the worker has not seen yet.
    pub(crate) fn is_readable(&self, is_last: bool) -> bool {
        let Some(fd) = self.inner.as_fd() else { return true };
        if self.needs_poll() && !is_last {
            return false;
        }
        let has_input = self.has_input_beyond_fd().unwrap_or_else(|| has_input(fd));
        // The last read may have filled its buffer just so. Input that comes from now on is an event.
        self.needs_poll.store(self.uses_wait() && !has_input, Ordering::Relaxed);
        has_input
    }

    /// Notes that so many bytes were read.
    pub(crate) fn add_received(&self, length: usize) {
        self.received.add(length);
    }

    /// Notes that a wait has found input.
    pub(crate) fn set_readable(&self) {
        self.needs_poll.store(false, Ordering::Relaxed);
    }

    /// Whether there is something to read: input, EOF or an error.
    pub(crate) fn has_input(&self) -> bool {
        self.inner.as_fd().is_some_and(has_input)
    }
}
