//! What the rest of a program holds of a server: [`ServerHandle`] and [`RunningServer`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, thread};

use super::{ConnectionInfo, ServerState, Stats, StopReport};
use crate::address::Address;
use crate::config::{Access, ConnectionRate};
use crate::error::{Error, Result};
use crate::id::ConnectionId;

/// A server seen from outside: to read its counters, change its limits and stop it, from any thread,
/// from a handler, or (only [`shutdown`](ServerHandle::shutdown)) from a signal handler.
///
/// Cloning is cheap. A handle does not keep the server running.
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

    /// The address that the server was bound to, with the real port where 0 was asked for. It is
    /// that of its first listener; [`listeners`](ServerHandle::listeners) has all.
    pub fn local_addr(&self) -> &Address {
        self.state.local_addr()
    }

    /// Counters since the server was made.
    pub fn stats(&self) -> Stats {
        self.state.processes.stats(self.state.registry.len())
    }

    /// The requests being served now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.state.registry.snapshot()
    }

    /// Shuts one connection down: its handler reads EOF, or gets an error when it writes. Returns
    /// whether there is such a connection; a datagram is none.
    pub fn disconnect(&self, id: ConnectionId) -> bool {
        self.state.registry.disconnect(id)
    }

    /// How many requests are served at a time: the builder's
    /// [`max_connections`](crate::Builder::max_connections), unless it was changed since.
    pub fn max_connections(&self) -> usize {
        self.state.limits.max_connections()
    }

    /// Changes how many requests are served at a time. Zero counts as one. If more are being served
    /// now, they go on, and none is accepted until enough of them have ended.
    pub fn set_max_connections(&self, connections: usize) {
        self.state.limits.set_max_connections(connections);
        self.state.wake_acceptor();
    }

    /// How many requests of one peer are served at a time; `None`: any number.
    pub fn max_connections_per_peer(&self) -> Option<usize> {
        self.state.limits.max_per_peer()
    }

    /// Changes how many requests of one peer are served at a time:
    /// [`max_connections_per_peer`](crate::Builder::max_connections_per_peer). `None`: any number; zero
    /// counts as one.
    /// Requests that were accepted while there was no such limit are not counted.
    pub fn set_max_connections_per_peer(&self, connections: impl Into<Option<usize>>) {
        self.state.limits.set_max_per_peer(connections.into().map(|max| max.max(1)));
    }

    /// How often one peer may connect; `None`: as often as it likes.
    pub fn connection_rate(&self) -> Option<ConnectionRate> {
        self.state.limits.rate()
    }

    /// Changes how often one peer may connect:
    /// [`connection_rate`](crate::Builder::connection_rate). `None`: as often as it likes. Counting
    /// starts anew.
    pub fn set_connection_rate(&self, rate: impl Into<Option<ConnectionRate>>) {
        self.state.limits.set_rate(rate.into());
    }

    /// Changes who may connect: [`access`](crate::Builder::access). Open connections stay open.
    pub fn set_access(&self, access: Access) {
        self.state.limits.set_access(access);
    }

    /// Changes the TLS of connections that are accepted from now on, when a certificate was renewed for
    /// instance: [`tls`](crate::Builder::tls). Open connections, and handshakes that have begun, keep
    /// theirs. A child of a forking server has that of its parent when it was forked; those of
    /// [`Prefork`](crate::Prefork) live long, and each changes its own, in
    /// [`service_actions`](crate::Builder::service_actions) for instance.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the server was made without TLS.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, config: impl Into<crate::TlsConfig>) -> Result<()> {
        match self.state.set_tls(config.into().into_inner()) {
            true => Ok(()),
            false => Err(Error::Unsupported { reason: "the server was made without TLS" }),
        }
    }

    /// Leaves new connections in the kernel's backlog until [`resume`](ServerHandle::resume). Open
    /// ones are served on, and one that is just being accepted still is. A stop serves those in the
    /// backlog, as always.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?;
    /// server.suspend();
    /// // ... what is better done while no request is accepted ...
    /// server.resume();
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn suspend(&self) {
        self.state.limits.suspend(true);
        self.state.wake_acceptor();
    }

    /// Ends a [`suspend`](ServerHandle::suspend), if there was one: connections are accepted again,
    /// those in the backlog first.
    pub fn resume(&self) {
        self.state.limits.suspend(false);
        self.state.wake_acceptor();
    }

    /// Whether new connections are left in the backlog.
    pub fn is_suspended(&self) -> bool {
        self.state.limits.is_suspended()
    }

    /// Asks the server to stop and returns at once, unlike CPython's `shutdown()`, which waits;
    /// [`stop`](ServerHandle::stop) waits.
    ///
    /// `serve_forever` then stops accepting, serves what is in the backlog, lets each handler read to
    /// the end of what was received, and returns when all requests have ended, after the
    /// [`stop_timeout`](crate::Builder::stop_timeout) at the latest.
    ///
    /// May be called before, during and after serving, more than once, from a handler, and from a
    /// signal handler: it takes no lock and allocates nothing. A server that was shut down before it
    /// served refuses to serve. In a child of a forking server it stops the parent, and so all.
    pub fn shutdown(&self) {
        self.state.shutdown();
    }

    /// Whether a shutdown was asked for.
    pub fn is_stopping(&self) -> bool {
        self.state.is_stopping()
    }

    /// Asks the server to stop and waits until it has, at most for `timeout`; returns what became of
    /// each connection. (CPython's `shutdown()` waits too, but without a timeout.) A timeout of zero
    /// shuts all connections down at once; their handlers get a tenth of a second to end.
    ///
    /// A client that does not take what was written to it, such as a member of a
    /// [`Broadcast`](crate::Broadcast) that does not read, is waited for until shortly before the
    /// end of the timeout, or for the [`write_timeout`](crate::Builder::write_timeout) if that is
    /// shorter. One such client is enough for a stop to take all of its time; the report counts it
    /// as [`forced`](StopReport::forced).
    ///
    /// Called from a handler, it waits for that handler too, and so for the whole timeout; use
    /// [`shutdown`](ServerHandle::shutdown) there.
    pub fn stop(&self, timeout: Duration) -> StopReport {
        self.state.stop(timeout)
    }

    /// The write end of a pipe: a byte written to it is a [`shutdown`](ServerHandle::shutdown). It is
    /// for signals, and for all that can only write to a descriptor (self-pipe):
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

/// A server that serves on a thread of its own ([`Server::spawn`](crate::Server::spawn)), and stops
/// when this is dropped.
///
/// Dropping it is a [`stop`](RunningServer::stop) with the server's
/// [`stop_timeout`](crate::Builder::stop_timeout), and may take as long; while the thread panics,
/// with a timeout of zero.
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

    /// A handle for other threads, and for what only a [`ServerHandle`] has: limits that change while
    /// the server serves, and the shutdown pipe.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// See [`ServerHandle::local_addr`].
    pub fn local_addr(&self) -> &Address {
        self.handle.local_addr()
    }

    /// See [`ServerHandle::stats`].
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// See [`ServerHandle::connections`].
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.handle.connections()
    }

    /// See [`ServerHandle::disconnect`].
    pub fn disconnect(&self, id: ConnectionId) -> bool {
        self.handle.disconnect(id)
    }

    /// See [`ServerHandle::suspend`].
    pub fn suspend(&self) {
        self.handle.suspend();
    }

    /// See [`ServerHandle::resume`].
    pub fn resume(&self) {
        self.handle.resume();
    }

    /// See [`ServerHandle::is_stopping`].
    pub fn is_stopping(&self) -> bool {
        self.handle.is_stopping()
    }

    /// See [`ServerHandle::shutdown`]: returns at once.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Stops the server and waits until it has: see [`ServerHandle::stop`]. Its threads are joined,
    /// except those of requests that the report calls stuck.
    pub fn stop(mut self, timeout: Duration) -> StopReport {
        self.stop_and_join(timeout)
    }

    /// Waits until the server has stopped, which something else asks it to do.
    ///
    /// # Errors
    /// Those of [`serve_forever`](crate::Server::serve_forever).
    pub fn join(mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(()),
        }
    }

    fn stop_and_join(&mut self, timeout: Duration) -> StopReport {
        let report = self.handle.stop(timeout);
        if let Some(thread) = self.thread.take() {
            // The thread of a sequential server is stuck in its handler, and cannot be joined.
            if (report.stuck.is_empty() || thread.is_finished())
                && let Ok(Err(error)) = thread.join()
            {
                log::error!("{}: {error}", self.handle.local_addr());
            }
        }
        report
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            self.stop_and_join(self.handle.state.settings.stop_timeout);
        } else if self.thread.is_some() {
            self.stop_and_join(Duration::ZERO);
        }
    }
}
