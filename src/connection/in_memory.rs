//! Connections for testing handlers: without a socket, or to the test itself.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Connection;
use crate::address::{Address, Endpoint};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::net::{SharedStream, SocketStream, Stream};
use crate::state::{ListenerInfo, Observers, ServerState};

/// A [`Connection`] for a handler's unit test: without a socket, its input given and its output there
/// to be inspected ([`Connection::in_memory`]); or to another `Connection`, which plays the client
/// ([`Connection::in_memory_pair`]).
///
/// [`as_mut`](AsMut::as_mut) is the `Connection` for the handler. Dropping this sends its output.
#[derive(Debug)]
pub struct InMemoryConnection {
    connection: Connection,
    /// `None` for one of a pair.
    memory: Option<Arc<Memory>>,
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
        let memory = Arc::new(Memory {
            input: Mutex::new(io::Cursor::new(input.into())),
            output: Mutex::default(),
            address: address(),
        });
        let stream = SharedStream::new(Box::new(memory.clone()), address());
        let state = in_memory_state();
        let connection = new_connection(stream, &state);
        InMemoryConnection { connection, memory: Some(memory) }
    }

    /// A connection for a handler's unit test, and its client's end: what is written to one can be
    /// read from the other. They are the two ends of a Unix socket, so that waits, timeouts and
    /// [`relay`](Connection::relay) do what they do in a server.
    ///
    /// Dropping one of them sends its output, and the other reads EOF. A handler's output is sent when
    /// it reads, flushes, or is more than 8 KiB; the rest when its end is dropped. What both ends write
    /// must fit into the socket (about 200 KiB) unless each has a thread.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::net::Shutdown;
    /// use std::time::Duration;
    /// use socketserver::{Connection, HandlerResult};
    ///
    /// fn gateway(client: &mut Connection) -> HandlerResult {
    ///     let mut upstream = client.connect("db:5432", Duration::from_secs(3))?;
    ///     client.relay(&mut upstream)?;
    ///     Ok(())
    /// }
    ///
    /// let (mut connection, mut client) = Connection::in_memory_pair();
    /// let mut db = connection.upstream("db:5432")?;
    /// client.write_all(b"a question")?;
    /// client.shutdown(Shutdown::Write)?;
    /// db.write_all(b"an answer")?;
    /// db.shutdown(Shutdown::Write)?;
    ///
    /// gateway(connection.as_mut()).unwrap();
    /// drop(connection);
    ///
    /// let (mut asked, mut answered) = (String::new(), String::new());
    /// db.read_to_string(&mut asked)?;
    /// client.read_to_string(&mut answered)?;
    /// assert_eq!((&*asked, &*answered), ("a question", "an answer"));
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Panics
    /// When the process has no file descriptors left.
    pub fn in_memory_pair() -> (InMemoryConnection, Connection) {
        let (own, client) = UnixStream::pair().expect("two descriptors");
        let state = in_memory_state();
        let stream = SharedStream::new(Box::new(SocketStream::from(own)), address());
        let mut connection = new_connection(stream, &state);
        connection.set_socket_timeouts();
        (InMemoryConnection { connection, memory: None }, far_end(client, &state))
    }
}

fn address() -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

fn in_memory_state() -> Arc<ServerState> {
    let listener = ListenerInfo::new(1, address(), false, None);
    let state = ServerState::new(Settings::default(), Observers::default(), listener);
    Arc::new(state.expect("a pipe and an eventfd"))
}

fn new_connection(stream: SharedStream, state: &Arc<ServerState>) -> Connection {
    let (id, listener) = (state.new_id(), state.first_listener.clone());
    Connection::new(id, Arc::new(stream), listener, state.clone())
}

/// The end of a pair that a test has. It does not obey the server of the other one.
fn far_end(stream: UnixStream, state: &Arc<ServerState>) -> Connection {
    let stream = SharedStream::new(Box::new(SocketStream::from(stream)), address());
    Connection::new_upstream(Arc::new(stream), None, Arc::default(), state.clone())
}

impl InMemoryConnection {
    /// Sets the address of the peer.
    #[must_use]
    pub fn with_peer(mut self, peer: Address) -> InMemoryConnection {
        // A broadcast may share the old one, so its address cannot be changed.
        let stream: Box<dyn Stream> = match (&self.memory, self.connection.stream.inner().as_fd()) {
            (Some(memory), _) => Box::new(memory.clone()),
            (None, socket) => {
                let socket = socket.map(|socket| socket.try_clone_to_owned());
                let socket = socket.expect("a socket").expect("a descriptor");
                Box::new(SocketStream::from(UnixStream::from(socket)))
            }
        };
        self.connection.stream = Arc::new(SharedStream::new(stream, peer));
        self
    }

    /// All output so far, messages of [`Sender`](crate::Sender)s included. Of one of a
    /// [pair](Connection::in_memory_pair): nothing, since its client reads it.
    ///
    /// # Panics
    /// When something was written after the write side was shut.
    pub fn output(&mut self) -> Vec<u8> {
        let Some(memory) = &self.memory else { return Vec::new() };
        self.connection.flush().expect("writing to memory");
        memory.output.lock().bytes.clone()
    }

    /// Plays a server at `address`, for a handler that [`connect`](Connection::connect)s to it: the
    /// next connect to this address, written the same way, reads what is written to the result, and
    /// the reverse. Each call is for one connect; further ones are refused. Other addresses are
    /// connected to over the network.
    ///
    /// The answers can be written before the handler asks, if they fit into a socket (about 200 KiB).
    ///
    /// ```
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{Connection, HandlerResult};
    ///
    /// fn look_up(client: &mut Connection) -> HandlerResult {
    ///     let mut db = client.connect("db:5432", Duration::from_secs(3))?;
    ///     let mut line = String::new();
    ///     client.read_line(&mut line)?;
    ///     write!(db, "GET {line}")?;
    ///     line.clear();
    ///     db.read_line(&mut line)?;
    ///     Ok(client.write_all(line.as_bytes())?)
    /// }
    ///
    /// let mut connection = Connection::in_memory("ada\n");
    /// let mut db = connection.upstream("db:5432")?;
    /// db.write_all(b"1815\n")?;
    /// db.flush()?;
    /// look_up(connection.as_mut()).unwrap();
    /// assert_eq!(connection.output(), b"1815\n");
    /// let mut asked = String::new();
    /// db.read_line(&mut asked)?;
    /// assert_eq!(asked, "GET ada\n");
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Address`](crate::Error::Address) for an address that is none; [`Error::System`] when the
    /// process has no file descriptors left.
    pub fn upstream<A>(&mut self, address: A) -> Result<Connection>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        let endpoint = address.try_into().map_err(Into::into)?;
        let (near, far) = UnixStream::pair().map_err(Error::system("make a pair of sockets"))?;
        let state = self.connection.server.state();
        state.scripted.add(endpoint, near);
        Ok(far_end(far, state))
    }
}

impl Drop for InMemoryConnection {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Fails if the other end is gone.
            let _ = self.connection.flush();
        }
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

    #[test]
    fn what_one_of_a_pair_writes_the_other_reads() {
        let (served, mut client) = Connection::in_memory_pair();
        let peer = Address::Tcp(SocketAddr::from(([192, 0, 2, 1], 7)));
        let mut served = served.with_peer(peer.clone());
        assert_eq!(served.as_ref().peer_addr(), &peer);
        client.write_all(b"one\n").unwrap();
        client.flush().unwrap();
        let mut line = String::new();
        served.as_mut().read_line(&mut line).unwrap();
        served.as_mut().write_all(line.as_bytes()).unwrap();
        assert_eq!(served.output(), b"");
        drop(served);
        line.clear();
        client.read_line(&mut line).unwrap();
        assert_eq!((&*line, client.read(&mut [0]).unwrap()), ("one\n", 0));
    }

    #[test]
    fn a_pair_has_timeouts_and_one_end_obeys_a_stop() {
        let (mut served, mut client) = Connection::in_memory_pair();
        served.as_mut().set_read_timeout(Duration::from_millis(1));
        let error = served.as_mut().read_line(&mut String::new()).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { .. })));
        client.write_all(b"received\n").unwrap();
        client.flush().unwrap();
        served.as_ref().server().shutdown();
        let mut line = String::new();
        assert_eq!(served.as_mut().read_line(&mut line).unwrap(), 9);
        client.write_all(b"later\n").unwrap();
        client.flush().unwrap();
        assert_eq!(served.as_mut().read_line(&mut line).unwrap(), 0);
        served.as_mut().write_all(b"bye\n").unwrap();
        drop(served);
        assert_eq!(client.read_line(&mut line).unwrap(), 4);
    }

    #[test]
    fn each_scripted_upstream_is_for_one_connect_to_its_address() {
        const TIMEOUT: Duration = Duration::from_secs(3);
        let mut in_memory = Connection::in_memory("");
        let mut far = [(); 2].map(|()| in_memory.upstream("db:5432").unwrap());
        let client = in_memory.as_mut();
        for (number, far) in far.iter_mut().enumerate() {
            let mut near = client.connect("db:5432", TIMEOUT).unwrap();
            writeln!(near, "{number}").unwrap();
            drop(near);
            let mut line = String::new();
            far.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{number}\n"));
            assert_eq!(far.read_line(&mut line).unwrap(), 0);
        }
        let error = client.connect("db:5432", TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to db:5432: connection refused");
        assert!(in_memory.upstream("no port").is_err());
    }
}
