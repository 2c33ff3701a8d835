//! What the rest of the program holds: [`ServerHandle`] and [`RunningServer`].

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, thread};

use crate::address::Address;
use crate::config::Access;
use crate::config::ConnectionRate;
use crate::error::{Error, Result};
use crate::id::ConnectionId;
use crate::state::ConnectionInfo;
use crate::state::Stats;
use crate::state::{ServerState, StopReport};

/// A server seen from outside: to ask after it and to stop it, from any thread, from a handler,
/// or (only [`shutdown`](ServerHandle::shutdown)) from a signal handler.
///
/// Cloning is cheap; a handle keeps no server alive.
#[derive(Clone)]
pub struct ServerHandle {
    state: Arc<ServerState>,
}

impl ServerHandle {
    pub(crate) fn new(state: Arc<ServerState>) -> ServerHandle {
        ServerHandle { state }
    }

    pub(crate) fn state(&self) -> &Arc<ServerState> {
        &self.state
    }

    /// The address that the server listens on, with the real port where 0 was asked for.
    pub fn local_addr(&self) -> &Address {
        &self.state.local_addr
    }

    /// Counters since the server was made.
    pub fn stats(&self) -> Stats {
        self.state.stats().snapshot(self.state.registry.len())
    }

    /// The requests being served now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.state.registry.snapshot()
    }

    /// Cuts one connection off: its handler sees end-of-file, or an error when it writes. Whether
    /// there is such a connection; a datagram is none.
    pub fn disconnect(&self, id: ConnectionId) -> bool {
        self.state.registry.disconnect(id)
    }

    /// How many requests are served at a time; what
    /// [`max_connections`](crate::Builder::max_connections) said, unless it was changed since.
    pub fn max_connections(&self) -> usize {
        self.state.limits.max_connections()
    }

    /// Changes how many requests are served at a time. Zero counts as one. Where there are more of
    /// them now, they stay, and nobody comes in until enough have left.
    pub fn set_max_connections(&self, connections: usize) {
        self.state.limits.set_max_connections(connections);
        self.state.wake_acceptor();
    }

    /// Changes how many requests of one peer are served at a time:
    /// [`max_connections_per_peer`](crate::Builder::max_connections_per_peer). Those that came
    /// while there was no such limit are not counted.
    pub fn set_max_connections_per_peer(&self, connections: impl Into<Option<usize>>) {
        self.state.limits.set_max_per_peer(connections.into());
    }

    /// Changes how often one peer may connect:
    /// [`connection_rate`](crate::Builder::connection_rate). What was counted so far is forgotten.
    pub fn set_connection_rate(&self, rate: impl Into<Option<ConnectionRate>>) {
        self.state.limits.set_rate(rate.into());
    }

    /// Changes who may connect: [`access`](crate::Builder::access). Those who are connected stay.
    pub fn set_access(&self, access: Access) {
        self.state.limits.set_access(access);
    }

    /// Leaves newcomers in the kernel's backlog, until [`resume`](ServerHandle::resume); those who
    /// are connected are served on. One that is just being accepted still comes in. A stop serves
    /// those in the backlog, as ever.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?;
    /// server.suspend();
    /// // ... whatever is better done without newcomers ...
    /// server.resume();
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn suspend(&self) {
        self.state.limits.suspend(true);
        self.state.wake_acceptor();
    }

    /// Ends a [`suspend`](ServerHandle::suspend), if there was one: newcomers are served again,
    /// those in the backlog first.
    pub fn resume(&self) {
        self.state.limits.suspend(false);
        self.state.wake_acceptor();
    }

    /// Whether newcomers are left in the backlog.
    pub fn is_suspended(&self) -> bool {
        self.state.limits.is_suspended()
    }

    /// Asks the server to stop, and returns at once.
    ///
    /// `serve_forever` then stops accepting, serves what the kernel has already accepted, lets
    /// each handler read to the end of what was received, and returns when all have ended, or at
    /// the [`stop_timeout`](crate::Builder::stop_timeout) at the latest.
    ///
    /// May be called before, during and after serving, again, from a handler, and from a signal
    /// handler: it takes no lock and allocates nothing. A server that was shut down before it
    /// served refuses to serve. In a child of a forking server it stops the parent.
    pub fn shutdown(&self) {
        self.state.shutdown();
    }

    /// Whether a shutdown was asked for.
    pub fn is_stopping(&self) -> bool {
        self.state.is_stopping()
    }

    /// Asks the server to stop and waits until it has, at most for `deadline`; says what became
    /// of each connection. Zero cuts all connections off at once; they get a tenth of a second to
    /// be gone.
    ///
    /// Called from a handler it waits for that handler too, and so for the whole deadline;
    /// [`shutdown`](ServerHandle::shutdown) is for that.
    pub fn stop(&self, deadline: Duration) -> StopReport {
        self.state.stop(deadline)
    }

    /// A pipe to write to: any byte written to it is a [`shutdown`](ServerHandle::shutdown). Made
    /// for signals, and for whatever else can only write to a descriptor:
    ///
    /// ```
    /// # use socketserver::{ThreadingTcpServer, services::Echo};
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?;
    /// for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
    ///     let pipe = server.handle().shutdown_pipe()?;
    ///     signal_hook::low_level::pipe::register(signal, pipe)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn shutdown_pipe(&self) -> Result<OwnedFd> {
        self.state.shutdown_pipe().map_err(Error::system("duplicate the shutdown pipe"))
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("local_addr", self.local_addr())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A server that serves on a thread of its own: a [`ServerHandle`] that stops it when dropped.
///
/// Dropping it is a [`stop`](ServerHandle::stop) with the server's
/// [`stop_timeout`](crate::Builder::stop_timeout).
#[derive(Debug)]
#[must_use = "dropping it stops the server"]
pub struct RunningServer {
    handle: ServerHandle,
    thread: Option<JoinHandle<Result<()>>>,
}

impl RunningServer {
    pub(crate) fn new(handle: ServerHandle, thread: JoinHandle<Result<()>>) -> RunningServer {
        RunningServer { handle, thread: Some(thread) }
    }

    /// A handle that can be given away.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Stops the server: see [`ServerHandle::stop`]. Its threads are joined, but for those that
    /// the report calls stuck.
    pub fn stop(mut self, deadline: Duration) -> StopReport {
        self.stop_and_join(deadline)
    }

    /// Waits until the server ends by itself, which is when something else shuts it down.
    ///
    /// # Errors
    /// Those of `serve_forever`.
    pub fn join(mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }

    fn stop_and_join(&mut self, deadline: Duration) -> StopReport {
        let report = self.handle.stop(deadline);
        if let Some(thread) = self.thread.take() {
            // A sequential server whose one handler is stuck cannot be joined.
            if (report.stuck.is_empty() || thread.is_finished())
                && let Ok(Err(error)) = thread.join()
            {
                log::error!("{}: {error}", self.handle.local_addr());
            }
        }
        report
    }
}

impl Deref for RunningServer {
    type Target = ServerHandle;

    fn deref(&self) -> &ServerHandle {
        &self.handle
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            self.stop_and_join(self.handle.state.settings.stop_timeout);
        } else if self.thread.is_some() {
            // While a test or a program comes down, nobody should wait for its clients.
            self.stop_and_join(Duration::ZERO);
        }
    }
}
