//! Why a connection ends: what its reads, writes and hooks imply.

use std::error::Error;
use std::io;

use super::Connection;
use super::link::Link;
use crate::close_reason::CloseReason;

/// What the reads, or the writes, of a connection imply.
#[derive(Default)]
pub(super) struct Outcome {
    /// What the last one implies, if anything.
    reason: Option<CloseReason>,
    /// A write has failed, or the connection was reset: no later success changes `reason`.
    pub(super) is_broken: bool,
}

impl Outcome {
    /// A successful read (`None`) or EOF replaces an earlier failure, unless the connection is
    /// broken.
    pub(super) fn record_success(&mut self, reason: Option<CloseReason>) {
        if !self.is_broken {
            self.reason = reason;
        }
    }

    #[inline(always)]
    pub(super) fn record_failure<T>(
        &mut self,
        result: io::Result<T>,
        link: Link<'_>,
    ) -> io::Result<T> {
        if let Err(error) = &result {
            self.record_error(error, link);
        }
        result
    }

    #[cold]
    #[inline(never)]
    fn record_error(&mut self, error: &io::Error, link: Link<'_>) {
        let Some(reason) = CloseReason::of(error) else { return };
        let is_disconnect = matches!(reason, CloseReason::Eof | CloseReason::Reset);
        let by_server = if is_disconnect { link.closed_by_server() } else { None };
        self.is_broken |= reason == CloseReason::Reset;
        // `UnexpectedEof` after EOF does not change the reason.
        let of_error = if reason == CloseReason::Eof { self.reason } else { Some(reason) };
        self.reason = by_server.or(of_error);
    }
}

impl Connection {
    /// The reason if the server has shut the connection.
    #[cfg(feature = "tls")]
    pub(crate) fn close_reason_of_server(&self) -> Option<CloseReason> {
        self.link().closed_by_server()
    }

    /// What its reads and writes imply. A failed write is final.
    pub(super) fn io_close_reason(&self) -> Option<CloseReason> {
        let (input, output) = (&self.input.outcome, &self.output.outcome);
        output.reason.or(input.reason)
    }

    /// Whether a write has failed or the connection was reset.
    pub(super) fn is_broken(&self) -> bool {
        self.input.outcome.is_broken || self.output.outcome.is_broken
    }

    /// Why the connection ends. `None` until [`handle`](crate::StreamRequestHandler::handle) has
    /// returned; set in [`finish`](crate::StreamRequestHandler::finish) and
    /// [`handle_error`](crate::StreamRequestHandler::handle_error).
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// To be called after `handle`, or after a failed `setup` or `finish`, with its error. Returns
    /// what that implies; the first call sets the close reason.
    pub(crate) fn set_close_reason(
        &mut self,
        error: Option<&(dyn Error + Send + Sync + 'static)>,
    ) -> CloseReason {
        let reason = self.classify(error.map(|error| error as _));
        // A panic may have interrupted `with_message_timeout`.
        self.input.timeouts.reset_message();
        self.close_reason.get_or_insert(reason);
        reason
    }

    /// What a hook's error, if any, implies for the connection. A disconnect error counts as this
    /// connection's only if this connection has recorded one: the handler may use other
    /// connections.
    fn classify(&self, error: Option<&(dyn Error + 'static)>) -> CloseReason {
        let Some(error) = error else {
            return self.io_close_reason().unwrap_or(CloseReason::Completed);
        };
        match CloseReason::of(error) {
            // An upstream that is closed with its client may notice the reset first.
            Some(CloseReason::Reset) if !self.is_broken() => match self.stream.is_hung_up() {
                true => CloseReason::Reset,
                // Another connection was reset, not this one.
                false => CloseReason::Failed,
            },
            Some(CloseReason::Eof | CloseReason::Reset) => {
                self.io_close_reason().unwrap_or(CloseReason::Failed)
            }
            Some(reason @ CloseReason::Panicked) => reason,
            Some(reason) => self.io_close_reason().unwrap_or(reason),
            None => CloseReason::Failed,
        }
    }
}
