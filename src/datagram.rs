//! A datagram as its handler sees it: [`DatagramRequest`].

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::address::Address;
use crate::config::Settings;
use crate::id::ConnectionId;
use crate::net::Traffic;
use crate::state::{ListenerInfo, Observers, ServerHandle, ServerState};

/// The sending side of a datagram transport, for the replies to an
/// [`IncomingDatagram`](crate::extend::IncomingDatagram).
pub trait DatagramSocket: Send + Sync + 'static {
    /// Sends one datagram, without blocking.
    ///
    /// # Errors
    /// Those of sendto(2); `WouldBlock` when the peer's queue is full.
    fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()>;

    /// The same from a given local address, for a socket that is bound to all addresses of the
    /// machine: the one that the datagram was sent to which this one answers
    /// ([`IncomingDatagram::local`](crate::extend::IncomingDatagram::local)). By default the system
    /// chooses one.
    fn send_from(&self, local: &Address, data: &[u8], peer: &Address) -> io::Result<()> {
        let _ = local;
        self.send_to(data, peer)
    }
}

/// A datagram, and the means to reply to it.
///
/// [`reply`](DatagramRequest::reply) sends a reply at once. What is written to the request
/// ([`Write`]) is collected and sent as one datagram when the handler returns without an error;
/// nothing is sent if nothing was written.
pub struct DatagramRequest {
    id: ConnectionId,
    data: Vec<u8>,
    peer: Address,
    local: Option<Address>,
    socket: Arc<dyn DatagramSocket>,
    listener: Arc<ListenerInfo>,
    server: ServerHandle,
    reply: Vec<u8>,
    /// The bytes of all replies.
    sent: AtomicU64,
}

impl DatagramRequest {
    pub(crate) fn new(
        id: ConnectionId,
        data: Vec<u8>,
        peer: Address,
        local: Option<Address>,
        socket: Arc<dyn DatagramSocket>,
        listener: Arc<ListenerInfo>,
        state: Arc<ServerState>,
    ) -> DatagramRequest {
        let server = ServerHandle::new(state);
        let (reply, sent) = (Vec::new(), AtomicU64::new(0));
        DatagramRequest { id, data, peer, local, socket, listener, server, reply, sent }
    }

    /// The request's number, unique within its server.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// The datagram's contents, which may be empty.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The sender's address. A sender on an unnamed Unix socket cannot be replied to.
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// The address that it was sent to, and that a reply is sent from. Of a UDP server on all
    /// addresses of the machine (`0.0.0.0`, `[::]`) this is one of them: for a broadcast that of the
    /// interface. For an IPv6 multicast it is the server's, and the system chooses the reply's.
    pub fn local_addr(&self) -> &Address {
        self.local.as_ref().unwrap_or(&self.listener.local_addr)
    }

    /// The listener of the server that received it.
    pub fn listener(&self) -> &ListenerInfo {
        &self.listener
    }

    pub(crate) fn shared_listener(&self) -> &Arc<ListenerInfo> {
        &self.listener
    }

    /// The server that received this datagram.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// Sends a datagram to the peer, at once and without blocking.
    ///
    /// # Errors
    /// Those of sendto(2). `WouldBlock` when the queue of a peer on a Unix socket is full.
    pub fn reply(&self, data: impl AsRef<[u8]>) -> io::Result<()> {
        let data = data.as_ref();
        match &self.local {
            Some(local) => self.socket.send_from(local, data, &self.peer)?,
            None => self.socket.send_to(data, &self.peer)?,
        }
        self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic { received: self.data.len() as u64, sent: self.sent.load(Ordering::Relaxed) }
    }

    /// Sends the collected reply, if any.
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
    /// DatagramRequestHandler::handle(&Echo, request.as_mut()).unwrap();
    /// assert_eq!(request.finish().unwrap(), [b"hello"]);
    /// ```
    ///
    /// # Panics
    /// When the process has no file descriptors left.
    pub fn in_memory(data: impl Into<Vec<u8>>) -> InMemoryDatagram {
        let address = Address::Udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = ListenerInfo::new(1, address.clone(), false, None);
        let state = ServerState::new(Settings::default(), Observers::default(), listener);
        let state = Arc::new(state.expect("a pipe and an eventfd"));
        let (id, listener) = (state.new_id(), state.first_listener.clone());
        let (data, replies) = (data.into(), Arc::new(Replies::default()));
        let request =
            DatagramRequest::new(id, data, address, None, replies.clone(), listener, state);
        InMemoryDatagram { request, replies }
    }
}

/// Collects the reply that is sent when the handler returns without an error.
impl Write for DatagramRequest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reply.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Does nothing: the reply is one datagram.
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

/// A [`DatagramRequest`] without a socket, whose replies can be inspected.
///
/// [`as_mut`](AsMut::as_mut) is the `DatagramRequest` for a handler. See
/// [`DatagramRequest::in_memory`].
#[derive(Debug)]
pub struct InMemoryDatagram {
    request: DatagramRequest,
    replies: Arc<Replies>,
}

impl InMemoryDatagram {
    /// Sets the address of the peer.
    #[must_use]
    pub fn with_peer(mut self, peer: Address) -> InMemoryDatagram {
        self.request.peer = peer;
        self
    }

    /// Sends the collected reply, as a server does, and returns all replies in order.
    ///
    /// # Errors
    /// None: sending in memory does not fail.
    pub fn finish(mut self) -> io::Result<Vec<Vec<u8>>> {
        self.request.send_collected()?;
        Ok(std::mem::take(&mut *self.replies.0.lock()))
    }
}

impl AsRef<DatagramRequest> for InMemoryDatagram {
    fn as_ref(&self) -> &DatagramRequest {
        &self.request
    }
}

impl AsMut<DatagramRequest> for InMemoryDatagram {
    fn as_mut(&mut self) -> &mut DatagramRequest {
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
