//! What a datagram handler is given: [`DatagramRequest`].

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::address::Address;
use crate::config::Settings;
use crate::state::ServerHandle;
use crate::state::ServerState;

/// The sending side of a datagram transport: [`Udp`](crate::transport::Udp) and
/// [`UnixDatagram`](crate::transport::UnixDatagram) bring theirs.
pub trait DatagramSocket: Send + Sync + 'static {
    /// Sends one datagram, whole or not at all.
    fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()>;

    /// The same from a given local address, for a socket that is bound to all addresses of the
    /// machine: the one that the datagram was sent to which this one answers
    /// ([`IncomingDatagram::local`](crate::transport::IncomingDatagram::local)). By default the system
    /// chooses one.
    fn send_from(&self, local: &Address, data: &[u8], peer: &Address) -> io::Result<()> {
        let _ = local;
        self.send_to(data, peer)
    }
}

/// One datagram, to be answered or not.
///
/// A reply is sent at once with [`reply`](DatagramRequest::reply), or collected by writing to the
/// request ([`Write`]) and sent as one datagram when the handler returns without an error; nothing
/// is sent where nothing was written.
pub struct DatagramRequest {
    id: u64,
    data: Vec<u8>,
    peer: Address,
    local: Option<Address>,
    socket: Arc<dyn DatagramSocket>,
    server: ServerHandle,
    reply: Vec<u8>,
}

impl DatagramRequest {
    pub(crate) fn new(
        id: u64,
        data: Vec<u8>,
        peer: Address,
        local: Option<Address>,
        socket: Arc<dyn DatagramSocket>,
        state: Arc<ServerState>,
    ) -> DatagramRequest {
        let server = ServerHandle::new(state);
        DatagramRequest { id, data, peer, local, socket, server, reply: Vec::new() }
    }

    /// This request's number, the first one being 1; no other request of this server ever has it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the datagram says, whole; it may be empty.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Who sent it. A Unix socket without a name cannot be answered.
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// The address that it was sent to, and that a reply is sent from. Of a UDP server on all
    /// addresses of the machine (`0.0.0.0`, `[::]`) this is one of them: for a broadcast that of the
    /// interface. For an IPv6 multicast it is the server's, and the system chooses the reply's.
    pub fn local_addr(&self) -> &Address {
        self.local.as_ref().unwrap_or(self.server.local_addr())
    }

    /// The server that this datagram came in through.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// Sends a datagram to the peer, at once.
    ///
    /// # Errors
    /// What the system says of the datagram or the peer. `WouldBlock` when a Unix peer's queue is
    /// full: nobody waits for a peer that does not read.
    pub fn reply(&self, data: impl AsRef<[u8]>) -> io::Result<()> {
        match &self.local {
            Some(local) => self.socket.send_from(local, data.as_ref(), &self.peer),
            None => self.socket.send_to(data.as_ref(), &self.peer),
        }
    }

    /// Sends what was collected by writing.
    pub(crate) fn send_collected(&mut self) -> io::Result<()> {
        if self.reply.is_empty() {
            return Ok(());
        }
        let collected = std::mem::take(&mut self.reply);
        self.reply(collected)
    }

    /// A request without a socket, for testing handlers.
    ///
    /// ```
    /// use socketserver::{DatagramRequest, DatagramRequestHandler, services::Echo};
    ///
    /// let mut request = DatagramRequest::in_memory("hello");
    /// DatagramRequestHandler::handle(&Echo, &mut request).unwrap();
    /// assert_eq!(request.finish().unwrap(), [b"hello"]);
    /// ```
    ///
    /// # Panics
    /// When the process has no descriptors left.
    pub fn in_memory(data: impl Into<Vec<u8>>) -> InMemoryDatagram {
        let here = Address::Udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let sent = Arc::new(Replies::default());
        let state = ServerState::new(Settings::default(), here.clone());
        let state = Arc::new(state.expect("a pipe and an event descriptor"));
        let (id, data, socket) = (state.new_id(), data.into(), sent.clone());
        let request = DatagramRequest::new(id, data, here, None, socket, state);
        InMemoryDatagram { request, sent }
    }
}

/// What is written becomes the one reply, sent when the handler returns.
impl Write for DatagramRequest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reply.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Does nothing: a datagram is sent whole, at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for DatagramRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramRequest")
            .field("id", &self.id)
            .field("peer_addr", &self.peer)
            .field("length", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A [`DatagramRequest`] without a socket, whose replies can be looked at.
#[derive(Debug)]
pub struct InMemoryDatagram {
    request: DatagramRequest,
    sent: Arc<Replies>,
}

impl InMemoryDatagram {
    /// The same from another peer.
    pub fn with_peer(mut self, peer: Address) -> InMemoryDatagram {
        self.request.peer = peer;
        self
    }

    /// Ends the request as a server does, and returns the replies that were sent, in order.
    ///
    /// # Errors
    /// None with a socket in memory; the type is that of sending.
    pub fn finish(mut self) -> io::Result<Vec<Vec<u8>>> {
        self.request.send_collected()?;
        Ok(std::mem::take(&mut *self.sent.0.lock()))
    }
}

impl Deref for InMemoryDatagram {
    type Target = DatagramRequest;

    fn deref(&self) -> &DatagramRequest {
        &self.request
    }
}

impl DerefMut for InMemoryDatagram {
    fn deref_mut(&mut self) -> &mut DatagramRequest {
        &mut self.request
    }
}

#[derive(Debug, Default)]
struct Replies(Mutex<Vec<Vec<u8>>>);

impl DatagramSocket for Replies {
    fn send_to(&self, data: &[u8], _peer: &Address) -> io::Result<()> {
        self.0.lock().push(data.to_vec());
        Ok(())
    }
}
