//! The timeouts of a connection, and the progress of the message that is being read.

use std::io;
use std::time::{Duration, Instant};

use crate::config::{MinRate, Settings};
use crate::error::Error;
use crate::net::{IoTimeout, Stream};

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
    /// Once the message timeout was found to be over: how many of the bytes that had arrived by then
    /// are not read yet. They count, and what comes after them does not.
    unread_in_time: Option<usize>,
}

/// The limit that a wait exceeds at its deadline.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    Idle,
    Read,
    Write,
    Message,
    Rate,
}

impl Timeouts {
    pub(super) fn new(settings: &Settings) -> Timeouts {
        Timeouts {
            idle: settings.idle_timeout,
            read: settings.read_timeout,
            write: settings.write_timeout,
            message: settings.message_timeout,
            rate: settings.min_rate,
            depth: 0,
            started: None,
            received: 0,
            unread_in_time: None,
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
            self.reset_message();
        }
    }

    /// Ends all messages, in case that a panic has skipped `end_message`.
    pub(super) fn reset_message(&mut self) {
        self.depth = 0;
        self.started = None;
        self.unread_in_time = None;
    }

    pub(super) fn add_received(&mut self, length: usize) {
        self.received += length;
        self.unread_in_time = self.unread_in_time.map(|unread| unread.saturating_sub(length));
    }

    /// How many bytes the next read may return.
    pub(super) fn max_length(&self) -> usize {
        self.unread_in_time.unwrap_or(usize::MAX)
    }

    /// How long the next read may wait, and the limit that says so.
    #[inline(always)]
    pub(super) fn for_read(&mut self, stream: &dyn Stream) -> io::Result<(IoTimeout, Limit)> {
        if self.depth == 0 || self.received == 0 {
            let limit = if self.idle.is_some() { Limit::Idle } else { Limit::Read };
            return Ok((IoTimeout::Socket(self.socket_timeout()), limit));
        }
        if self.message.is_none() && self.rate.is_none() && self.read == self.socket_timeout() {
            return Ok((IoTimeout::Socket(self.read), Limit::Read));
        }
        self.for_next_piece(stream)
    }

    /// How long a read may wait within a message.
    #[inline(never)]
    fn for_next_piece(&mut self, stream: &dyn Stream) -> io::Result<(IoTimeout, Limit)> {
        let now = Instant::now();
        let started = *self.started.get_or_insert(now);
        if let Some(timeout) = self.message
            && now - started >= timeout
        {
            // The limit is for the client: what it has sent in time is read, though this side is late.
            // A client that floods has no more than this either.
            let unread = match self.unread_in_time {
                Some(unread) => unread,
                // Not known: none.
                None => Some(stream.unread()?).filter(|unread| *unread < usize::MAX).unwrap_or(0),
            };
            self.unread_in_time = Some(unread);
            return match unread {
                0 => Err(self.error(Limit::Message).into()),
                _ => Ok((IoTimeout::Deadline(now), Limit::Message)),
            };
        }
        // Not left to the socket, whose timeout may be the idle timeout.
        let read = (deadline(now, self.read), Limit::Read);
        let rate = self.rate.map(|rate| rate.time_for(self.received));
        let rate = (deadline(started, rate), Limit::Rate);
        let message = (deadline(started, self.message), Limit::Message);
        let (deadline, limit) = earlier(earlier(message, rate), read);
        Ok((IoTimeout::Deadline(deadline), limit))
    }

    /// Replaces a bare `TimedOut` by the error of the limit that was exceeded. Not `ETIMEDOUT`,
    /// which means that the peer's host does not answer.
    #[cold]
    #[inline(never)]
    pub(super) fn name_timeout(&self, error: io::Error, limit: Limit) -> io::Error {
        if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
            self.error(limit).into()
        } else {
            error
        }
    }

    fn error(&self, limit: Limit) -> Error {
        match limit {
            Limit::Idle => Error::IdleTimeout { limit: self.idle.unwrap_or_default() },
            Limit::Read => Error::ReadTimeout { limit: self.read.unwrap_or_default() },
            Limit::Write => Error::WriteTimeout { limit: self.write.unwrap_or_default() },
            Limit::Message => Error::MessageTimeout { limit: self.message.unwrap_or_default() },
            Limit::Rate => Error::TooSlow {
                bytes_per_second: self.rate.map_or(0, |rate| rate.bytes_per_second),
            },
        }
    }
}

/// When a timeout expires. No timeout, or one beyond the range of the clock: in about 30 years.
fn deadline(start: Instant, timeout: Option<Duration>) -> Instant {
    const MAX: Duration = Duration::from_secs(1_000_000_000);
    start + timeout.map_or(MAX, |timeout| timeout.min(MAX))
}

/// The earlier deadline; `one` if they are equal.
fn earlier(one: (Instant, Limit), other: (Instant, Limit)) -> (Instant, Limit) {
    if other.0 < one.0 { other } else { one }
}
