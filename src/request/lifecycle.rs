//! The order in which a handler's methods are called, and what becomes of their errors and panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::handler::{HandlerError, HandlerResult};

/// What `handle_error` is called with.
pub(super) type DynError = dyn std::error::Error + Send + Sync + 'static;

/// Why the request ended, and the errors of its methods, each with its own reason.
pub(super) struct Outcome {
    pub(super) reason: CloseReason,
    errors: Vec<(CloseReason, HandlerError)>,
}

/// Calls `setup`, then `handle`; then `set_close_reason`, which says why the request ends; then
/// `finish`, whenever `setup` succeeded.
pub(super) fn run<R>(
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
    /// Calls `handle_error` for each error, except those that only say that the client has
    /// disconnected.
    pub(super) fn report(&self, peer: &Address, handle_error: impl Fn(&DynError)) {
        for (reason, error) in &self.errors {
            if Error::is_disconnect(&**error) && *reason != CloseReason::Failed {
                log::debug!("{peer} disconnected: {error}");
            } else {
                report(&handle_error, peer, &**error);
            }
        }
    }
}

/// Calls `handle_error`, and logs a panic in it.
pub(super) fn report(handle_error: impl Fn(&DynError), peer: &Address, error: &DynError) {
    let reported = catch_panic(|| {
        handle_error(error);
        Ok(())
    });
    if let Err(panic) = reported {
        log::error!("{peer}: {error}; and handle_error: {panic}");
    }
}

/// Turns a panic into an error.
pub(super) fn catch_panic<T>(
    call: impl FnOnce() -> Result<T, HandlerError>,
) -> Result<T, HandlerError> {
    // Unwind safety: only `finish` and `handle_error` see what a panic leaves behind, and then it
    // is dropped. Handlers that share state guard it themselves, as with any panicking thread.
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
