//! The output half of a connection: buffered writes, with their limits.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::buffer;
use super::buffer_cache::BufferCache;
use super::link::Link;
use super::outcome::Outcome;
use crate::config::{MinRate, Settings};
use crate::error::Error;
use crate::net::{WriteLimit, WriteProgress, WriteTotal};
use crate::sync::TimeLimit;

/// The output is sent before it gets longer than this.
const OUTPUT_CAPACITY: usize = 8 * 1024;

thread_local! {
    static OUTPUT_CACHE: BufferCache = const { BufferCache::new() };
}

/// Initializes the thread's buffer caches, which its first connection would do otherwise. The
/// registration of thread-local destructors is slow in the C library; a forking server pays for it
/// once instead of in each child.
pub(crate) fn prepare_thread() {
    OUTPUT_CACHE.with(|_| {});
    buffer::prepare_thread();
}

/// What writes change.
pub(super) struct Output {
    pub(super) buffer: Vec<u8>,
    /// All of the buffer was sent, or is being sent, by [`send_shared`](Output::send_shared).
    is_sent: AtomicBool,
    written: WriteTotal,
    pub(super) timeout: Option<Duration>,
    pub(super) rate: Option<MinRate>,
    pub(super) outcome: Outcome,
}

impl Output {
    pub(super) fn new(settings: &Settings) -> Output {
        Output {
            buffer: Vec::new(),
            is_sent: AtomicBool::new(false),
            written: WriteTotal::default(),
            timeout: settings.write_timeout,
            rate: settings.min_rate,
            outcome: Outcome::default(),
        }
    }

    /// The limits of the next write.
    pub(super) fn progress(&self) -> WriteProgress {
        WriteProgress::new(self.timeout, self.rate, self.written).within(TimeLimit::current())
    }

    /// Clears the buffer if it [was sent](Output::send_shared).
    #[inline(always)]
    pub(super) fn settle(&mut self) {
        if *self.is_sent.get_mut() {
            self.is_sent = false.into();
            self.buffer.clear();
        }
    }

    /// Sends the buffer, which is cleared later, by [`settle`](Output::settle). A failure fails the next
    /// write too.
    pub(super) fn send_shared(&self, link: Link<'_>) -> io::Result<()> {
        // Once, also by two threads that share the connection.
        if self.buffer.is_empty() || self.is_sent.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let mut progress = self.progress();
        let sent = link.stream.write_all([&self.buffer, &[]], &mut progress);
        sent.map_err(|error| self.name_timeout(error, &progress))
    }

    /// Replaces a bare `TimedOut` by the error of the limit that a blocked write has exceeded.
    #[cold]
    #[inline(never)]
    pub(super) fn name_timeout(&self, error: io::Error, progress: &WriteProgress) -> io::Error {
        if error.kind() != io::ErrorKind::TimedOut || error.raw_os_error().is_some() {
            return error;
        }
        let error = match (progress.exceeded(), self.rate, TimeLimit::current()) {
            (WriteLimit::Within, _, Some(limit)) => limit.error(),
            (WriteLimit::Rate, Some(MinRate { bytes_per_second, .. }), _) => {
                Error::TooSlow { bytes_per_second }
            }
            _ => Error::WriteTimeout { limit: self.timeout.unwrap_or_default() },
        };
        error.into()
    }
}

/// The output half while it is used.
pub(super) struct OutputHalf<'a> {
    pub(super) link: Link<'a>,
    pub(super) output: &'a mut Output,
}

impl OutputHalf<'_> {
    /// Takes all bytes, or fails.
    #[inline(always)]
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.settle();
        let buffer = &mut self.output.buffer;
        if buffer.len() + bytes.len() <= OUTPUT_CAPACITY {
            if buffer.capacity() == 0 {
                *buffer = OUTPUT_CACHE.with(BufferCache::take);
            }
            buffer.extend_from_slice(bytes);
        } else {
            self.send(bytes)?;
        }
        Ok(bytes.len())
    }

    /// Sends the buffer, and the messages of the connection's [`Sender`](super::Sender)s.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.link.stream.outbox().is_some() { self.send(&[]) } else { self.flush_buffer() }
    }

    pub(super) fn flush_buffer(&mut self) -> io::Result<()> {
        self.output.settle();
        if self.output.buffer.is_empty() { Ok(()) } else { self.send(&[]) }
    }

    /// Gives the buffer back to the thread's cache.
    pub(super) fn release_buffer(&mut self) {
        OUTPUT_CACHE.with(|cache| cache.put(&mut self.output.buffer));
    }

    /// Sends the buffer and then `more`.
    pub(super) fn send(&mut self, more: &[u8]) -> io::Result<()> {
        self.send_with(more, &[])
    }

    /// Sends the buffer and then bytes, with descriptors at their beginning.
    pub(super) fn send_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.link.stream.check_descriptors(bytes, fds)?;
        self.send_with(bytes, fds)
    }

    #[inline(always)]
    fn send_with(&mut self, more: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.link.check_shutdown();
        let output = &mut *self.output;
        output.settle();
        if let (Some(limit), false) = (TimeLimit::current(), more.is_empty())
            && limit.is_over()
        {
            return output.outcome.record_failure(Err(limit.error().into()), self.link);
        }
        let mut progress = output.progress();
        let slices = [&output.buffer, more];
        let sent = self.link.stream.write_all_with_descriptors(slices, fds, &mut progress);
        output.written = progress.total();
        output.buffer.clear();
        let sent = sent.map_err(|error| output.name_timeout(error, &progress));
        output.outcome.is_broken |= sent.is_err();
        output.outcome.record_failure(sent, self.link)
    }
}
