//! A connection without a socket, for testing handlers.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Connection;
use crate::address::Address;
use crate::config::Settings;
use crate::net::{SharedStream, Stream};
use crate::state::ServerState;

/// A [`Connection`] without a socket: its input is given, its output can be inspected.
///
/// [`as_mut`](AsMut::as_mut) is the `Connection` for a handler. See [`Connection::in_memory`].
#[derive(Debug)]
pub struct InMemoryConnection {
    connection: Connection,
    memory: Arc<Memory>,
}

impl Connection {
    /// A connection without a socket, for testing handlers: it reads `input`, then EOF.
    ///
    /// ```
    /// use std::io::{BufRead, Write};
    /// use socketserver::{Connection, HandlerResult, StreamRequestHandler};
    ///
    /// struct Shout;
    ///
    /// impl StreamRequestHandler for Shout {
    ///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
    ///         let mut line = String::new();
    ///         connection.read_line(&mut line)?;
    ///         connection.write_all(line.to_uppercase().as_bytes())?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut connection = Connection::in_memory("hello\n");
    /// Shout.handle(connection.as_mut()).unwrap();
    /// assert_eq!(connection.output(), b"HELLO\n");
    /// ```
    ///
    /// # Panics
    /// When the process has no file descriptors left.
    pub fn in_memory(input: impl Into<Vec<u8>>) -> InMemoryConnection {
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let memory = Arc::new(Memory {
            input: Mutex::new(io::Cursor::new(input.into())),
            output: Mutex::default(),
            address: address.clone(),
        });
        let stream = SharedStream::new(Box::new(memory.clone()), address.clone());
        let state = ServerState::new(Settings::default(), address).expect("a pipe and an eventfd");
        let connection = Connection::new(state.new_id(), Arc::new(stream), Arc::new(state));
        InMemoryConnection { connection, memory }
    }
}

impl InMemoryConnection {
    /// Sets the address of the peer.
    #[must_use]
    pub fn with_peer(mut self, peer: Address) -> InMemoryConnection {
        // A broadcast may share the old one, so its address cannot be changed.
        let stream = SharedStream::new(Box::new(self.memory.clone()), peer);
        self.connection.stream = Arc::new(stream);
        self
    }

    /// All output so far.
    ///
    /// # Panics
    /// When something was written after the write side was shut.
    pub fn output(&mut self) -> Vec<u8> {
        self.connection.flush().expect("writing to memory");
        self.memory.output.lock().bytes.clone()
    }
}

impl AsRef<Connection> for InMemoryConnection {
    fn as_ref(&self) -> &Connection {
        &self.connection
    }
}

impl AsMut<Connection> for InMemoryConnection {
    fn as_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

struct Memory {
    input: Mutex<io::Cursor<Vec<u8>>>,
    output: Mutex<Output>,
    address: Address,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    closed: bool,
}

impl Stream for Arc<Memory> {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.lock().read(buffer)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut output = self.output.lock();
        if output.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        output.bytes.write_vectored(pieces)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer)
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(pieces)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            let mut input = self.input.lock();
            let end = input.get_ref().len() as u64;
            input.set_position(end);
        }
        if how != Shutdown::Read {
            self.output.lock().closed = true;
        }
        Ok(())
    }

    fn set_read_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.address.clone())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn another_peer_changes_nothing_else() {
        let mut connection = Connection::in_memory("first\nsecond\nmuch too long\n");
        connection.as_mut().set_max_line_length(8);
        let id = connection.as_ref().id();
        let mut line = String::new();
        connection.as_mut().read_line(&mut line).unwrap();
        connection.as_mut().write_all(b"sent.").unwrap();
        connection.as_mut().flush().unwrap();
        connection.as_mut().write_all(b"buffered.").unwrap();

        let peer = Address::Tcp(SocketAddr::from(([192, 0, 2, 1], 7)));
        let mut connection = connection.with_peer(peer.clone());
        assert_eq!((connection.as_ref().peer_addr(), connection.as_ref().id()), (&peer, id));
        connection.as_mut().read_line(&mut line).unwrap();
        assert_eq!(line, "first\nsecond\n");
        connection.as_mut().write_all(b"more.").unwrap();
        assert_eq!(connection.output(), b"sent.buffered.more.");
        let error = connection.as_mut().read_line(&mut line).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: 8 })));
    }
}
