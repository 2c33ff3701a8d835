//! What a stream handler is given: [`Connection`].

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
use crate::net::{IoTimeout, SharedStream};
use crate::state::ServerHandle;
use crate::state::ServerState;
use buffer::InputBuffer;
use buffer_cache::BufferCache;
use timeouts::{Timeouts, name_timeout};

pub use in_memory::InMemoryConnection;
pub use line::Line;

/// One client's connection, over whichever stream transport: read requests from it, write answers
/// to it.
///
/// Reads and writes are buffered, and tied as C++ ties `cin` to `cout`: what was written is sent
/// when a read has to ask the system for more, when there is enough of it, and at the end. So a
/// handler never forgets a flush, an answer costs one system call, and the answers to requests
/// that came together leave together. [`flush`](Write::flush) is there for what cannot wait.
///
/// Reading a line is bounded ([`read_line`](Connection::read_line)), writing has a timeout, and a
/// connection can be [made in memory](Connection::in_memory) to test a handler with.
pub struct Connection {
    id: u64,
    stream: Arc<SharedStream>,
    server: ServerHandle,
    input: InputBuffer,
    output: Vec<u8>,
    max_line_length: usize,
    timeouts: Timeouts,
    /// How much is left to be read of what was received before a stop; `None` while there is none.
    drain_remaining: Option<usize>,
    /// How reading or writing has ended, for all that is known so far.
    end_reason: Option<CloseReason>,
    /// Whether that is so for good: a write has failed, or the peer is gone.
    is_broken: bool,
    /// Since `handle` is over: how it ended.
    close_reason: Option<CloseReason>,
}

impl Connection {
    pub(crate) fn new(id: u64, stream: Arc<SharedStream>, state: Arc<ServerState>) -> Connection {
        Connection {
            id,
            stream,
            input: InputBuffer::default(),
            output: Vec::new(),
            max_line_length: state.settings.max_line_length,
            timeouts: Timeouts::new(&state.settings),
            drain_remaining: None,
            end_reason: None,
            is_broken: false,
            close_reason: None,
            server: ServerHandle::new(state),
        }
    }

    pub(crate) fn shared_stream(&self) -> &Arc<SharedStream> {
        &self.stream
    }

    /// This connection's number, the first one being 1; no other connection of this server ever
    /// has it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> &Address {
        self.stream.peer()
    }

    /// The number of the user that a client on a Unix socket ran as when it connected; `None` for
    /// other clients.
    ///
    /// # Errors
    /// What the system says; nothing, for a socket that is one.
    pub fn peer_uid(&self) -> io::Result<Option<u32>> {
        self.stream.inner().peer_uid()
    }

    /// This end's address: the one that the client connected to.
    ///
    /// # Errors
    /// When the connection is broken, on some systems.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.stream.inner().local_addr()
    }

    /// The server that this connection came in through.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// Whether the server was asked to stop. A handler that waits for its client need not ask: it
    /// reads end-of-file. One that is busy for long may want to say goodbye.
    pub fn is_stopping(&self) -> bool {
        self.server.is_stopping()
    }

    /// Reads a line, its end (`\n`) included, and appends it to a `String` or a `Vec<u8>`; returns
    /// its length, 0 at the end of the input. A last line may lack its end.
    ///
    /// [`BufRead::read_line`], [`BufRead::lines`] and [`BufRead::read_until`] are bounded in the
    /// same way.
    ///
    /// # Errors
    /// `InvalidData` with [`Error::LineTooLong`](crate::Error::LineTooLong) when the line, its end
    /// included, is longer than [`max_line_length`](crate::Builder::max_line_length); what was read
    /// of it is gone, and the rest is still to come, so that the connection is best closed.
    /// `InvalidData` for a `String` and a line that is not UTF-8. `TimedOut` after the read
    /// timeout.
    ///
    /// ```
    /// use socketserver::Connection;
    ///
    /// let mut connection = Connection::in_memory("ada\nbyron");
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

    /// How long a line may be, in bytes, its end included; the server's
    /// [`max_line_length`](crate::Builder::max_line_length) to begin with.
    pub fn set_max_line_length(&mut self, limit: usize) {
        self.max_line_length = limit;
    }

    /// Reads a message behind its length, in the place of what `message` holds; `false` when the
    /// input ended before its first byte. It is [`LengthPrefixed::read`], bounded in time as a line
    /// is.
    ///
    /// # Errors
    /// Those of [`LengthPrefixed::read`]. `TimedOut` as for
    /// [`read_line`](Connection::read_line).
    pub fn read_message(
        &mut self,
        frames: &LengthPrefixed,
        message: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.with_message_timeout(|connection| {
            let read = frames.read(connection, message);
            connection.record_failure(read)
        })
    }

    /// Whatever `read` reads is one message: its first byte may take
    /// [`idle_timeout`](crate::Builder::idle_timeout) to come, and all of it must have come by the
    /// [`message_timeout`](crate::Builder::message_timeout) after that, and at the
    /// [`min_rate`](crate::Builder::min_rate).
    ///
    /// A line ([`read_line`](Connection::read_line)) and a
    /// [`read_message`](Connection::read_message) are one message by themselves; this is for what
    /// has several parts, such as the head of an HTTP request:
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
    /// assert_eq!(read_head(&mut connection)?.len(), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn with_message_timeout<R>(&mut self, read: impl FnOnce(&mut Connection) -> R) -> R {
        self.timeouts.begin_message(self.input.available().len());
        let result = read(self);
        self.timeouts.end_message();
        result
    }

    /// How long a read waits for the peer before it fails with `TimedOut`
    /// ([`Error::IdleTimeout`](crate::Error::IdleTimeout)); `None`: for ever. The server's
    /// [`read_timeout`](crate::Builder::read_timeout) to begin with.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.read = not_zero(timeout)?;
        self.stream.inner().set_read_timeout(self.timeouts.socket_timeout())
    }

    /// How long the peer may be silent between messages before a read fails with `TimedOut`
    /// ([`Error::IdleTimeout`](crate::Error::IdleTimeout)); `None`: as long as the read timeout
    /// says. The server's [`idle_timeout`](crate::Builder::idle_timeout) to begin with.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.idle = not_zero(timeout)?;
        self.stream.inner().set_read_timeout(self.timeouts.socket_timeout())
    }

    /// How long a message that has begun may take to be whole before the read fails with
    /// `TimedOut` ([`Error::MessageTimeout`](crate::Error::MessageTimeout)), however its bytes come; `None`:
    /// for ever. The server's [`message_timeout`](crate::Builder::message_timeout) to begin with.
    pub fn set_message_timeout(&mut self, deadline: Option<Duration>) {
        self.timeouts.message = deadline;
    }

    /// How fast a message must come once it has begun, and what is written be taken, before a read
    /// or a write fails with `TimedOut` ([`Error::TooSlow`](crate::Error::TooSlow)); `None`: at any
    /// rate. The server's [`min_rate`](crate::Builder::min_rate) to begin with.
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
    /// send_file(&mut connection, b"all of it")?;
    /// assert_eq!(connection.output(), b"all of it");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_min_rate(&mut self, rate: Option<MinRate>) {
        self.timeouts.rate = rate;
    }

    /// How long a write waits for the peer to take something before it fails with `TimedOut`
    /// ([`Error::WriteTimeout`](crate::Error::WriteTimeout)); `None`: for ever. The server's
    /// [`write_timeout`](crate::Builder::write_timeout) to begin with.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.write = not_zero(timeout)?;
        self.stream.inner().set_write_timeout(self.timeouts.write)
    }

    /// Ends one direction, or both. What was written is sent first, unless reading alone ends.
    ///
    /// Ending the writes tells the client that no more will come, and still reads what it has to
    /// say.
    ///
    /// # Errors
    /// When what was written cannot be sent, or the connection is broken.
    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.flush()?;
        }
        self.stream.shutdown(how)
    }

    fn send(&mut self, more: &[u8]) -> io::Result<()> {
        self.check_shutdown();
        let (mut begun, mut so_far) = (None, 0);
        let timeouts = &self.timeouts;
        let sent = self.stream.write_all([&self.output, more], |written| {
            so_far = written;
            timeouts.for_write(&mut begun, written)
        });
        let sent =
            sent.map_err(|error| name_timeout(error, || timeouts.write_error(begun, so_far)));
        self.is_broken |= sent.is_err();
        self.output.clear();
        self.record_failure(sent)
    }

    /// Reads from the peer, having sent what it may be waiting for.
    fn receive(
        &mut self,
        read: impl FnOnce(&mut InputBuffer, InputSource<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.flush()?;
        if self.stream.needs_poll() {
            // Whoever waits holds no buffer meanwhile.
            OUTPUT_CACHE.with(|spare| spare.put(&mut self.output));
        }
        let timeout = self.timeouts.for_read();
        let (timeout, most) = (self.record_failure(timeout)?, self.receive_limit()?);
        match read(&mut self.input, InputSource { stream: &self.stream, timeout, most }) {
            Ok(0) => {
                self.record_success(Some(self.closed_by_server().unwrap_or(CloseReason::Eof)));
                Ok(0)
            }
            Ok(length) => {
                self.timeouts.add_received(length);
                self.drain_remaining =
                    self.drain_remaining.map(|drain_remaining| drain_remaining - length);
                self.record_success(None);
                Ok(length)
            }
            Err(error) => {
                self.record_failure(Err(name_timeout(error, || self.timeouts.read_error())))
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.receive(|input, source| {
            loop {
                if source.stream.needs_poll() {
                    // Nor this one.
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

/// Where the next bytes come from: how long to wait for them, and how many may come.
struct InputSource<'a> {
    stream: &'a SharedStream,
    timeout: IoTimeout,
    most: usize,
}

impl InputSource<'_> {
    fn wait(&self) -> io::Result<()> {
        if self.most == 0 { Ok(()) } else { self.stream.wait_for_input(self.timeout) }
    }

    fn read_input(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match buffer.len().min(self.most) {
            0 => Ok(Some(0)),
            length => self.stream.read_input(&mut buffer[..length], self.timeout),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match buffer.len().min(self.most) {
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
            // No need for a buffer between.
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

    fn read_until(&mut self, end: u8, line: &mut Vec<u8>) -> io::Result<usize> {
        line::read_until(self, end, line)
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
        // It takes all of them.
        self.write(bytes).map(drop)
    }

    /// Sends what was written.
    fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() { Ok(()) } else { self.send(&[]) }
    }
}

thread_local! {
    static OUTPUT_CACHE: BufferCache = const { BufferCache::new() };
}

/// Makes what a thread keeps from one connection for the next, which its first connection would do
/// otherwise: the C library looks through all others to do that, and a forking server has it done
/// once, instead of in each child.
pub(crate) fn prepare_thread() {
    OUTPUT_CACHE.with(|_| {});
    buffer::prepare_thread();
}

/// What is written is sent when it would come to more than this many bytes.
const OUTPUT_CAPACITY: usize = 8 * 1024;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer_addr", self.peer_addr())
            .finish_non_exhaustive()
    }
}
