//! A client's connection as its handler uses it: [`Connection`].

mod buffer;
mod buffer_cache;
mod buffered_io;
mod close;
mod descriptors;
mod in_memory;
mod input;
mod line;
mod link;
mod outcome;
mod output;
mod proxied;
mod scope;
mod select;
mod sender;
mod split;
mod timeouts;
mod upstream;
mod within;

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::Arc;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::framing::LengthPrefixed;
use crate::id::ConnectionId;
use crate::net::{PeerCredentials, SharedStream};
use crate::state::{ListenerInfo, ServerHandle, ServerState};
use input::Input;
use output::Output;
use upstream::Upstream;

pub use in_memory::InMemoryConnection;
pub use line::Line;
pub(crate) use output::prepare_thread;
pub use sender::Sender;
pub use split::{Reader, Writer};
pub use upstream::{ConnectOptions, RelayEnd, Relayed};

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
/// A handler may [`connect`](Connection::connect) to other servers. Those upstreams are `Connection`s
/// too, and belong to the request. Other threads send to a connection by its
/// [`sender`](Connection::sender); two threads share one by its [halves](Connection::split).
///
/// Lines have a maximal length ([`read_line`](Connection::read_line)) and writes a timeout. To test
/// a handler, make a connection [in memory](Connection::in_memory).
pub struct Connection {
    id: ConnectionId,
    stream: Arc<SharedStream>,
    listener: Arc<ListenerInfo>,
    server: ServerHandle,
    input: Input,
    output: Output,
    /// `None` until `handle` has returned.
    close_reason: Option<CloseReason>,
    /// `None` for the connection of a client.
    upstream: Option<Upstream>,
}

impl Connection {
    pub(crate) fn new(
        id: ConnectionId,
        stream: Arc<SharedStream>,
        listener: Arc<ListenerInfo>,
        state: Arc<ServerState>,
    ) -> Connection {
        Connection {
            id,
            stream,
            listener,
            input: Input::new(&state.settings),
            output: Output::new(&state.settings),
            close_reason: None,
            upstream: None,
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

    /// The client's address; behind a [proxy](crate::Builder::proxy_protocol), the one that this says.
    pub fn peer_addr(&self) -> &Address {
        self.stream.peer()
    }

    /// The client's process, or that of a proxy before it, with its user and group when it connected
    /// (`SO_PEERCRED`); `None` if the connection is not a Unix socket.
    ///
    /// # Errors
    /// Those of getsockopt(2), which does not fail for a connected socket.
    pub fn peer_credentials(&self) -> io::Result<Option<PeerCredentials>> {
        self.stream.inner().peer_credentials()
    }

    /// What the TLS of this connection has agreed on with the peer; `None` without TLS.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<crate::TlsInfo> {
        crate::tls::of(&self.stream)?.info()
    }

    /// The local address: the one that the client, or a proxy before it, connected to. The address that
    /// a client behind a proxy connected to is the
    /// [destination](crate::ProxyHeader::destination) in its header.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<Address> {
        self.stream.inner().local_addr()
    }

    /// The listener of the server that accepted this connection: which of several addresses, also
    /// where a client has reached it by another one. For an upstream, that of its client.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use socketserver::{Builder, Connection, ThreadingTcpServer};
    ///
    /// let greet = |connection: &mut Connection| {
    ///     let is_local = connection.listener().local_addr.path().is_some();
    ///     writeln!(connection, "{}", if is_local { "hello, operator" } else { "hello" })?;
    ///     Ok(())
    /// };
    /// ThreadingTcpServer::builder()
    ///     .also("unix:/run/greeter.sock")
    ///     .bind("0.0.0.0:2525", greet)?
    ///     .serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn listener(&self) -> &ListenerInfo {
        &self.listener
    }

    pub(crate) fn shared_listener(&self) -> &Arc<ListenerInfo> {
        &self.listener
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
    /// The `read_line`, `lines` and `read_until` of [`BufRead`](io::BufRead) have the same limit.
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
        line.append_from(&mut self.input())
    }

    /// The maximal length of a line in bytes, `\n` included; zero counts as one. By default the
    /// server's [`max_line_length`](crate::Builder::max_line_length).
    pub fn set_max_line_length(&mut self, bytes: usize) {
        self.input.max_line_length = bytes.max(1);
    }

    /// Fails as [`read_line`](Connection::read_line) does if a line of this length is too long: for a
    /// handler that reads lines by itself, in another format. It counts as a failed read, and so the
    /// connection's [`close_reason`](Connection::close_reason) is [`CloseReason::Limit`] even if the
    /// handler returns no error.
    ///
    /// # Errors
    /// `InvalidData` with [`Error::LineTooLong`](crate::Error::LineTooLong).
    pub fn check_line_length(&mut self, bytes: usize) -> io::Result<()> {
        let limit = self.input.max_line_length;
        if bytes <= limit {
            return Ok(());
        }
        self.input().record_failure(Err(Error::LineTooLong { limit }.into()))
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
            connection.input().record_failure(read)
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
        self.input.begin_message();
        let result = read(self);
        self.input.timeouts.end_message();
        result
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
            self.end_output()?;
        }
        self.stream.shutdown(how)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close_senders();
        self.close_upstream();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer_addr", self.peer_addr())
            .finish_non_exhaustive()
    }
}
