//! A request on a stream transport: a connection and its handler.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use super::lifecycle::{self, Outcome};
use super::opening::{self, Opening};
use super::{AnyHandler, RequestHandler, RequestTask, sealed};
use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::connection::Connection;
use crate::handler::StreamRequestHandler;
use crate::id::ConnectionId;
use crate::net::{SharedStream, Stream, Traffic};
use crate::state::{ListenerInfo, ServerState};
#[cfg(feature = "tls")]
use crate::tls::{Side, TlsStream};

/// A connection, fresh from a transport.
pub struct IncomingStream {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// The client's address.
    pub peer: Address,
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl RequestHandler for dyn StreamRequestHandler {
    type Incoming = IncomingStream;
}

#[allow(private_interfaces)]
impl sealed::RequestHandler for dyn StreamRequestHandler {
    fn into_any(handler: Arc<Self>) -> AnyHandler {
        AnyHandler::Stream(handler)
    }

    fn of_any(handler: &AnyHandler) -> Option<&Arc<Self>> {
        match handler {
            AnyHandler::Stream(handler) => Some(handler),
            AnyHandler::Datagram(_) => None,
        }
    }

    fn task(
        handler: &Arc<Self>,
        incoming: IncomingStream,
        listener: &Arc<ListenerInfo>,
        state: &Arc<ServerState>,
    ) -> Option<Box<dyn RequestTask>> {
        #[cfg(feature = "tls")]
        let incoming = over_tls(incoming, listener, state);
        let stream = SharedStream::new(incoming.stream, incoming.peer);
        let opening = Opening::of(&stream, state);
        let (id, listener) = (state.new_id(), listener.clone());
        let connection = Connection::new(id, Arc::new(stream), listener, state.clone());
        Some(Box::new(StreamTask { connection, handler: handler.clone(), opening }))
    }
}

struct StreamTask {
    connection: Connection,
    handler: Arc<dyn StreamRequestHandler>,
    /// `None`: the handler is called at once.
    opening: Option<Opening>,
}

impl RequestTask for StreamTask {
    fn id(&self) -> ConnectionId {
        self.connection.id()
    }

    fn peer(&self) -> &Address {
        self.connection.peer_addr()
    }

    fn listener(&self) -> &Arc<ListenerInfo> {
        self.connection.shared_listener()
    }

    fn shared_stream(&self) -> Option<&Arc<SharedStream>> {
        Some(self.connection.shared_stream())
    }

    fn is_of_peer(&self) -> bool {
        !self.opening.as_ref().is_some_and(Opening::changes_peer)
    }

    /// Behind an opening, the task asks it when it runs.
    fn verify(&self) -> bool {
        self.opening.is_some() || opening::verify(&self.connection, &*self.handler)
    }

    fn run(self: Box<Self>, _traffic: &mut Traffic) -> CloseReason {
        let StreamTask { mut connection, handler, opening } = unbox(self);
        if let Some(opening) = opening
            && let Err(reason) = opening.run(&mut connection, &*handler)
        {
            return reason;
        }
        let outcome = lifecycle::run(
            &mut connection,
            |connection| handler.setup(connection),
            |connection| {
                handler.handle(connection)?;
                // Before `finish`, so that it knows whether the last answers could be sent.
                Ok(connection.flush()?)
            },
            Connection::set_close_reason,
            |connection| handler.finish(connection),
        );
        close_after_handler(&mut connection, &*handler, &outcome);
        outcome.reason
    }
}

/// Reports the errors, counts the reason, and closes the connection.
// Not inlined: the caller's frame is on the stack while the handler waits, and an idle connection
// should touch little memory.
#[inline(never)]
fn close_after_handler(
    connection: &mut Connection,
    handler: &dyn StreamRequestHandler,
    outcome: &Outcome,
) {
    outcome.report(connection.peer_addr(), |error| handler.handle_error(connection, error));
    // Counted before the close, which the client can see.
    connection.server().state().stats().ended_for(outcome.reason).add_one();
    let closed = connection.close();
    let peer = connection.peer_addr();
    if let Err(error) = closed {
        log::debug!("{peer} closed before its last answer: {error}");
    }
    log::debug!("{peer}: {}", outcome.reason);
}

/// Over TLS, if the listener's connections are.
#[cfg(feature = "tls")]
fn over_tls(
    incoming: IncomingStream,
    listener: &ListenerInfo,
    state: &ServerState,
) -> IncomingStream {
    let config = listener.is_tls.then(|| state.tls()).flatten();
    let Some(config) = config else { return incoming };
    let timeouts = &state.settings.transport;
    let (read, write) = (timeouts.read_timeout, timeouts.write_timeout);
    let stream = TlsStream::new(incoming.stream, Side::Server(config), read, write);
    IncomingStream { stream: Box::new(stream), ..incoming }
}

/// Moves the task out of its box, which is freed here and not when the request ends.
#[expect(clippy::boxed_local, reason = "what is dropped here is the box")]
fn unbox<T>(task: Box<T>) -> T {
    *task
}
