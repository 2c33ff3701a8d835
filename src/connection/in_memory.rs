//! A connection without a socket, for testing handlers.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Connection;
use crate::address::Address;
use crate::config::Settings;
use crate::net::SharedStream;
use crate::net::Stream;
use crate::state::ServerState;

/// A [`Connection`] without a socket: its input is given, its output can be inspected.
///
/// It dereferences to `Connection`, so that a handler takes `&mut connection`.
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
    /// Shout.handle(&mut connection).unwrap();
    /// assert_eq!(connection.output(), b"HELLO\n");
    /// ```
    ///
    /// # Panics
    /// When the process has no file descriptors left.
    pub fn in_memory(input: impl Into<Vec<u8>>) -> InMemoryConnection {
        InMemoryConnection::new(input.into(), Settings::default(), None)
    }
}

impl InMemoryConnection {
    fn new(input: Vec<u8>, settings: Settings, peer: Option<Address>) -> InMemoryConnection {
        let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let memory = Arc::new(Memory {
            input: Mutex::new(io::Cursor::new(input)),
            output: Mutex::default(),
            address: address.clone(),
        });
        let state = ServerState::new(settings, address.clone()).expect("a pipe and an eventfd");
        let stream = SharedStream::new(Box::new(memory.clone()), peer.unwrap_or(address));
        let connection = Connection::new(state.new_id(), Arc::new(stream), Arc::new(state));
        InMemoryConnection { connection, memory }
    }

    /// Sets the address of the peer.
    pub fn with_peer(self, peer: Address) -> InMemoryConnection {
        let input = std::mem::take(&mut *self.memory.input.lock()).into_inner();
        InMemoryConnection::new(input, Settings::default(), Some(peer))
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

impl Deref for InMemoryConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for InMemoryConnection {
    fn deref_mut(&mut self) -> &mut Connection {
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
