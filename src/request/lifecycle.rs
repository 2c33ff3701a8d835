//! What a handler is put through: the order of its calls, its errors and its panics.

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::connection::Connection;
use crate::datagram::DatagramRequest;
use crate::error::Error;
use crate::handler::{DatagramRequestHandler, HandlerError, HandlerResult, StreamRequestHandler};
use crate::id::ConnectionId;
use crate::net::SharedStream;

/// A request together with its handler, whichever their kind.
pub(crate) trait RequestTask: Send {
    /// The request's number.
    fn id(&self) -> ConnectionId;
    /// Who is at the other end.
    fn peer(&self) -> &Address;
    /// The stream, which a datagram has not.
    fn shared_stream(&self) -> Option<&Arc<SharedStream>>;
    /// Whether the handler wants it.
    fn verify(&self) -> bool;
    /// `setup`, `handle`, `finish`, and the end of the connection.
    fn run(self: Box<Self>) -> CloseReason;
}

pub(crate) struct StreamTask {
    pub(crate) connection: Connection,
    pub(crate) handler: Arc<dyn StreamRequestHandler>,
}

impl RequestTask for StreamTask {
    fn id(&self) -> ConnectionId {
        self.connection.id()
    }

    fn peer(&self) -> &Address {
        self.connection.peer_addr()
    }

    fn shared_stream(&self) -> Option<&Arc<SharedStream>> {
        Some(self.connection.shared_stream())
    }

    fn verify(&self) -> bool {
        let verify = catch_panic(|| Ok(self.handler.verify_request(&self.connection)));
        verify.unwrap_or_else(|error| {
            let handle_error = |error: &_| self.handler.handle_error(&self.connection, error);
            report(handle_error, self.peer(), &*error);
            false
        })
    }

    fn run(self: Box<Self>) -> CloseReason {
        let StreamTask { mut connection, handler } = unbox(self);
        let outcome = run(
            &mut connection,
            |connection| handler.setup(connection),
            |connection| {
                handler.handle(connection)?;
                // Now, so that `finish` knows whether the last answers could be sent.
                Ok(connection.flush()?)
            },
            Connection::set_close_reason,
            |connection| handler.finish(connection),
        );
        close_after_handler(&mut connection, &*handler, &outcome);
        outcome.reason
    }
}

/// What comes after the hooks.
// Not a part of its caller, whose frame is on the stack while a handler runs: of an idle connection
// as little as can be is in memory, and in the processor's caches.
#[inline(never)]
fn close_after_handler(
    connection: &mut Connection,
    handler: &dyn StreamRequestHandler,
    outcome: &Outcome,
) {
    outcome.report(connection.peer_addr(), |error| handler.handle_error(connection, error));
    let closed = connection.close();
    let peer = connection.peer_addr();
    if let Err(error) = closed {
        log::debug!("{peer} has gone before its last answer: {error}");
    }
    log::debug!("{peer}: {}", outcome.reason);
}

pub(crate) struct DatagramTask {
    pub(crate) request: DatagramRequest,
    pub(crate) handler: Arc<dyn DatagramRequestHandler>,
}

impl DatagramTask {
    pub(crate) fn report(&self, error: HandlerError) {
        let handle_error = |error: &_| self.handler.handle_error(&self.request, error);
        report(handle_error, self.request.peer_addr(), &*error);
    }
}

impl RequestTask for DatagramTask {
    fn id(&self) -> ConnectionId {
        self.request.id()
    }

    fn peer(&self) -> &Address {
        self.request.peer_addr()
    }

    fn shared_stream(&self) -> Option<&Arc<SharedStream>> {
        None
    }

    fn verify(&self) -> bool {
        let verify = catch_panic(|| Ok(self.handler.verify_request(&self.request)));
        verify.unwrap_or_else(|error| {
            self.report(error);
            false
        })
    }

    fn run(self: Box<Self>) -> CloseReason {
        let DatagramTask { mut request, handler } = *self;
        let outcome = run(
            &mut request,
            |request| handler.setup(request),
            |request| {
                handler.handle(request)?;
                Ok(request.send_collected()?)
            },
            |_, error| error.map_or(CloseReason::Completed, datagram_close_reason),
            |request| handler.finish(request),
        );
        outcome.report(request.peer_addr(), |error| handler.handle_error(&request, error));
        outcome.reason
    }
}

/// Gives the memory back at once, and not when the request has ended.
#[expect(clippy::boxed_local, reason = "what is dropped here is the box")]
fn unbox<T>(task: Box<T>) -> T {
    *task
}

fn datagram_close_reason(error: &DynError) -> CloseReason {
    match CloseReason::of(error) {
        Some(reason @ (CloseReason::Panicked | CloseReason::Reset)) => reason,
        _ => CloseReason::Failed,
    }
}

/// What `handle_error` is called with.
type DynError = dyn std::error::Error + Send + Sync + 'static;

/// What the hooks came to: what went wrong in them, each with what it means for the request.
struct Outcome {
    reason: CloseReason,
    errors: Vec<(CloseReason, HandlerError)>,
}

/// The order of calls: `finish` runs whenever `setup` succeeded, and after `set_close_reason` has said why
/// the request ends.
fn run<R>(
    request: &mut R,
    setup: impl FnOnce(&mut R) -> HandlerResult,
    handle: impl FnOnce(&mut R) -> HandlerResult,
    set_close_reason: impl Fn(&mut R, Option<&DynError>) -> CloseReason,
    finish: impl FnOnce(&mut R) -> HandlerResult,
) -> Outcome {
    let set_up = catch_panic(|| setup(request));
    let is_set_up = set_up.is_ok();
    let handled = set_up.and_then(|()| catch_panic(|| handle(request)));
    let mut reason = set_close_reason(request, handled.as_ref().err().map(|error| &**error));
    let mut errors = Vec::new();
    errors.extend(handled.err().map(|error| (reason, error)));
    if is_set_up && let Err(error) = catch_panic(|| finish(request)) {
        let of_finish = set_close_reason(request, Some(&*error));
        reason = reason.most_severe(of_finish);
        errors.push((of_finish, error));
    }
    Outcome { reason, errors }
}

impl Outcome {
    /// Hands the errors to the handler's own `handle_error`, but for those that only say that the
    /// peer is gone.
    fn report(&self, peer: &Address, handle_error: impl Fn(&DynError)) {
        for (reason, error) in &self.errors {
            if Error::is_disconnect(&**error) && *reason != CloseReason::Failed {
                log::debug!("{peer} hung up: {error}");
            } else {
                report(&handle_error, peer, &**error);
            }
        }
    }
}

fn report(handle_error: impl Fn(&DynError), peer: &Address, error: &DynError) {
    let reported = catch_panic(|| {
        handle_error(error);
        Ok(())
    });
    if let Err(panic) = reported {
        log::error!("{peer}: {error}; and handle_error: {panic}");
    }
}

/// Turns a panic into an error.
fn catch_panic<T>(call: impl FnOnce() -> Result<T, HandlerError>) -> Result<T, HandlerError> {
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
