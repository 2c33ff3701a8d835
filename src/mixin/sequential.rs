//! [`Sequential`]: one request at a time, on the thread that accepts.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use super::Mixin;
use crate::accept::BaseServer;
use crate::net::{Interest, Stream, Wait};
use crate::request::Request;
use crate::state::ServerState;
use crate::sys::poll::poll;

/// Serves one request at a time; all others wait in the backlog.
///
/// For short requests, and for handlers that must not run concurrently. A connected client keeps
/// all others waiting; a [`read_timeout`](crate::Builder::read_timeout) bounds how long. A stop
/// does not wait for the client: the handler reads end-of-file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequential;

impl Mixin for Sequential {
    fn process_request(&self, server: &BaseServer, request: Request) {
        // While the only thread waits for the client, it also waits for the shutdown signal.
        let watch = WaitForStreamOrStop { state: server.state().clone() };
        request.wait_with(watch);
        let _reason = request.finish();
    }
}

struct WaitForStreamOrStop {
    state: Arc<ServerState>,
}

impl Wait for WaitForStreamOrStop {
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let Some(fd) = stream.as_fd() else { return Ok(()) };
        let state = &self.state;
        loop {
            let stopping = state.is_stopping();
            if stopping {
                // No other thread has noticed that the stop was requested.
                state.begin_stop();
            }
            let force = stopping.then(|| state.schedule().force);
            let stop = (!stopping).then(|| (state.shutdown_signal(), Interest::Read));
            let wake_up = [deadline, force].into_iter().flatten().min();
            let [stop, ready] = poll([stop, Some((fd, interest))], [], wake_up)?;
            if stop {
                // Shuts down the read side of this connection, which makes it ready.
                state.begin_stop();
            } else if ready {
                return Ok(());
            } else if force.is_some_and(|force| Instant::now() >= force) {
                state.registry.force();
                let _ = stream.shutdown(Shutdown::Both);
                return Err(io::ErrorKind::ConnectionAborted.into());
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}
