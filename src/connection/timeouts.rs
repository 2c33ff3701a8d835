//! The timeouts of a connection's reads, and the progress of the message that is being read.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;
use crate::close_reason::CloseReason;
use crate::config::{MinRate, Settings};
use crate::error::Error;
use crate::net::{IoTimeout, Stream, WriteProgress};
use crate::sync::TimeLimit;

/// The limits of reads, and the progress of the current message.
///
/// The socket's own timeout (`SO_RCVTIMEO`) costs nothing per read. It is set to the timeout for
/// the first byte of a message, for which a connection mostly waits. Deadlines are computed only
/// for a message that arrives in several pieces.
pub(super) struct Timeouts {
    pub(super) idle: Option<Duration>,
    pub(super) read: Option<Duration>,
    pub(super) message: Option<Duration>,
    pub(super) rate: Option<MinRate>,
    /// The number of nested [`Connection::with_message_timeout`] calls.
    depth: u32,
    /// When the current message was first found to be incomplete.
    started: Option<Instant>,
    /// The bytes of the current message.
    received: usize,
    /// Once the message timeout was found to be over: how many of the bytes that had arrived by then
    /// are not read yet. They count, and what comes after them does not.
    unread_in_time: Option<usize>,
    /// The same of a [time limit](TimeLimit), with its deadline.
    pub(super) unread_within: Option<(Instant, usize)>,
}

/// The limit that a wait exceeds at its deadline.
#[derive(Clone, Copy)]
pub(super) enum Limit {
    Idle,
    Read,
    Message,
    Rate,
    /// The [`TimeLimit`] of the code that runs now.
    Within,
}

impl Timeouts {
    pub(super) fn new(settings: &Settings) -> Timeouts {
        Timeouts {
            idle: settings.idle_timeout,
            read: settings.read_timeout,
            message: settings.message_timeout,
            rate: settings.min_rate,
            depth: 0,
            started: None,
            received: 0,
            unread_in_time: None,
            unread_within: None,
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
        if let Some((_, unread)) = &mut self.unread_within {
            *unread = unread.saturating_sub(length);
        }
    }

    /// How many bytes the next read may return.
    #[inline(always)]
    pub(super) fn max_length(&mut self) -> usize {
        let max = self.unread_in_time.unwrap_or(usize::MAX);
        if self.unread_within.is_none() { max } else { max.min(self.max_length_within()) }
    }

    /// How long the next read may wait, and the limit that says so.
    #[inline(always)]
    pub(super) fn for_read(&mut self, stream: &dyn Stream) -> io::Result<(IoTimeout, Limit)> {
        let timeout = self.of_message(stream)?;
        match TimeLimit::current() {
            None => Ok(timeout),
            Some(limit) => self.for_read_within(limit, timeout, stream),
        }
    }

    /// The same without a [`TimeLimit`].
    #[inline(always)]
    fn of_message(&mut self, stream: &dyn Stream) -> io::Result<(IoTimeout, Limit)> {
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
                None => known_unread(stream)?,
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

    pub(super) fn error(&self, limit: Limit) -> Error {
        match limit {
            Limit::Idle => Error::IdleTimeout { limit: self.idle.unwrap_or_default() },
            Limit::Read => Error::ReadTimeout { limit: self.read.unwrap_or_default() },
            Limit::Message => Error::MessageTimeout { limit: self.message.unwrap_or_default() },
            Limit::Within => {
                let limit = TimeLimit::current().map(|limit| limit.timeout).unwrap_or_default();
                Error::Timeout { limit }
            }
            Limit::Rate => Error::TooSlow {
                bytes_per_second: self.rate.map_or(0, |rate| rate.bytes_per_second),
            },
        }
    }
}

impl Connection {
    /// How long a read waits for input before it fails with `TimedOut`
    /// ([`Error::ReadTimeout`](crate::Error::ReadTimeout)); `None`: no limit. By default the
    /// server's [`read_timeout`](crate::Builder::read_timeout).
    ///
    /// Zero counts as one millisecond, here and in the setters of the other timeouts. A connection
    /// whose stream refuses the timeout is closed; sockets do not.
    pub fn set_read_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.input.timeouts.read = timeout.into().map(in_range);
        let timeout = self.input.timeouts.socket_timeout();
        self.set_on_stream(|stream| stream.set_read_timeout(timeout));
    }

    /// How long a read waits for the first byte of a message before it fails with `TimedOut`
    /// ([`Error::IdleTimeout`](crate::Error::IdleTimeout)); `None`: the read timeout applies. By
    /// default the server's [`idle_timeout`](crate::Builder::idle_timeout).
    pub fn set_idle_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.input.timeouts.idle = timeout.into().map(in_range);
        let timeout = self.input.timeouts.socket_timeout();
        self.set_on_stream(|stream| stream.set_read_timeout(timeout));
    }

    /// How long a message may take from its first bytes to its end before a read of it fails with
    /// `TimedOut` ([`Error::MessageTimeout`](crate::Error::MessageTimeout)); `None`: no limit. By
    /// default the server's [`message_timeout`](crate::Builder::message_timeout).
    pub fn set_message_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.input.timeouts.message = timeout.into().map(in_range);
    }

    /// The minimal rate of the client, sending a message or receiving a write; below it the read or
    /// write fails with `TimedOut` ([`Error::TooSlow`](crate::Error::TooSlow)). `None`: no limit.
    /// By default the server's [`min_rate`](crate::Builder::min_rate).
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{Connection, MinRate};
    ///
    /// fn send_file(connection: &mut Connection, file: &[u8]) -> std::io::Result<()> {
    ///     let grace = Duration::from_secs(10);
    ///     connection.set_min_rate(MinRate { bytes_per_second: 1000, grace });
    ///     connection.write_all(file)
    /// }
    ///
    /// let mut connection = Connection::in_memory("");
    /// send_file(connection.as_mut(), b"all of it")?;
    /// assert_eq!(connection.output(), b"all of it");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_min_rate(&mut self, rate: impl Into<Option<MinRate>>) {
        let rate = rate.into();
        (self.input.timeouts.rate, self.output.rate) = (rate, rate);
    }

    /// How long a write waits for the client to acknowledge some bytes before it fails with `TimedOut`
    /// ([`Error::WriteTimeout`](crate::Error::WriteTimeout)); `None`: no limit. By default the
    /// server's [`write_timeout`](crate::Builder::write_timeout).
    pub fn set_write_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.output.timeout = timeout.into().map(in_range);
        let timeout = self.output.timeout.map(WriteProgress::slice);
        self.set_on_stream(|stream| stream.set_write_timeout(timeout));
    }

    /// Sets the timeouts of a stream that does not inherit them from a listener.
    pub(super) fn set_socket_timeouts(&mut self) {
        self.set_read_timeout(self.input.timeouts.read);
        self.set_write_timeout(self.output.timeout);
    }

    /// A stream that is waited for by a [`Wait`](crate::extend::Wait) does not block, and so needs no
    /// timeout of its own. One that refuses a timeout is closed, rather than left open without what its
    /// handler relies on.
    fn set_on_stream(&self, set: impl FnOnce(&dyn Stream) -> io::Result<()>) {
        if self.stream.uses_wait() {
            return;
        }
        if let Err(error) = set(self.stream.inner()) {
            log::error!("{}: closed, its timeout cannot be set: {error}", self.peer_addr());
            self.stream.close(Shutdown::Both, CloseReason::Failed);
        }
    }
}

/// The shortest timeout: the system takes zero for no timeout.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// The longest timeout, about 30 years: the clock does not overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(1_000_000_000);

/// A timeout between these two.
pub(super) fn in_range(timeout: Duration) -> Duration {
    timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT)
}

/// When a timeout expires; without one, or beyond the longest, after the longest.
fn deadline(start: Instant, timeout: Option<Duration>) -> Instant {
    start + timeout.map_or(MAX_TIMEOUT, |timeout| timeout.min(MAX_TIMEOUT))
}

/// How many bytes were received and not read; 0 if it is not known.
pub(super) fn known_unread(stream: &dyn Stream) -> io::Result<usize> {
    Ok(Some(stream.unread()?).filter(|unread| *unread < usize::MAX).unwrap_or(0))
}

/// The earlier deadline; `one` if they are equal.
pub(super) fn earlier(one: (Instant, Limit), other: (Instant, Limit)) -> (Instant, Limit) {
    if other.0 < one.0 { other } else { one }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::io::{BufRead, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::connection::InMemoryConnection;
    use crate::net::{SharedStream, SocketStream};

    /// A connection over a stream instead of memory.
    fn over(stream: UnixStream) -> InMemoryConnection {
        let mut in_memory = Connection::in_memory("");
        let connection = in_memory.as_mut();
        let address = connection.peer_addr().clone();
        let stream = SharedStream::new(Box::new(SocketStream::from(stream)), address);
        connection.stream = Arc::new(stream);
        in_memory
    }

    #[test]
    fn a_timeout_of_zero_counts_as_one_millisecond() {
        const ONE: Duration = Duration::from_millis(1);
        let (stream, mut peer) = UnixStream::pair().unwrap();
        let mut in_memory = over(stream);
        let connection = in_memory.as_mut();
        let mut buffer = Vec::new();

        connection.set_read_timeout(Duration::ZERO);
        let error = connection.read_line(&mut buffer).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { limit: ONE })));
        connection.set_idle_timeout(Duration::ZERO);
        let error = connection.read_line(&mut buffer).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::IdleTimeout { limit: ONE })));
        connection.set_read_timeout(None);
        connection.set_message_timeout(Duration::ZERO);
        peer.write_all(b"part of a line").unwrap();
        let error = connection.read_line(&mut buffer).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::MessageTimeout { limit: ONE })));
        connection.set_write_timeout(Duration::ZERO);
        let error = connection.write_all(&vec![0; 16 * 1024 * 1024]).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::WriteTimeout { limit: ONE })));
    }

    #[test]
    fn the_longest_timeout_is_no_error() {
        let (stream, mut peer) = UnixStream::pair().unwrap();
        let mut in_memory = over(stream);
        let connection = in_memory.as_mut();
        connection.set_read_timeout(Duration::MAX);
        connection.set_message_timeout(Duration::MAX);
        connection.set_write_timeout(Duration::MAX);
        peer.write_all(b"part, ").unwrap();
        let mut line = String::new();
        connection.with_message_timeout(|connection| {
            connection.fill_buf().unwrap();
            peer.write_all(b"rest\n").unwrap();
            connection.read_line(&mut line).unwrap();
        });
        assert_eq!(line, "part, rest\n");
        connection.write_all(b"answer").unwrap();
        connection.flush().unwrap();
    }

    #[test]
    fn a_connection_whose_stream_refuses_a_timeout_is_closed() {
        let no_socket = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut in_memory = over(UnixStream::from(no_socket));
        let connection = in_memory.as_mut();
        connection.set_read_timeout(Duration::from_secs(1));
        assert_eq!(connection.shared_stream().close_reason(), Some(CloseReason::Failed));
    }
}
