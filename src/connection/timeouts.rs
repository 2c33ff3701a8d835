//! The timeouts of a connection, and the progress of the message that is being read.

use std::io;
use std::time::{Duration, Instant};

use crate::config::{MinRate, Settings};
use crate::error::Error;
use crate::net::IoTimeout;

/// The limits, and the progress of the current message.
///
/// The socket's own timeout (`SO_RCVTIMEO`) costs nothing per read. It is set to the timeout for
/// the first byte of a message, for which a connection mostly waits. Deadlines are computed only
/// for a message that arrives in several pieces.
pub(super) struct Timeouts {
    pub(super) idle: Option<Duration>,
    pub(super) read: Option<Duration>,
    pub(super) write: Option<Duration>,
    pub(super) message: Option<Duration>,
    pub(super) rate: Option<MinRate>,
    /// The number of nested [`with_message_timeout`](super::Connection::with_message_timeout)
    /// calls.
    depth: u32,
    /// When the current message was first found to be incomplete.
    started: Option<Instant>,
    /// The bytes of the current message.
    received: usize,
}

impl Timeouts {
    pub(super) fn new(settings: &Settings) -> Timeouts {
        Timeouts {
            idle: settings.idle_timeout,
            read: settings.read_timeout,
            write: settings.transport.write_timeout,
            message: settings.message_timeout,
            rate: settings.min_rate,
            depth: 0,
            started: None,
            received: 0,
        }
    }

    /// What the socket's read timeout is set to.
    pub(super) fn socket_timeout(&self) -> Option<Duration> {
        self.idle.or(self.read)
    }

    pub(super) fn begin_message(&mut self, already_received: usize) {
        if self.depth == 0 {
            self.received = already_received;
        }
        self.depth += 1;
    }

    pub(super) fn end_message(&mut self) {
        self.depth -= 1;
        if self.depth == 0 {
            self.started = None;
        }
    }

    /// Ends all messages, in case that a panic has skipped `end_message`.
    pub(super) fn reset_message(&mut self) {
        self.depth = 0;
        self.started = None;
    }

    pub(super) fn add_received(&mut self, length: usize) {
        self.received += length;
    }

    /// How long the next read may wait.
    #[inline(always)]
    pub(super) fn for_read(&mut self) -> io::Result<IoTimeout> {
        if self.depth == 0 || self.received == 0 {
            return Ok(IoTimeout::Socket(self.socket_timeout()));
        }
        if self.message.is_none() && self.rate.is_none() && self.read == self.socket_timeout() {
            return Ok(IoTimeout::Socket(self.read));
        }
        self.for_next_piece()
    }

    /// How long a read may wait within a message.
    #[inline(never)]
    fn for_next_piece(&mut self) -> io::Result<IoTimeout> {
        let now = Instant::now();
        let started = *self.started.get_or_insert(now);
        if let Some(limit) = self.message
            && now - started >= limit
        {
            // Checked even if input is available, or a flooding client would never hit the limit.
            return Err(Error::MessageTimeout { limit }.into());
        }
        let rate = self.rate.map(|rate| rate.time_for(self.received));
        let deadlines = [
            self.read.and_then(|read| now.checked_add(read)),
            self.message.and_then(|message| started.checked_add(message)),
            rate.and_then(|time| started.checked_add(time)),
        ];
        // A day, if all limits overflow the clock.
        let deadline = deadlines.into_iter().flatten().min();
        Ok(IoTimeout::Deadline(deadline.unwrap_or(now + Duration::from_secs(86_400))))
    }

    /// The limit that a read has just exceeded.
    #[cold]
    pub(super) fn read_error(&self) -> Error {
        let elapsed = self.started.map(|started| started.elapsed()).unwrap_or_default();
        match (self.message, self.rate) {
            (Some(limit), _) if elapsed >= limit => Error::MessageTimeout { limit },
            (_, Some(rate))
                if self.started.is_some() && elapsed >= rate.time_for(self.received) =>
            {
                Error::TooSlow { bytes_per_second: rate.bytes_per_second }
            }
            _ if self.started.is_some() => {
                Error::IdleTimeout { limit: self.read.unwrap_or_default() }
            }
            _ => Error::IdleTimeout { limit: self.socket_timeout().unwrap_or_default() },
        }
    }

    /// How long the next wait of a write may take. `started` is set by the first call.
    #[inline(always)]
    pub(super) fn for_write(&self, started: &mut Option<Instant>, written: usize) -> IoTimeout {
        let Some(rate) = self.rate else { return IoTimeout::Socket(self.write) };
        let now = Instant::now();
        let started = *started.get_or_insert(now);
        let deadlines = [
            self.write.and_then(|write| now.checked_add(write)),
            started.checked_add(rate.time_for(written)),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        deadline.map_or(IoTimeout::Socket(self.write), IoTimeout::Deadline)
    }

    /// The limit that a write has just exceeded.
    #[cold]
    pub(super) fn write_error(&self, started: Option<Instant>, written: usize) -> Error {
        match (self.rate, started) {
            (Some(rate), Some(started)) if started.elapsed() >= rate.time_for(written) => {
                Error::TooSlow { bytes_per_second: rate.bytes_per_second }
            }
            _ => Error::WriteTimeout { limit: self.write.unwrap_or_default() },
        }
    }
}

/// Replaces a bare `TimedOut` by the error of the limit that was exceeded. Not `ETIMEDOUT`, which
/// means that the peer's host does not answer.
#[cold]
#[inline(never)]
pub(super) fn name_timeout(error: io::Error, limit: impl FnOnce() -> Error) -> io::Error {
    if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
        limit().into()
    } else {
        error
    }
}
