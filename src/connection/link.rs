//! What both halves of a connection share, and neither changes.

use std::time::Instant;

use crate::close_reason::CloseReason;
use crate::net::SharedStream;
use crate::state::ServerHandle;

#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    pub(super) stream: &'a SharedStream,
    pub(super) server: &'a ServerHandle,
    pub(super) is_upstream: bool,
}

impl Link<'_> {
    /// Begins or enforces the stop. With one thread for everything, the accept loop cannot do that
    /// while a handler runs.
    #[inline(always)]
    pub(super) fn check_shutdown(self) {
        if self.server.is_stopping() {
            let state = self.server.state();
            state.begin_stop();
            state.drain_new_in_time();
            if Instant::now() >= state.schedule().force {
                state.registry.force();
            }
        }
    }

    /// Whether the stop leaves this connection alone for now: the listeners were handed over, and the
    /// client has not had an answer yet. A forked child knows that better than its parent, which
    /// shuts the connection that they share when the time is over.
    pub(super) fn is_spared(self) -> bool {
        self.server.state().processes.is_handed_over() && self.stream.close_reason().is_none()
    }

    /// The reason if the server has shut the connection.
    pub(super) fn closed_by_server(self) -> Option<CloseReason> {
        // In a forked child it is the parent's process that shuts it, without recording a reason
        // here.
        let by_stop = self.stream.is_read_shutdown() && self.server.is_stopping();
        self.stream.close_reason().or(by_stop.then_some(CloseReason::Stopped))
    }
}
