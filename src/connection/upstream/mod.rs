//! Upstreams: the connections that a handler makes to other servers.

mod dial;
mod direction;
mod look_up;
mod options;
mod relay;
mod wait;

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::Connection;
use crate::address::Endpoint;
use crate::error::{Error, Result};
use crate::id::ConnectionId;
use crate::net::SharedStream;
use crate::state::events::{EventKind, Upstream as UpstreamEvent, UpstreamChange};
use crate::state::{ServerHandle, ServerState};
#[cfg(feature = "tls")]
use crate::tls::TlsClientConfig;
use dial::Dial;
use wait::{ClosesWith, UpstreamWait};

pub use options::ConnectOptions;
pub use relay::{RelayEnd, Relayed};

impl Connection {
    /// Connects to another server, over TCP or a Unix stream socket. `options` are a timeout, or
    /// [`ConnectOptions`].
    ///
    /// The result is a `Connection` to it, an upstream, with the buffers, timeouts and limits of the
    /// client's. Under [`Fibers`](crate::Fibers) its waits suspend the fiber, as the look-up of the name
    /// does. The output to the client so far is sent first.
    ///
    /// A host name is looked up on a thread of its own. Of several addresses each that fails is
    /// followed by the next, and one that does not answer within a quarter of a second is joined by the
    /// next; IPv6 and IPv4 take turns
    /// ([RFC 8305](https://www.rfc-editor.org/rfc/rfc8305#section-5)), in the order of the system's resolver
    /// ([RFC 6724](https://www.rfc-editor.org/rfc/rfc6724)).
    ///
    /// The upstream belongs to the request: [`ServerHandle::connections`] lists it with the client. A
    /// stop leaves it open while the handler answers what was received. When the stop is nearly out of
    /// time it is shut down with the client, and by [`ServerHandle::disconnect`]. Dropping it sends its
    /// output and closes it. An upstream takes a descriptor, for which
    /// [`max_connections`](crate::Builder::max_connections) reserves none.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{Connection, HandlerResult, ThreadingTcpServer};
    ///
    /// /// Answers each key with its value in a Redis.
    /// fn look_up(client: &mut Connection) -> HandlerResult {
    ///     let mut redis = client.connect("127.0.0.1:6379", Duration::from_secs(3))?;
    ///     let (mut key, mut length, mut value) = (String::new(), String::new(), String::new());
    ///     while client.read_line(&mut key)? > 0 {
    ///         write!(redis, "GET {}\r\n", key.trim_end())?;
    ///         redis.read_line(&mut length)?;
    ///         if length != "$-1\r\n" {
    ///             redis.read_line(&mut value)?;
    ///         }
    ///         client.write_all(value.as_bytes())?;
    ///         [&mut key, &mut length, &mut value].map(String::clear);
    ///     }
    ///     Ok(())
    /// }
    ///
    /// ThreadingTcpServer::bind("127.0.0.1:6380", look_up)?.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Address`] for an address that is none, or not of a stream; [`Error::Resolve`] for a name
    /// that is not found; [`Error::Connect`] if all addresses fail; [`Error::ConnectTimeout`];
    /// [`Error::Stopped`] when a stop is out of time; [`Error::Io`] if the output to the client cannot be
    /// sent.
    pub fn connect<A>(
        &mut self,
        address: A,
        options: impl Into<ConnectOptions>,
    ) -> Result<Connection>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        let endpoint = address.try_into().map_err(Into::into)?;
        self.flush()?;
        let request = self.upstream.as_ref().map_or(Some(self.id), |upstream| upstream.request);
        let client = self.upstream.as_ref().map_or(Some(&self.stream), |up| up.client.as_ref());
        let options = options.into();
        let mut upstream = connect(&self.server, Some(&self.stream), request, &endpoint, &options)?;
        upstream.listener = self.listener.clone();
        if let Some(upstream) = &mut upstream.upstream {
            upstream.client = client.cloned();
        }
        Ok(upstream)
    }

    /// [Connects](Connection::connect) over TLS: the same as with [`ConnectOptions::tls`].
    ///
    /// # Errors
    /// Those of [`connect`](Connection::connect). If the handshake fails, [`Error::Connect`] says why.
    #[cfg(feature = "tls")]
    pub fn connect_tls<A>(
        &mut self,
        address: A,
        options: impl Into<ConnectOptions>,
        config: &TlsClientConfig,
    ) -> Result<Connection>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        self.connect(address, options.into().tls(config))
    }

    /// Ends the waits for this upstream, which then fail with [`Error::ConnectionClosed`], as soon as the
    /// client of its request is gone: the connection was reset, or, of a Unix socket, closed. Without this
    /// a handler that waits for an upstream learns of it only when it reads from the client, or writes to
    /// it.
    ///
    /// A TCP client that closes without a reset looks like one that has ended its input and waits for
    /// answers (half-close), until something is sent to it: that is no end here. A
    /// [relay](Connection::relay) passes both on by itself. Does nothing for the connection of a client.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{Connection, HandlerResult};
    ///
    /// fn handle(client: &mut Connection) -> HandlerResult {
    ///     let mut upstream = client.connect("10.0.0.5:4000", Duration::from_secs(3))?;
    ///     upstream.close_with_client();
    ///     upstream.write_all(b"a question that takes long\n")?;
    ///     let mut answer = String::new();
    ///     upstream.read_line(&mut answer)?;
    ///     Ok(client.write_all(answer.as_bytes())?)
    /// }
    /// ```
    pub fn close_with_client(&mut self) {
        let Some(Upstream { client: Some(client), closes_with, .. }) = &self.upstream else {
            return;
        };
        let _ = closes_with.set(client.clone());
        if !self.stream.uses_wait() {
            let closes_with = closes_with.clone();
            self.stream.wait_with(Box::new(UpstreamWait { wait: None, closes_with }));
        }
    }
}

impl ServerHandle {
    /// Connects to another server as [`Connection::connect`] does, for code that serves no client. The
    /// connection belongs to no request: a stop does not know it. It blocks the thread where it waits.
    ///
    /// # Errors
    /// Those of [`Connection::connect`], [`Error::Io`] aside.
    pub fn connect<A>(&self, address: A, options: impl Into<ConnectOptions>) -> Result<Connection>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        let endpoint = address.try_into().map_err(Into::into)?;
        connect(self, None, None, &endpoint, &options.into())
    }
}

fn connect(
    server: &ServerHandle,
    client: Option<&SharedStream>,
    request: Option<ConnectionId>,
    endpoint: &Endpoint,
    options: &ConnectOptions,
) -> Result<Connection> {
    let state = server.state().clone();
    let closes_with = ClosesWith::default();
    let begun = Instant::now();
    let dial = Dial::new(&state, client, &closes_with, request, endpoint, options)?;
    let connected = dial.connect();
    let stats = state.stats();
    let counter = if connected.is_ok() { &stats.upstreams } else { &stats.upstream_errors };
    counter.add_one();
    match connected {
        Ok(stream) => {
            let upstream =
                Connection::new_upstream(stream, request, closes_with.clone(), state.clone());
            let (id, peer, duration) = (upstream.id, upstream.peer_addr(), begun.elapsed());
            tell(&state, request, UpstreamChange::Connected { id, endpoint, peer, duration });
            Ok(upstream)
        }
        Err(error) => {
            let duration = begun.elapsed();
            tell(&state, request, UpstreamChange::Failed { endpoint, error: &error, duration });
            Err(error)
        }
    }
}

fn tell(state: &ServerState, request: Option<ConnectionId>, change: UpstreamChange<'_>) {
    let upstream = UpstreamEvent { request, change };
    state.tell_event(EventKind::Upstream, |observer| observer.upstream(&upstream));
}

/// What makes a connection an upstream.
pub(super) struct Upstream {
    /// The request that it belongs to.
    pub(super) request: Option<ConnectionId>,
    /// That of the request.
    client: Option<Arc<SharedStream>>,
    closes_with: ClosesWith,
    connected: Instant,
}

impl Connection {
    /// `request`: what it belongs to, if anything.
    pub(in crate::connection) fn new_upstream(
        stream: Arc<SharedStream>,
        request: Option<ConnectionId>,
        closes_with: ClosesWith,
        state: Arc<ServerState>,
    ) -> Connection {
        let (id, listener) = (state.new_id(), state.first_listener.clone());
        let (mut connection, connected) =
            (Connection::new(id, stream, listener, state), Instant::now());
        connection.upstream = Some(Upstream { request, client: None, closes_with, connected });
        connection.set_socket_timeouts();
        connection
    }

    /// Ends an upstream: sends its output, and removes it from its request.
    pub(super) fn close_upstream(&mut self) {
        let Some(Upstream { request, connected, .. }) = self.upstream.take() else { return };
        if !thread::panicking() && !self.is_broken() {
            // Nothing waits for the result: a handler that needs it calls `flush`.
            let flushed = self.flush();
            if flushed.is_ok() && !self.stream.resets_on_close() {
                let _ = self.end_output();
            }
        }
        if self.stream.resets_on_close() {
            // The reset discards what is not acknowledged.
            let _ = self.wait_until_acked();
        }
        let state = self.server.state();
        deregister(state, request, &self.stream);
        let (id, peer, traffic) = (self.id, self.peer_addr(), self.stream.traffic());
        let (duration, received, sent) = (connected.elapsed(), traffic.received, traffic.sent);
        tell(state, request, UpstreamChange::Closed { id, peer, duration, received, sent });
    }
}

fn deregister(state: &ServerState, request: Option<ConnectionId>, stream: &Arc<SharedStream>) {
    if let Some(request) = request {
        state.registry.remove_upstream(request, stream);
    }
}
