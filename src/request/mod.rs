//! One request from its arrival to its end, of either kind: [`Request`].
//!
//! What is peculiar to a kind is in `stream.rs` and `datagram.rs`; the order of a handler's calls is
//! in `lifecycle.rs`.

mod datagram;
mod lifecycle;
mod opening;
mod stream;

use std::sync::Arc;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::handler::{DatagramRequestHandler, StreamRequestHandler};
use crate::id::{ConnectionId, ListenerId};
use crate::net::{SharedStream, Traffic, Wait};
use crate::state::events::Refusal;
use crate::state::{End, Ended, ListenerInfo, PeerKey, ServerState};
use crate::sync::Current;
#[cfg(feature = "fibers")]
use crate::sys::prefetch::Span;

pub use datagram::IncomingDatagram;
pub(crate) use lifecycle::panic_message;
pub use stream::IncomingStream;

/// The kind of requests that a transport delivers, named by the handler they need:
/// `dyn StreamRequestHandler` or `dyn DatagramRequestHandler`.
pub trait RequestHandler: sealed::RequestHandler {
    /// What arrives: [`IncomingStream`] or [`IncomingDatagram`].
    type Incoming;
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
    /// The handler, to be shared by all requests.
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

/// The half of [`RequestHandler`] that is not for users.
pub(crate) mod sealed {
    use super::{AnyHandler, Arc, ListenerInfo, RequestTask, ServerState};

    // `RequestTask` stays inside this crate, as the trait does.
    #[allow(private_interfaces)]
    pub trait RequestHandler: Send + Sync + 'static {
        fn into_any(handler: Arc<Self>) -> AnyHandler;

        /// `None` for a handler of the other kind.
        fn of_any(handler: &AnyHandler) -> Option<&Arc<Self>>;

        /// The task of a request that has just arrived; `None` for one that is dropped instead.
        fn task(
            handler: &Arc<Self>,
            incoming: <Self as super::RequestHandler>::Incoming,
            listener: &Arc<ListenerInfo>,
            state: &Arc<ServerState>,
        ) -> Option<Box<dyn RequestTask>>
        where
            Self: super::RequestHandler;
    }
}

/// A handler of either kind.
#[derive(Clone)]
pub(crate) enum AnyHandler {
    Stream(Arc<dyn StreamRequestHandler>),
    Datagram(Arc<dyn DatagramRequestHandler>),
}

impl AnyHandler {
    /// Whether a transport that has nothing says so at once. A listener does not: accept(2) makes a
    /// socket before it looks.
    pub(crate) fn is_cheap_to_try(&self) -> bool {
        matches!(self, AnyHandler::Datagram(_))
    }
}

/// A request together with its handler, of either kind.
pub(crate) trait RequestTask: Send {
    fn id(&self) -> ConnectionId;
    fn peer(&self) -> &Address;
    /// The one that it came from.
    fn listener(&self) -> &Arc<ListenerInfo>;
    /// `None` for a datagram.
    fn shared_stream(&self) -> Option<&Arc<SharedStream>>;
    /// Whether the client is the peer, so that its address is known before the task runs.
    fn is_of_peer(&self) -> bool;
    /// Asks the handler's `verify_request`, if that can be asked before the task runs.
    fn verify(&self) -> bool;
    /// Calls `setup`, `handle` and `finish`, counts why they ended, and closes the connection. A
    /// datagram says its traffic; a stream counts by itself.
    fn run(self: Box<Self>, traffic: &mut Traffic) -> CloseReason;
}

/// One request that a server has admitted, for a [`Mixin`](crate::extend::Mixin) to run.
///
/// It counts as being served until it is dropped, however that happens. Dropping it unfinished
/// closes the connection without calling the handler.
#[must_use = "dropping it closes the connection"]
pub struct Request {
    task: Box<dyn RequestTask>,
    /// As what the handler runs.
    current: Arc<Current>,
    registration: Registration,
}

impl Request {
    pub(crate) fn new(
        task: Box<dyn RequestTask>,
        peer_key: Option<PeerKey>,
        state: Arc<ServerState>,
    ) -> Request {
        let id = task.id();
        let stream = task.shared_stream().cloned();
        let current = Arc::<Current>::default();
        let count = || state.stats().accepted.add_exclusively(1);
        state.registry.insert(id, task.peer().clone(), peer_key, stream, current.clone(), count);
        state.note_load();
        let listener = state.is_observed().then(|| task.listener().clone());
        let registration = Registration { state, id, end: End::NotRun, listener };
        Request { task, current, registration }
    }

    /// To be called before the request is given to what runs it.
    #[inline(always)]
    pub(crate) fn tell_accepted(&self) {
        let Registration { state, id, listener, .. } = &self.registration;
        if let Some(listener) = listener {
            state.tell_accepted(*id, self.peer_addr(), listener);
        }
    }

    /// The listener that it came from.
    pub(crate) fn listener_id(&self) -> ListenerId {
        self.task.listener().id
    }

    /// This request's number.
    pub fn id(&self) -> ConnectionId {
        self.registration.id
    }

    /// The client's address.
    pub fn peer_addr(&self) -> &Address {
        self.task.peer()
    }

    /// Sets how its connection waits; see [`Wait`]. For a datagram it does nothing.
    pub fn wait_with(&self, wait: impl Wait) {
        if let Some(stream) = self.task.shared_stream() {
            stream.wait_with(Box::new(wait));
        }
    }

    /// The memory that serving it uses again and again.
    #[cfg(feature = "fibers")]
    pub(crate) fn spans(&self) -> [Span; 3] {
        self.task.shared_stream().map(|stream| stream.spans()).unwrap_or_default()
    }

    /// Runs the handler, closes the connection, and frees the request's place.
    pub fn finish(self) -> CloseReason {
        let Request { task, current, mut registration } = self;
        let mut traffic = Traffic::default();
        let reason = current.run(|| task.run(&mut traffic));
        registration.end = End::Ended(Ended::now(reason, traffic));
        drop(registration);
        reason
    }

    /// Rejects the request, because there is no thread or process to run it: its client is sent
    /// the message of [`Overload::Refuse`](crate::Overload::Refuse), if that is the server's policy.
    pub fn refuse(mut self, why: &dyn std::error::Error) {
        self.registration.end = End::NotRun;
        let (peer, Registration { state, id, listener, .. }) =
            (self.peer_addr(), &self.registration);
        log::warn!("refusing {peer}: {why}");
        state.reject(self.task.shared_stream());
        if let Some(listener) = listener {
            state.tell_refused(Some(*id), peer, listener, Refusal::NoWorker);
        }
    }

    /// See [`Registration::begin_in_child`].
    pub(crate) fn begin_in_child(&mut self) {
        self.registration.begin_in_child();
    }

    /// Splits what runs from what counts: a forking server has them in two processes.
    pub(crate) fn into_parts(self) -> (Box<dyn RequestTask>, Registration) {
        (self.task, self.registration)
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} from {})", self.id(), self.peer_addr())
    }
}

/// A request's place in the registry, freed when this is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) state: Arc<ServerState>,
    pub(crate) id: ConnectionId,
    end: End,
    /// `None` if there is no observer.
    listener: Option<Arc<ListenerInfo>>,
}

impl Registration {
    /// In the parent, before a child is forked that runs the request.
    pub(crate) fn begin_in_child(&mut self) {
        self.end = End::InChild;
        self.state.begin_in_child(self.id);
    }
}

impl Registration {
    /// Whether a stop has shut the read side of its connection, in this process.
    pub(crate) fn is_read_shutdown(&self) -> bool {
        self.state.registry.is_read_shutdown(self.id)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.state.release(self.id, self.end, self.listener.as_deref());
    }
}
