//! What a handler is put through: the order of its calls, its errors and its panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::address::Address;
use crate::connection::Connection;
use crate::datagram::DatagramRequest;
use crate::error::Error;
use crate::handler::is_hang_up;
use crate::handler::{DatagramRequestHandler, HandlerError, HandlerResult, StreamRequestHandler};
use crate::stream::Link;

/// How a request ended, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub enum Outcome {
    /// The handler returned `Ok`, or the peer hung up.
    Completed,
    /// The handler returned an error.
    Failed,
    /// The handler panicked.
    Panicked,
}

/// A request together with its handler, whichever their kind.
pub(crate) trait Work: Send {
    /// The request's number.
    fn id(&self) -> u64;
    /// Who is at the other end.
    fn peer(&self) -> &Address;
    /// The stream, which a datagram has not.
    fn link(&self) -> Option<&Arc<Link>>;
    /// Whether the handler wants it.
    fn verify(&self) -> bool;
    /// `setup`, `handle`, `finish`, and the end of the connection.
    fn run(self: Box<Self>) -> Outcome;
}

pub(crate) struct StreamWork {
    pub(crate) connection: Connection,
    pub(crate) handler: Arc<dyn StreamRequestHandler>,
}

impl Work for StreamWork {
    fn id(&self) -> u64 {
        self.connection.id()
    }

    fn peer(&self) -> &Address {
        self.connection.peer_addr()
    }

    fn link(&self) -> Option<&Arc<Link>> {
        Some(self.connection.link())
    }

    fn verify(&self) -> bool {
        let verify = guard(|| Ok(self.handler.verify_request(&self.connection)));
        verify.unwrap_or_else(|error| {
            let handle_error = |error: &_| self.handler.handle_error(&self.connection, error);
            let _refused = report(handle_error, self.peer(), error);
            false
        })
    }

    fn run(self: Box<Self>) -> Outcome {
        let StreamWork { mut connection, handler } = *self;
        let results = run(
            &mut connection,
            |connection| handler.setup(connection),
            |connection| handler.handle(connection),
            |connection| handler.finish(connection),
        );
        let handle_error = |error: &_| handler.handle_error(&connection, error);
        let outcome = settle(results, handle_error, connection.peer_addr());
        let peer = connection.peer_addr().clone();
        if let Err(error) = connection.close() {
            log::debug!("{peer} has gone before its last answer: {error}");
        }
        outcome
    }
}

pub(crate) struct DatagramWork {
    pub(crate) request: DatagramRequest,
    pub(crate) handler: Arc<dyn DatagramRequestHandler>,
}

impl DatagramWork {
    pub(crate) fn report(&self, error: HandlerError) {
        let handle_error = |error: &_| self.handler.handle_error(&self.request, error);
        let _dropped = report(handle_error, self.request.peer_addr(), error);
    }
}

impl Work for DatagramWork {
    fn id(&self) -> u64 {
        self.request.id()
    }

    fn peer(&self) -> &Address {
        self.request.peer_addr()
    }

    fn link(&self) -> Option<&Arc<Link>> {
        None
    }

    fn verify(&self) -> bool {
        let verify = guard(|| Ok(self.handler.verify_request(&self.request)));
        verify.unwrap_or_else(|error| {
            self.report(error);
            false
        })
    }

    fn run(self: Box<Self>) -> Outcome {
        let DatagramWork { mut request, handler } = *self;
        let results = run(
            &mut request,
            |request| handler.setup(request),
            |request| {
                handler.handle(request)?;
                Ok(request.send_collected()?)
            },
            |request| handler.finish(request),
        );
        settle(results, |error| handler.handle_error(&request, error), request.peer_addr())
    }
}

/// The order of calls: `finish` runs whenever `setup` succeeded.
fn run<R>(
    request: &mut R,
    setup: impl FnOnce(&mut R) -> HandlerResult,
    handle: impl FnOnce(&mut R) -> HandlerResult,
    finish: impl FnOnce(&mut R) -> HandlerResult,
) -> [HandlerResult; 2] {
    if let Err(error) = guard(|| setup(request)) {
        return [Err(error), Ok(())];
    }
    [guard(|| handle(request)), guard(|| finish(request))]
}

/// Turns a panic into an error.
fn guard<T>(call: impl FnOnce() -> Result<T, HandlerError>) -> Result<T, HandlerError> {
    // What a panic leaves behind is seen by `finish` and `handle_error` alone, and then dropped.
    // Handlers that share state guard it themselves, as with any panicking thread.
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(Error::Panicked { message: panic_message(&*panic) }.into()))
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(message) = panic.downcast_ref::<&str>() {
        (*message).to_owned()
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message.clone()
    } else {
        "of an unknown kind".to_owned()
    }
}

/// What `handle_error` is called with.
type Reported = dyn std::error::Error + Send + Sync + 'static;

/// Reports the errors, and names the worst.
fn settle(
    results: [HandlerResult; 2],
    handle_error: impl Fn(&Reported),
    peer: &Address,
) -> Outcome {
    let errors = results.into_iter().filter_map(Result::err);
    let outcomes = errors.map(|error| report(&handle_error, peer, error));
    outcomes.max().unwrap_or(Outcome::Completed)
}

/// Hands an error to the handler's own `handle_error`, unless it only says that the peer is gone.
fn report(handle_error: impl Fn(&Reported), peer: &Address, error: HandlerError) -> Outcome {
    if is_hang_up(&*error) {
        log::debug!("{peer} hung up: {error}");
        return Outcome::Completed;
    }
    let reported = guard(|| {
        handle_error(&*error);
        Ok(())
    });
    if let Err(panic) = reported {
        log::error!("{peer}: {error}; and handle_error: {panic}");
    }
    match error.downcast_ref() {
        Some(Error::Panicked { .. }) => Outcome::Panicked,
        _ => Outcome::Failed,
    }
}
