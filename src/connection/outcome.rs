//! Why a connection ends: what its reads, writes and hooks imply.

use std::error::Error;
use std::io;
use std::time::Instant;

use super::Connection;
use crate::close_reason::CloseReason;

impl Connection {
    /// Why the connection ends. `None` until [`handle`](crate::StreamRequestHandler::handle) has
    /// returned; set in [`finish`](crate::StreamRequestHandler::finish) and
    /// [`handle_error`](crate::StreamRequestHandler::handle_error).
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// How many bytes a read may return. During a stop the input ends after the bytes that were
    /// received when this connection first noticed the stop. Linux keeps receiving after
    /// `shutdown(SHUT_RD)`, and a client that never stops sending would never read EOF.
    #[inline(always)]
    pub(super) fn receive_limit(&mut self) -> io::Result<usize> {
        if self.drain_remaining.is_none() && self.is_stopping() {
            self.check_shutdown();
            self.drain_remaining = Some(self.stream.inner().unread()?);
        }
        Ok(self.drain_remaining.unwrap_or(usize::MAX).min(self.timeouts.max_length()))
    }

    /// Begins or enforces the stop. With one thread for everything, the accept loop cannot do that
    /// while a handler runs.
    #[inline(always)]
    pub(super) fn check_shutdown(&self) {
        if self.is_stopping() {
            let state = self.server.state();
            state.begin_stop();
            if Instant::now() >= state.schedule().force {
                state.registry.force();
            }
        }
    }

    /// A successful read (`None`) or EOF replaces an earlier failure, unless the connection is
    /// broken.
    pub(super) fn record_success(&mut self, reason: Option<CloseReason>) {
        if !self.is_broken {
            self.io_close_reason = reason;
        }
    }

    /// Records what an error implies for the connection: the handler may ignore the error.
    #[inline(always)]
    pub(super) fn record_failure<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.record_error(error);
        }
        result
    }

    #[cold]
    #[inline(never)]
    fn record_error(&mut self, error: &io::Error) {
        let Some(reason) = CloseReason::of(error) else { return };
        let is_disconnect = matches!(reason, CloseReason::Eof | CloseReason::Reset);
        let by_server = if is_disconnect { self.closed_by_server() } else { None };
        self.is_broken |= reason == CloseReason::Reset;
        // `UnexpectedEof` after EOF does not change the reason.
        self.io_close_reason = by_server.or(if reason == CloseReason::Eof {
            self.io_close_reason
        } else {
            Some(reason)
        });
    }

    /// The reason if the server has shut the connection.
    pub(super) fn closed_by_server(&self) -> Option<CloseReason> {
        // In a forked child it is the parent's process that shuts it, without recording a reason
        // here.
        let by_stop = self.stream.is_read_shutdown() && self.is_stopping();
        self.stream.close_reason().or(by_stop.then_some(CloseReason::Stopped))
    }

    /// To be called after `handle`, or after a failed `setup` or `finish`, with its error. Returns
    /// what that implies; the first call sets the close reason.
    pub(crate) fn set_close_reason(
        &mut self,
        error: Option<&(dyn Error + Send + Sync + 'static)>,
    ) -> CloseReason {
        let reason = self.classify(error.map(|error| error as _));
        // A panic may have interrupted `with_message_timeout`.
        self.timeouts.reset_message();
        self.close_reason.get_or_insert(reason);
        reason
    }

    /// What a hook's error, if any, implies for the connection. A disconnect error counts as this
    /// connection's only if this connection has recorded one: the handler may use other
    /// connections.
    fn classify(&self, error: Option<&(dyn Error + 'static)>) -> CloseReason {
        let Some(error) = error else {
            return self.io_close_reason.unwrap_or(CloseReason::Completed);
        };
        match CloseReason::of(error) {
            // Another connection was reset, not this one.
            Some(CloseReason::Reset) if !self.is_broken => CloseReason::Failed,
            Some(CloseReason::Eof | CloseReason::Reset) => {
                self.io_close_reason.unwrap_or(CloseReason::Failed)
            }
            Some(reason @ CloseReason::Panicked) => reason,
            Some(reason) => self.io_close_reason.unwrap_or(reason),
            None => CloseReason::Failed,
        }
    }
}
