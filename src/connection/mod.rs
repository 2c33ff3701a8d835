//! A client's connection as its handler uses it: [`Connection`].

mod buffer;
mod buffer_cache;
mod close;
mod in_memory;
mod line;
mod outcome;
mod timeouts;

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::config::MinRate;
use crate::framing::LengthPrefixed;
use crate::id::ConnectionId;
use crate::net::{IoTimeout, SharedStream, WriteProgress, WriteTotal};
use crate::state::ServerHandle;
use crate::state::ServerState;
use buffer::InputBuffer;
use buffer_cache::BufferCache;
use timeouts::{Limit, Timeouts};

pub use in_memory::InMemoryConnection;
pub use line::Line;

/// A client's connection, over any stream transport: a handler reads requests from it and writes
/// answers to it.
///
/// Reads and writes are buffered. The output buffer is tied to the input, as C++ ties `cout` to
/// `cin`: it is sent before a read that needs the system, when it is full, and when the handler
/// returns. So a handler need not flush, an answer costs one system call, and the answers to
/// pipelined requests are sent together. [`flush`](Write::flush) sends it earlier.
///
/// A client that has sent something may be sending still when the handler returns, and what arrives
/// at a closed socket resets the connection, which may destroy the last answer. So the connection
/// then ends its output, and is closed when the client ends its own, or after a second.
///
/// Lines have a maximal length ([`read_line`](Connection::read_line)) and writes a timeout. To test
/// a handler, make a connection [in memory](Connection::in_memory).
pub struct Connection {
    id: ConnectionId,
    stream: Arc<SharedStream>,
    server: ServerHandle,
    input: InputBuffer,
    output: Vec<u8>,
    written: WriteTotal,
    max_line_length: usize,
    timeouts: Timeouts,
    /// During a stop: how many of the bytes received before it are not read yet.
    drain_remaining: Option<usize>,
    /// Something was read from the stream.
    has_received: bool,
    /// The close reason that the last read or write implies, if any.
    io_close_reason: Option<CloseReason>,
    /// A write has failed or the connection was reset: `io_close_reason` is final.
    is_broken: bool,
    /// `None` until `handle` has returned.
    close_reason: Option<CloseReason>,
}

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        stream: Arc<SharedStream>,
        state: Arc<ServerState>,
    ) -> Connection {
        Connection {
            id,
            stream,
            input: InputBuffer::default(),
            output: Vec::new(),
            written: WriteTotal::default(),
            max_line_length: state.settings.max_line_length,
            timeouts: Timeouts::new(&state.settings),
            drain_remaining: None,
            has_received: false,
            io_close_reason: None,
            is_broken: false,
            close_reason: None,
            server: ServerHandle::new(state),
        }
    }

    pub(crate) fn shared_stream(&self) -> &Arc<SharedStream> {
        &self.stream
    }

    /// The connection's number, unique within its server.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The client's address.
    pub fn peer_addr(&self) -> &Address {
        self.stream.peer()
    }

    /// The user ID that the client's process had when it connected (`SO_PEERCRED`); `None` if the
    /// connection is not a Unix socket.
    ///
    /// # Errors
    /// Those of getsockopt(2), which does not fail for a connected socket.
    pub fn peer_uid(&self) -> io::Result<Option<u32>> {
        self.stream.inner().peer_uid()
    }

    /// The local address: the one that the client connected to.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<Address> {
        self.stream.inner().local_addr()
    }

    /// The server that accepted this connection.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// Whether the server is stopping. A handler that reads need not ask: it reads EOF. One that
    /// computes or writes for long can use this to end early.
    pub fn is_stopping(&self) -> bool {
        self.server.is_stopping()
    }

    /// Reads a line with its `\n` and appends it to a `String` or a `Vec<u8>`. Returns its length:
    /// 0 at EOF. The last line before EOF may lack its `\n`.
    ///
    /// [`BufRead::read_line`], [`BufRead::lines`] and [`BufRead::read_until`] have the same limit.
    ///
    /// # Errors
    /// `InvalidData` with [`Error::LineTooLong`](crate::Error::LineTooLong) when the line with its
    /// `\n` is longer than [`max_line_length`](crate::Builder::max_line_length). The part that was
    /// read is discarded and the rest is not read, so the handler should close the connection.
    /// `InvalidData` when `line` is a `String` and the line is not UTF-8. `TimedOut` when a timeout
    /// has expired.
    ///
    /// ```
    /// use socketserver::Connection;
    ///
    /// let mut connection = Connection::in_memory("ada\nbyron");
    /// let connection = connection.as_mut();
    /// let mut line = String::new();
    /// assert_eq!(connection.read_line(&mut line)?, 4);
    /// assert_eq!(connection.read_line(&mut line)?, 5);
    /// assert_eq!(connection.read_line(&mut line)?, 0);
    /// assert_eq!(line, "ada\nbyron");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_line<L: Line + ?Sized>(&mut self, line: &mut L) -> io::Result<usize> {
        line.append_from(self)
    }

    /// The maximal length of a line in bytes, `\n` included. By default the server's
    /// [`max_line_length`](crate::Builder::max_line_length).
    pub fn set_max_line_length(&mut self, limit: usize) {
        self.max_line_length = limit;
    }

    /// Reads a length-prefixed message into `message`, replacing its contents. Returns `false` at
    /// EOF before the first byte. This is [`LengthPrefixed::read`] with the timeouts of a message.
    ///
    /// # Errors
    /// Those of [`LengthPrefixed::read`]. `TimedOut` when a timeout has expired.
    pub fn read_message(
        &mut self,
        frames: &LengthPrefixed,
        message: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.with_message_timeout(|connection| {
            let read = frames.read(&mut *connection, message);
            connection.record_failure(read)
        })
    }

    /// Writes a length-prefixed message: [`LengthPrefixed::write`].
    ///
    /// ```
    /// use socketserver::Connection;
    /// use socketserver::framing::{LengthPrefixed, Prefix};
    ///
    /// let frames = LengthPrefixed::new(Prefix::U16);
    /// let mut in_memory = Connection::in_memory(b"\0\x02hi\0\0");
    /// let connection = in_memory.as_mut();
    /// let mut message = Vec::new();
    /// while connection.read_message(&frames, &mut message)? {
    ///     connection.write_message(&frames, &message)?;
    /// }
    /// assert_eq!(in_memory.output(), b"\0\x02hi\0\0");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`LengthPrefixed::write`]. `TimedOut` when a timeout has expired.
    pub fn write_message(&mut self, frames: &LengthPrefixed, message: &[u8]) -> io::Result<()> {
        frames.write(self, message)
    }

    /// Runs `read`, whose reads count as one message. The first byte must arrive within the
    /// [`idle_timeout`](crate::Builder::idle_timeout), and the rest within the
    /// [`message_timeout`](crate::Builder::message_timeout) after that and at the
    /// [`min_rate`](crate::Builder::min_rate).
    ///
    /// [`read_line`](Connection::read_line) and [`read_message`](Connection::read_message) do this
    /// for their one line or message. It is for a message of several parts, such as the head of an
    /// HTTP request:
    ///
    /// ```
    /// use socketserver::Connection;
    ///
    /// fn read_head(connection: &mut Connection) -> std::io::Result<Vec<String>> {
    ///     connection.with_message_timeout(|connection| {
    ///         let mut head = Vec::new();
    ///         loop {
    ///             let mut line = String::new();
    ///             if connection.read_line(&mut line)? <= 2 {
    ///                 return Ok(head);
    ///             }
    ///             head.push(line);
    ///         }
    ///     })
    /// }
    ///
    /// let mut connection = Connection::in_memory("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    /// assert_eq!(read_head(connection.as_mut())?.len(), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_message_timeout<R>(&mut self, read: impl FnOnce(&mut Connection) -> R) -> R {
        self.timeouts.begin_message(self.input.available().len());
        let result = read(self);
        self.timeouts.end_message();
        result
    }

    /// How long a read waits for input before it fails with `TimedOut`
    /// ([`Error::ReadTimeout`](crate::Error::ReadTimeout)); `None`: no limit. By default the
    /// server's [`read_timeout`](crate::Builder::read_timeout).
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.read = not_zero(timeout)?;
        self.stream.inner().set_read_timeout(self.timeouts.socket_timeout())
    }

    /// How long a read waits for the first byte of a message before it fails with `TimedOut`
    /// ([`Error::IdleTimeout`](crate::Error::IdleTimeout)); `None`: the read timeout applies. By
    /// default the server's [`idle_timeout`](crate::Builder::idle_timeout).
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.idle = not_zero(timeout)?;
        self.stream.inner().set_read_timeout(self.timeouts.socket_timeout())
    }

    /// How long a message may take from its first bytes to its end before a read of it fails with
    /// `TimedOut` ([`Error::MessageTimeout`](crate::Error::MessageTimeout)); `None`: no limit. By
    /// default the server's [`message_timeout`](crate::Builder::message_timeout).
    pub fn set_message_timeout(&mut self, timeout: Option<Duration>) {
        self.timeouts.message = timeout;
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
    ///     connection.set_min_rate(Some(MinRate { bytes_per_second: 1000, grace }));
    ///     connection.write_all(file)
    /// }
    ///
    /// let mut connection = Connection::in_memory("");
    /// send_file(connection.as_mut(), b"all of it")?;
    /// assert_eq!(connection.output(), b"all of it");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_min_rate(&mut self, rate: Option<MinRate>) {
        self.timeouts.rate = rate;
    }

    /// How long a write waits for the client to acknowledge some bytes before it fails with
    /// `TimedOut` ([`Error::WriteTimeout`](crate::Error::WriteTimeout)); `None`: no limit. By default
    /// the server's [`write_timeout`](crate::Builder::write_timeout).
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.write = not_zero(timeout)?;
        self.stream.inner().set_write_timeout(self.timeouts.write.map(WriteProgress::slice))
    }

    /// Shuts the read side, the write side or both. Buffered output is sent before the write side
    /// is shut.
    ///
    /// With the write side shut the client reads EOF, and its input can still be read.
    ///
    /// # Errors
    /// When the output cannot be sent, or the connection is broken.
    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.flush()?;
        }
        self.stream.shutdown(how)
    }

    fn send(&mut self, more: &[u8]) -> io::Result<()> {
        self.check_shutdown();
        let mut progress =
            WriteProgress::new(self.timeouts.write, self.timeouts.rate, self.written);
        let sent = self.stream.write_all([&self.output, more], &mut progress);
        self.written = progress.total();
        let sent = sent.map_err(|error| {
            let limit = if progress.exceeds_rate() { Limit::Rate } else { Limit::Write };
            self.timeouts.name_timeout(error, limit)
        });
        self.is_broken |= sent.is_err();
        self.output.clear();
        self.record_failure(sent)
    }

    /// Sends the output, then reads from the stream by `read`.
    fn receive(
        &mut self,
        read: impl FnOnce(&mut InputBuffer, InputSource<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.flush()?;
        if self.stream.needs_poll() {
            // A connection that waits holds no output buffer.
            OUTPUT_CACHE.with(|cache| cache.put(&mut self.output));
        }
        let timeout = self.timeouts.for_read(self.stream.inner());
        let (timeout, limit) = self.record_failure(timeout)?;
        let max_length = self.receive_limit()?;
        match read(&mut self.input, InputSource { stream: &self.stream, timeout, max_length }) {
            Ok(0) => {
                self.record_success(Some(self.closed_by_server().unwrap_or(CloseReason::Eof)));
                Ok(0)
            }
            Ok(length) => {
                self.has_received = true;
                self.timeouts.add_received(length);
                self.drain_remaining = self.drain_remaining.map(|remaining| remaining - length);
                self.record_success(None);
                Ok(length)
            }
            Err(error) => self.record_failure(Err(self.timeouts.name_timeout(error, limit))),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.receive(|input, source| {
            loop {
                if source.stream.needs_poll() {
                    // Nor an input buffer.
                    input.release();
                    source.wait()?;
                }
                if let Some(length) = input.fill(|buffer| source.read_input(buffer))? {
                    return Ok(length);
                }
            }
        })
    }
}

/// The stream, with the limits of the next read.
struct InputSource<'a> {
    stream: &'a SharedStream,
    timeout: IoTimeout,
    /// With 0 the read returns EOF.
    max_length: usize,
}

impl InputSource<'_> {
    fn wait(&self) -> io::Result<()> {
        if self.max_length == 0 { Ok(()) } else { self.stream.wait_for_input(self.timeout) }
    }

    fn read_input(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match buffer.len().min(self.max_length) {
            0 => Ok(Some(0)),
            length => self.stream.read_input(&mut buffer[..length], self.timeout),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match buffer.len().min(self.max_length) {
            0 => Ok(0),
            length => self.stream.read(&mut buffer[..length], self.timeout),
        }
    }
}

fn not_zero(timeout: Option<Duration>) -> io::Result<Option<Duration>> {
    match timeout {
        Some(Duration::ZERO) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a timeout of zero; None is no timeout",
        )),
        timeout => Ok(timeout),
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && buffer.len() >= buffer::MIN_BUFFER {
            // Bypasses the input buffer.
            return self.receive(|_, source| source.read(buffer));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut available = self.fill_buf()?;
        let length = available.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Connection {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.is_empty() {
            self.fill()?;
        }
        Ok(self.input.available())
    }

    fn consume(&mut self, length: usize) {
        self.input.consume(length);
    }

    fn read_until(&mut self, delimiter: u8, line: &mut Vec<u8>) -> io::Result<usize> {
        line::read_until(self, delimiter, line)
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        Connection::read_line(self, line)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.output.len() + bytes.len() <= OUTPUT_CAPACITY {
            if self.output.capacity() == 0 {
                self.output = OUTPUT_CACHE.with(BufferCache::take);
            }
            self.output.extend_from_slice(bytes);
        } else {
            self.send(bytes)?;
        }
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // `write` takes all bytes or fails.
        self.write(bytes).map(drop)
    }

    /// Sends the output buffer.
    fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() { Ok(()) } else { self.send(&[]) }
    }
}

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

/// The output is sent before it gets longer than this.
const OUTPUT_CAPACITY: usize = 8 * 1024;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer_addr", self.peer_addr())
            .finish_non_exhaustive()
    }
}
