//! A request on a datagram transport: a datagram and its handler.

use std::fmt;
use std::sync::Arc;

use super::lifecycle::{self, DynError, catch_panic};
use super::{AnyHandler, RequestHandler, RequestTask, sealed};
use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::datagram::{DatagramRequest, DatagramSocket};
use crate::error::Error;
use crate::handler::{DatagramRequestHandler, HandlerError};
use crate::id::ConnectionId;
use crate::net::{SharedStream, Traffic};
use crate::state::{ListenerInfo, ServerState};

/// A datagram, fresh from a transport.
pub struct IncomingDatagram {
    /// Its bytes, up to `max_packet_size`.
    pub data: Vec<u8>,
    /// Its length in bytes; more than `data` has if it was truncated.
    pub length: usize,
    /// The sender's address.
    pub peer: Address,
    /// The address that it was sent to, for a socket that is bound to all addresses of the machine.
    /// `None`: the address that the socket is bound to.
    pub local: Option<Address>,
    /// The socket that a reply is sent by.
    pub socket: Arc<dyn DatagramSocket>,
}

impl fmt::Debug for IncomingDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingDatagram")
            .field("peer", &self.peer)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl RequestHandler for dyn DatagramRequestHandler {
    type Incoming = IncomingDatagram;
}

#[allow(private_interfaces)]
impl sealed::RequestHandler for dyn DatagramRequestHandler {
    fn into_any(handler: Arc<Self>) -> AnyHandler {
        AnyHandler::Datagram(handler)
    }

    fn of_any(handler: &AnyHandler) -> Option<&Arc<Self>> {
        match handler {
            AnyHandler::Datagram(handler) => Some(handler),
            AnyHandler::Stream(_) => None,
        }
    }

    fn task(
        handler: &Arc<Self>,
        incoming: IncomingDatagram,
        listener: &Arc<ListenerInfo>,
        state: &Arc<ServerState>,
    ) -> Option<Box<dyn RequestTask>> {
        let IncomingDatagram { mut data, length, peer, local, socket } = incoming;
        let truncated = (length > data.len()).then(|| {
            let limit = data.len();
            data.clear();
            Error::Truncated { length, limit }
        });
        let (id, listener) = (state.new_id(), listener.clone());
        let request = DatagramRequest::new(id, data, peer, local, socket, listener, state.clone());
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

struct DatagramTask {
    request: DatagramRequest,
    handler: Arc<dyn DatagramRequestHandler>,
}

impl DatagramTask {
    fn report(&self, error: HandlerError) {
        let handle_error = |error: &_| self.handler.handle_error(&self.request, error);
        lifecycle::report(handle_error, self.request.peer_addr(), &*error);
    }
}

impl RequestTask for DatagramTask {
    fn id(&self) -> ConnectionId {
        self.request.id()
    }

    fn peer(&self) -> &Address {
        self.request.peer_addr()
    }

    fn listener(&self) -> &Arc<ListenerInfo> {
        self.request.shared_listener()
    }

    fn shared_stream(&self) -> Option<&Arc<SharedStream>> {
        None
    }

    fn is_of_peer(&self) -> bool {
        true
    }

    fn verify(&self) -> bool {
        let verify = catch_panic(|| Ok(self.handler.verify_request(&self.request)));
        verify.unwrap_or_else(|error| {
            self.report(error);
            false
        })
    }

    fn run(self: Box<Self>, traffic: &mut Traffic) -> CloseReason {
        let DatagramTask { mut request, handler } = *self;
        let outcome = lifecycle::run(
            &mut request,
            |request| handler.setup(request),
            |request| {
                handler.handle(request)?;
                Ok(request.send_collected()?)
            },
            |_, error| error.map_or(CloseReason::Completed, close_reason),
            |request| handler.finish(request),
        );
        *traffic = request.traffic();
        outcome.report(request.peer_addr(), |error| handler.handle_error(&request, error));
        request.server().state().stats().ended_for(outcome.reason).add_one();
        outcome.reason
    }
}

fn close_reason(error: &DynError) -> CloseReason {
    match CloseReason::of(error) {
        Some(reason @ (CloseReason::Panicked | CloseReason::Reset)) => reason,
        _ => CloseReason::Failed,
    }
}
