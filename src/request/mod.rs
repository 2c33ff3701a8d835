//! One request from its arrival to its end, whichever its kind: [`Request`].

pub(crate) mod lifecycle;

use std::io::IoSlice;
use std::sync::Arc;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::config::Overload;
use crate::connection::Connection;
use crate::datagram::{DatagramRequest, DatagramSocket};
use crate::error::Error;
use crate::handler::{DatagramRequestHandler, StreamRequestHandler};
use crate::id::ConnectionId;
use crate::net::SharedStream;
use crate::net::{Stream, Wait};
use crate::request::lifecycle::{DatagramTask, RequestTask, StreamTask};
use crate::state::PeerKey;
use crate::state::ServerState;
#[cfg(feature = "fibers")]
use crate::sys::prefetch::Span;

/// The kind of requests that a transport delivers, named by the handler they need:
/// `dyn StreamRequestHandler` or `dyn DatagramRequestHandler`.
pub trait RequestHandler: sealed::RequestHandler {
    /// What arrives: [`IncomingStream`] or [`IncomingDatagram`].
    type Incoming;
}

impl RequestHandler for dyn StreamRequestHandler {
    type Incoming = IncomingStream;
}

impl RequestHandler for dyn DatagramRequestHandler {
    type Incoming = IncomingDatagram;
}

/// A handler as a server holds it. Every [`StreamRequestHandler`] is one for the stream servers,
/// every [`DatagramRequestHandler`] for the datagram servers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler for this server",
    note = "TCP and Unix stream servers need a `StreamRequestHandler`, \
            UDP and Unix datagram servers a `DatagramRequestHandler`",
    note = "a closure may need `handler_fn` or `datagram_handler_fn` around it"
)]
pub trait IntoHandler<H: ?Sized> {
    /// Shares the handler out.
    fn into_handler(self) -> Arc<H>;
}

impl<H: StreamRequestHandler> IntoHandler<dyn StreamRequestHandler> for H {
    fn into_handler(self) -> Arc<dyn StreamRequestHandler> {
        Arc::new(self)
    }
}

impl<H: DatagramRequestHandler> IntoHandler<dyn DatagramRequestHandler> for H {
    fn into_handler(self) -> Arc<dyn DatagramRequestHandler> {
        Arc::new(self)
    }
}

/// A connection, fresh from a transport.
pub struct IncomingStream {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// Who is at the other end.
    pub peer: Address,
}

/// A datagram, fresh from a transport.
pub struct IncomingDatagram {
    /// What it says, up to `max_packet_size`.
    pub data: Vec<u8>,
    /// How long it was, in bytes; more than `data` has when it had to be cut.
    pub length: usize,
    /// Who sent it.
    pub peer: Address,
    /// Where a reply goes.
    pub socket: Arc<dyn DatagramSocket>,
}

/// One request that a server has admitted, for a [`Mixin`](crate::Mixin) to run.
///
/// It counts as being served until it is dropped, however that happens; dropping it unfinished
/// closes it without a word.
pub struct Request {
    task: Box<dyn RequestTask>,
    registration: Registration,
}

impl Request {
    pub(crate) fn new(
        task: Box<dyn RequestTask>,
        peer_key: Option<PeerKey>,
        state: Arc<ServerState>,
    ) -> Request {
        let id = task.id();
        state.registry.insert(id, task.peer().clone(), peer_key, task.shared_stream().cloned());
        state.stats().accepted.add_one();
        Request { task, registration: Registration { state, id } }
    }

    /// This request's number.
    pub fn id(&self) -> ConnectionId {
        self.registration.id
    }

    /// Who is at the other end.
    pub fn peer_addr(&self) -> &Address {
        self.task.peer()
    }

    /// Says how to wait for this connection; see [`Wait`]. For a datagram it does nothing.
    pub fn wait_with(&self, wait: impl Wait) {
        if let Some(stream) = self.task.shared_stream() {
            stream.wait_with(Box::new(wait));
        }
    }

    /// Where what serving it needs again and again is in memory.
    #[cfg(feature = "fibers")]
    pub(crate) fn spans(&self) -> [Span; 3] {
        self.task.shared_stream().map(|stream| stream.spans()).unwrap_or_default()
    }

    /// Runs the handler, closes the connection, and makes room for another.
    pub fn finish(self) -> CloseReason {
        let Request { task, registration } = self;
        let reason = task.run();
        registration.state.stats().ended_for(reason).add_one();
        reason
    }

    /// Turns the request away, because there is nothing to run it with: with the message of
    /// [`Overload::Refuse`], if that is the server's policy.
    pub fn refuse(self, why: &dyn std::error::Error) {
        log::warn!("refusing {}: {why}", self.peer_addr());
        let state = &self.registration.state;
        state.stats().refused.add_one();
        if let Some(stream) = self.task.shared_stream() {
            send_refusal(stream, state);
            // Somebody may be waiting for requests without an eye on this one.
            state.wake_acceptor();
        }
    }

    /// Splits what runs from what counts: in a forking server they are in two processes.
    pub(crate) fn into_parts(self) -> (Box<dyn RequestTask>, Registration) {
        (self.task, self.registration)
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} from {})", self.id(), self.peer_addr())
    }
}

/// Says goodbye without waiting for anybody.
pub(crate) fn send_refusal(stream: &Arc<SharedStream>, state: &ServerState) {
    match &state.settings.overload {
        Overload::Refuse(message) if !message.is_empty() => {
            // A peer that cannot even take this is not worth more.
            let _ = stream.try_send(&[IoSlice::new(message)], |sent| &message[sent..]);
            state.rejected.push(stream);
        }
        _ => {}
    }
}

/// A place among those who are being served, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) state: Arc<ServerState>,
    pub(crate) id: ConnectionId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.state.release(self.id);
    }
}

/// The sealed half of [`RequestHandler`].
pub(crate) mod sealed {
    use super::{Arc, RequestTask, ServerState};

    // What it speaks of stays inside this crate, as the trait does.
    #[allow(private_interfaces)]
    pub trait RequestHandler: Send + Sync + 'static {
        /// Whether a transport that has nothing says so at once. A listener does not: accept(2)
        /// makes a socket before it looks.
        const IS_CHEAP_TO_TRY: bool;

        /// `None` for what is dropped here and now.
        fn task(
            handler: &Arc<Self>,
            incoming: <Self as super::RequestHandler>::Incoming,
            state: &Arc<ServerState>,
        ) -> Option<Box<dyn RequestTask>>
        where
            Self: super::RequestHandler;
    }
}

#[allow(private_interfaces)]
impl sealed::RequestHandler for dyn StreamRequestHandler {
    const IS_CHEAP_TO_TRY: bool = false;

    fn task(
        handler: &Arc<Self>,
        incoming: IncomingStream,
        state: &Arc<ServerState>,
    ) -> Option<Box<dyn RequestTask>> {
        let stream = SharedStream::new(incoming.stream, incoming.peer);
        let connection = Connection::new(state.new_id(), Arc::new(stream), state.clone());
        Some(Box::new(StreamTask { connection, handler: handler.clone() }))
    }
}

#[allow(private_interfaces)]
impl sealed::RequestHandler for dyn DatagramRequestHandler {
    const IS_CHEAP_TO_TRY: bool = true;

    fn task(
        handler: &Arc<Self>,
        incoming: IncomingDatagram,
        state: &Arc<ServerState>,
    ) -> Option<Box<dyn RequestTask>> {
        let IncomingDatagram { mut data, length, peer, socket } = incoming;
        let truncated = (length > data.len()).then(|| {
            data.clear();
            let limit = state.settings.transport.max_packet_size;
            Error::Truncated { length, limit }
        });
        let id = state.new_id();
        let request = DatagramRequest::new(id, data, peer, socket, state.clone());
        let task = DatagramTask { request, handler: handler.clone() };
        match truncated {
            None => Some(Box::new(task)),
            Some(error) => {
                state.stats().truncated.add_one();
                task.report(error.into());
                None
            }
        }
    }
}
