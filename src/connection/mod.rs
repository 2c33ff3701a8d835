//! What a stream handler is given: [`Connection`].

mod close;
mod in_memory;
mod input;
mod line;

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::control::Control;
use crate::handle::ServerHandle;
use crate::stream::Link;
use input::Input;

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
    link: Arc<Link>,
    server: ServerHandle,
    input: Input,
    output: Vec<u8>,
    max_line_length: usize,
    /// After a failed write nothing more is sent: the peer would see a gap.
    broken: bool,
}

impl Connection {
    pub(crate) fn new(id: u64, link: Arc<Link>, control: Arc<Control>) -> Connection {
        Connection {
            id,
            link,
            input: Input::default(),
            output: Vec::new(),
            max_line_length: control.settings.max_line_length,
            server: ServerHandle::new(control),
            broken: false,
        }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// This connection's number, the first one being 1; no other connection of this server ever
    /// has it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> &Address {
        self.link.peer()
    }

    /// This end's address: the one that the client connected to.
    ///
    /// # Errors
    /// When the connection is broken, on some systems.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.link.stream().local_addr()
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

    /// How long a read waits for the peer before it fails with `TimedOut`; `None`: for ever. The
    /// server's [`read_timeout`](crate::Builder::read_timeout) to begin with.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.link.set_read_timeout(not_zero(timeout)?)
    }

    /// How long a write waits for the peer to take something before it fails with `TimedOut`;
    /// `None`: for ever. The server's [`write_timeout`](crate::Builder::write_timeout) to begin
    /// with.
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.link.set_write_timeout(not_zero(timeout)?)
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
        self.link.shutdown(how)
    }

    fn send(&mut self, more: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.link.write_all([&self.output, more]);
        self.broken = sent.is_err();
        self.output.clear();
        sent
    }

    /// Reads more from the peer, having sent what it may be waiting for.
    fn fill(&mut self) -> io::Result<()> {
        self.flush()?;
        let link = &self.link;
        self.input.fill(|buffer| link.read(buffer))
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
        if self.input.is_empty() && buffer.len() >= input::SMALLEST {
            // No need for a buffer between.
            self.flush()?;
            let length = self.link.read(buffer)?;
            self.input.note_end(length == 0);
            return Ok(length);
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
            self.output.extend_from_slice(bytes);
        } else {
            self.send(bytes)?;
        }
        Ok(bytes.len())
    }

    /// Sends what was written.
    fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() { Ok(()) } else { self.send(&[]) }
    }
}

/// What is written is sent when it would come to more than this many bytes.
const OUTPUT_CAPACITY: usize = 16 * 1024;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("peer_addr", self.peer_addr())
            .finish_non_exhaustive()
    }
}
