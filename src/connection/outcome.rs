//! How a connection knows that it ends, and why.

use std::error::Error;
use std::io;
use std::time::Instant;

use super::Connection;
use crate::close_reason::{CloseReason, is_hang_up};

impl Connection {
    /// Why the connection ends: `None` while `handle` is running, for
    /// [`finish`](crate::StreamRequestHandler::finish) and
    /// [`handle_error`](crate::StreamRequestHandler::handle_error) to look at.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// In a stop the input ends behind what had been received when that was first noticed. A
    /// system may go on receiving after its read side was shut, as Linux does, and a client that
    /// never ceases to send would never come to the end.
    #[inline(always)]
    pub(super) fn receive_limit(&mut self) -> io::Result<usize> {
        if self.drain_remaining.is_none() && self.is_stopping() {
            self.check_shutdown();
            self.drain_remaining = Some(self.stream.inner().unread()?);
        }
        Ok(self.drain_remaining.unwrap_or(usize::MAX))
    }

    /// Where one thread does everything, nobody else may have noticed that a stop has begun, or
    /// that its deadline has come, while this connection was never waited for.
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

    /// Reading goes on, or comes to its end: what failed before is over, but for what cannot be.
    pub(super) fn record_success(&mut self, ended: Option<CloseReason>) {
        if !self.is_broken {
            self.end_reason = ended;
        }
    }

    /// Remembers what a failure says of the connection: the handler may keep it to itself.
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
        let by_us = if is_hang_up(error) { self.closed_by_server() } else { None };
        self.is_broken |= reason == CloseReason::Reset;
        // After the end of the input a message that lacks its end is no news.
        self.end_reason =
            by_us.or(if reason == CloseReason::Eof { self.end_reason } else { Some(reason) });
    }

    /// Why this side has ended the connection, if it has.
    pub(super) fn closed_by_server(&self) -> Option<CloseReason> {
        // What the parent of a forked child does to the connection is not known in the child.
        let by_stop = self.stream.is_read_shutdown() && self.is_stopping();
        self.stream.close_reason().or(by_stop.then_some(CloseReason::Stopped))
    }

    /// `handle` is over, or `setup` has failed; says what that means for the connection.
    pub(crate) fn set_close_reason(
        &mut self,
        error: Option<&(dyn Error + Send + Sync + 'static)>,
    ) -> CloseReason {
        let reason = self.classify(error.map(|error| error as _));
        // Should a panic have interrupted one.
        self.timeouts.reset_message();
        self.close_reason.get_or_insert(reason);
        reason
    }

    /// What a hook's error, if any, says of the connection. One that only tells that some
    /// connection has ended is about this one only where this one has: a handler may have others.
    fn classify(&self, error: Option<&(dyn Error + 'static)>) -> CloseReason {
        let Some(error) = error else { return self.end_reason.unwrap_or(CloseReason::Completed) };
        match CloseReason::of(error) {
            // It was another one, even where this one has ended in another way.
            Some(CloseReason::Reset) if !self.is_broken => CloseReason::Error,
            Some(CloseReason::Eof | CloseReason::Reset) => {
                self.end_reason.unwrap_or(CloseReason::Error)
            }
            Some(reason @ CloseReason::Panic) => reason,
            Some(reason) => self.end_reason.unwrap_or(reason),
            None => CloseReason::Error,
        }
    }
}
