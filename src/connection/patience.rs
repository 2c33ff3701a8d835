//! How long a connection waits for its peer: timeouts, and the deadline of a message.

use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::link::Until;
use crate::settings::{MinRate, Settings};

/// The limits, and how far the message that is being read has come.
///
/// A stream waits by itself for as long as its own timeout says, at no cost. So that timeout is
/// the one for the first byte of a message, for which a connection mostly waits; only a message
/// that comes in several pieces is timed here.
pub(super) struct Patience {
    pub(super) idle: Option<Duration>,
    pub(super) read: Option<Duration>,
    pub(super) write: Option<Duration>,
    pub(super) message: Option<Duration>,
    pub(super) rate: Option<MinRate>,
    /// How many [`one_message`](super::Connection::one_message) are in progress, one in another.
    depth: u32,
    /// When the first piece of this message was there, and was not all.
    begun: Option<Instant>,
    received: usize,
}

impl Patience {
    pub(super) fn new(settings: &Settings) -> Patience {
        Patience {
            idle: settings.idle_timeout,
            read: settings.read_timeout,
            write: settings.transport.write_timeout,
            message: settings.message_deadline,
            rate: settings.min_rate,
            depth: 0,
            begun: None,
            received: 0,
        }
    }

    /// The timeout that the stream itself is set to.
    pub(super) fn of_stream(&self) -> Option<Duration> {
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
            // Its limits are not those of what comes after it.
            self.begun = None;
        }
    }

    /// A panic may have interrupted one.
    pub(super) fn forget_message(&mut self) {
        self.depth = 0;
        self.begun = None;
    }

    pub(super) fn note_received(&mut self, length: usize) {
        self.received += length;
    }

    /// How long the next read may wait.
    #[inline(always)]
    pub(super) fn until_read(&mut self) -> io::Result<Until> {
        if self.depth == 0 || self.received == 0 {
            return Ok(Until::Timeout(self.of_stream()));
        }
        if self.message.is_none() && self.rate.is_none() && self.read == self.of_stream() {
            return Ok(Until::Timeout(self.read));
        }
        self.until_next_piece()
    }

    /// Of a message that has begun, by this side's own clock.
    #[inline(never)]
    fn until_next_piece(&mut self) -> io::Result<Until> {
        let now = Instant::now();
        let begun = *self.begun.get_or_insert(now);
        if let Some(limit) = self.message
            && now - begun >= limit
        {
            // Whether or not there is something to read: there always is from who floods.
            return Err(Error::Deadline { limit }.into());
        }
        let rate = self.rate.map(|rate| rate.time_for(self.received));
        let instants = [
            self.read.and_then(|read| now.checked_add(read)),
            self.message.and_then(|message| begun.checked_add(message)),
            rate.and_then(|time| begun.checked_add(time)),
        ];
        // A day at a time, where the limits are beyond what the clock can express.
        let until = instants.into_iter().flatten().min();
        Ok(Until::Instant(until.unwrap_or(now + Duration::from_secs(86_400))))
    }

    /// Which limit it was, when a read has waited in vain.
    #[cold]
    pub(super) fn read_error(&self) -> Error {
        let elapsed = self.begun.map(|begun| begun.elapsed()).unwrap_or_default();
        match (self.message, self.rate) {
            (Some(limit), _) if elapsed >= limit => Error::Deadline { limit },
            (_, Some(rate)) if self.begun.is_some() && elapsed >= rate.time_for(self.received) => {
                Error::TooSlow { bytes_per_second: rate.bytes_per_second }
            }
            _ if self.begun.is_some() => {
                Error::IdleTimeout { limit: self.read.unwrap_or_default() }
            }
            _ => Error::IdleTimeout { limit: self.of_stream().unwrap_or_default() },
        }
    }

    /// How long a write may wait that has so far taken this long.
    #[inline(always)]
    pub(super) fn until_write(&self, begun: &mut Option<Instant>, written: usize) -> Until {
        let Some(rate) = self.rate else { return Until::Timeout(self.write) };
        let now = Instant::now();
        let begun = *begun.get_or_insert(now);
        let instants = [
            self.write.and_then(|write| now.checked_add(write)),
            begun.checked_add(rate.time_for(written)),
        ];
        let until = instants.into_iter().flatten().min();
        until.map_or(Until::Timeout(self.write), Until::Instant)
    }

    /// Which limit it was, when a write has waited in vain.
    #[cold]
    pub(super) fn write_error(&self, begun: Option<Instant>, written: usize) -> Error {
        match (self.rate, begun) {
            (Some(rate), Some(begun)) if begun.elapsed() >= rate.time_for(written) => {
                Error::TooSlow { bytes_per_second: rate.bytes_per_second }
            }
            _ => Error::WriteTimeout { limit: self.write.unwrap_or_default() },
        }
    }
}

/// Makes a limit's name of a wait that has ended without the peer: the system only says that time
/// is up. (`ETIMEDOUT` is something else: the peer's machine does not answer.)
#[cold]
#[inline(never)]
pub(super) fn named(error: io::Error, limit: impl FnOnce() -> Error) -> io::Error {
    if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
        limit().into()
    } else {
        error
    }
}
