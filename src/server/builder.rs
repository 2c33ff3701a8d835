//! Every setting of a server and its default.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::accept::listener::Listener;
use crate::accept::{BaseServer, ServiceActions};
use crate::address::Endpoint;
use crate::config::Access;
use crate::config::{ConnectionRate, Keepalive, MinRate, Overload, Settings};
use crate::error::{Error, Result};
use crate::mixin::Mixin;
use crate::request::IntoHandler;
use crate::server::Server;
use crate::state::ServerState;
use crate::transport::Transport;

/// The settings of a server to be: start with [`Server::builder`], end with
/// [`bind`](Builder::bind).
///
/// ```
/// use std::time::Duration;
/// use socketserver::{Overload, ThreadingTcpServer, services::Echo};
///
/// let server = ThreadingTcpServer::builder()
///     .max_connections(10_000)
///     .overload(Overload::Refuse("server full\r\n".into()))
///     .read_timeout(Duration::from_secs(60))
///     .bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[must_use = "nothing listens before bind"]
pub struct Builder<T, M> {
    mixin: M,
    settings: Settings,
    actions: Option<ServiceActions>,
    transport: PhantomData<fn() -> T>,
}

impl<T: Transport, M: Mixin + Default> Server<T, M> {
    /// Binds and listens, with default settings: see [`Builder::bind`].
    ///
    /// # Errors
    /// See [`Builder::bind`].
    pub fn bind<A, H>(address: A, handler: H) -> Result<Server<T, M>>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
        H: IntoHandler<T::Handler>,
    {
        Self::builder().bind(address, handler)
    }

    /// A server with other than the default settings.
    pub fn builder() -> Builder<T, M> {
        Builder::new(M::default())
    }

    /// Takes a listening stream socket that was bound elsewhere: see [`Builder::from_listener`].
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use socketserver::{ThreadingTcpServer, services::Hello};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    /// let server = ThreadingTcpServer::from_listener(listener, Hello)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Builder::from_listener`].
    pub fn from_listener<H>(listener: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        Self::builder().from_listener(listener, handler)
    }

    /// Takes a bound datagram socket: see [`Builder::from_socket`].
    ///
    /// # Errors
    /// See [`Builder::from_socket`].
    pub fn from_socket<H>(socket: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        Self::builder().from_socket(socket, handler)
    }
}

impl<T: Transport, M: Mixin> Builder<T, M> {
    pub(crate) fn new(mixin: M) -> Builder<T, M> {
        let settings = Settings::default();
        Builder { mixin, settings, actions: None, transport: PhantomData }
    }

    /// Who runs requests: a mixin with settings of its own, or another one than the server's name
    /// says.
    pub fn mixin<N: Mixin>(self, mixin: N) -> Builder<T, N> {
        let Builder { settings, actions, transport, .. } = self;
        Builder { mixin, settings, actions, transport }
    }

    /// How many connections the kernel holds ready before they are accepted; 1024 by default, and
    /// never more than the system's `net.core.somaxconn`. CPython's `request_queue_size`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.settings.transport.backlog = connections;
        self
    }

    /// Whether a TCP server may bind while connections of an earlier one linger in `TIME_WAIT`
    /// (`SO_REUSEADDR`); yes by default. Unlike on some systems, on Linux it does not let two
    /// servers listen on one port.
    pub fn reuse_address(mut self, yes: bool) -> Self {
        self.settings.transport.reuse_address = yes;
        self
    }

    /// Whether several sockets that all ask for it may share the port (`SO_REUSEPORT`), the system
    /// spreading clients over them; no by default.
    pub fn reuse_port(mut self, yes: bool) -> Self {
        self.settings.transport.reuse_port = yes;
        self
    }

    /// Whether a server on an IPv6 address such as `[::]` takes IPv4 clients too, who are then
    /// shown with their IPv4 addresses; no by default, whatever `net.ipv6.bindv6only` says.
    pub fn dual_stack(mut self, yes: bool) -> Self {
        self.settings.transport.dual_stack = yes;
        self
    }

    /// Whether TCP sends small answers at once (`TCP_NODELAY`); yes by default, since a
    /// connection's writes are collected already. CPython's `disable_nagle_algorithm`.
    pub fn nodelay(mut self, yes: bool) -> Self {
        self.settings.transport.nodelay = yes;
        self
    }

    /// TCP keepalive, by which a client that has vanished is told from one that is silent; on by
    /// default, with [`Keepalive::default`]. `None`: off.
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.settings.transport.keepalive = keepalive.into();
        self
    }

    /// How long what was sent may stay without an answer from the client's system before the
    /// connection is reset (`TCP_USER_TIMEOUT`,
    /// [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)): keepalive finds a client that
    /// vanished while nothing was under way, this one a client that vanished with an answer under
    /// way to it, or that has taken none of it for so long. Two minutes by default, in
    /// milliseconds; `None`: as long as the system says, a quarter of an hour and more.
    pub fn user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        let timeout: Option<Duration> = timeout.into();
        // Zero would be none.
        self.settings.transport.user_timeout =
            timeout.map(|time| time.max(Duration::from_millis(1)));
        self
    }

    /// How many requests are served at a time; by default, as many as the process may have
    /// descriptors, less a sixteenth (and at least 32) for everything else. Zero counts as one.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections.max(1);
        self
    }

    /// How many requests of one peer are served at a time; any number (`None`) by default. More of
    /// them are refused, whatever the [`overload`](Builder::overload) policy: nobody else should
    /// have to wait behind them in the backlog.
    ///
    /// One peer is an IPv4 address, an IPv6 network of 64 bits, or a user of this machine on a Unix
    /// stream socket.
    pub fn max_connections_per_peer(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.settings.max_connections_per_peer = connections.into();
        self
    }

    /// How often one peer, as for
    /// [`max_connections_per_peer`](Builder::max_connections_per_peer), may connect; as often as it
    /// likes (`None`) by default. Who comes more often is refused.
    pub fn connection_rate(mut self, rate: impl Into<Option<ConnectionRate>>) -> Self {
        self.settings.connection_rate = rate.into();
        self
    }

    /// Who may connect; everybody ([`Access::open`]) by default. The others are disconnected
    /// without a word, and counted as [`denied`](crate::Stats::denied).
    pub fn access(mut self, access: Access) -> Self {
        self.settings.access = access;
        self
    }

    /// What to do with more than [`max_connections`](Builder::max_connections); they are left in
    /// the backlog ([`Overload::Defer`]) by default.
    pub fn overload(mut self, policy: Overload) -> Self {
        self.settings.overload = policy;
        self
    }

    /// How long a read waits for the client before it fails with `TimedOut`
    /// ([`Error::ReadTimeout`]); for ever (`None`) by default. Zero counts as the shortest time
    /// there is.
    pub fn read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.read_timeout = timeout.into().map(not_zero);
        self
    }

    /// How long a client may be silent between messages, where that is another time than
    /// [`read_timeout`](Builder::read_timeout), which then bounds each wait within a message only;
    /// the same (`None`) by default.
    ///
    /// What is a message says [`Connection::with_message_timeout`](crate::Connection::with_message_timeout): a line,
    /// for a handler that reads lines.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into().map(not_zero);
        self
    }

    /// How long a message may take to be whole from when its first piece was there, however the
    /// rest of it comes: a client that sends a byte now and then is cut off by then. A read of it
    /// fails with `TimedOut` ([`Error::MessageTimeout`]). For ever (`None`) by default.
    pub fn message_timeout(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.settings.message_timeout = deadline.into();
        self
    }

    /// How fast a message must come once its first piece is there, and what is written be taken;
    /// any rate (`None`) by default. Where it is slower, reads and writes fail with `TimedOut`
    /// ([`Error::TooSlow`]).
    pub fn min_rate(mut self, rate: impl Into<Option<MinRate>>) -> Self {
        self.settings.min_rate = rate.into();
        self
    }

    /// How long a write waits for the client to take something before it fails with `TimedOut`
    /// ([`Error::WriteTimeout`]); 30 s by default. `None`: for ever. Zero counts as the shortest
    /// time there is.
    pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.transport.write_timeout = timeout.into().map(not_zero);
        self
    }

    /// How long [`Server::handle_request`] waits for a request; for ever (`None`) by default, and
    /// not at all for zero. CPython's `timeout`.
    pub fn request_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.request_timeout = timeout.into();
        self
    }

    /// How long a stop waits for connections to end by themselves before it cuts them off, unless
    /// [`ServerHandle::stop`](crate::ServerHandle::stop) is given another time; 30 s by default.
    pub fn stop_timeout(mut self, deadline: Duration) -> Self {
        self.settings.stop_timeout = deadline;
        self
    }

    /// How long a line may be for [`Connection::read_line`](crate::Connection::read_line), in
    /// bytes, its end included; 64 KiB by default.
    pub fn max_line_length(mut self, bytes: usize) -> Self {
        self.settings.max_line_length = bytes;
        self
    }

    /// The longest datagram that is taken, in bytes; 65,535 by default, which every UDP datagram
    /// fits in. A longer one is dropped, counted, and reported to `handle_error` as
    /// [`Error::Truncated`].
    pub fn max_packet_size(mut self, bytes: usize) -> Self {
        self.settings.transport.max_packet_size = bytes;
        self
    }

    /// Something to do about every `interval` while the server waits for requests: CPython's
    /// `service_actions`. It runs on the thread that accepts, so it should be quick; a panic in it
    /// is logged.
    pub fn service_actions(
        mut self,
        interval: Duration,
        call: impl FnMut() + Send + 'static,
    ) -> Self {
        let interval = not_zero(interval).max(Duration::from_millis(1));
        self.actions = Some(ServiceActions { interval, call: Box::new(call) });
        self
    }

    /// Binds and listens: clients can connect when this returns.
    ///
    /// The address is a text such as `127.0.0.1:2525` (see [`Endpoint`]), a
    /// [`SocketAddr`](std::net::SocketAddr) or a path. Port 0 asks the system for a free one, which
    /// [`local_addr`](Server::local_addr) then tells.
    ///
    /// # Errors
    /// [`Error::Address`] and [`Error::Resolve`] for an address that is none, [`Error::Bind`] when
    /// the system will not have it.
    pub fn bind<A, H>(self, address: A, handler: H) -> Result<Server<T, M>>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
        H: IntoHandler<T::Handler>,
    {
        let endpoint = address.try_into().map_err(Into::into)?;
        let transport = T::bind(&endpoint, &self.settings.transport)?;
        self.with_transport(transport, handler)
    }

    /// Takes a listening TCP or Unix stream socket that was bound elsewhere, by an earlier process
    /// for instance. It is made non-blocking. A Unix socket's file is not removed in the end.
    ///
    /// # Errors
    /// When an option cannot be set on it.
    pub fn from_listener<H>(self, listener: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        self.with_transport(listener.into(), handler)
    }

    /// Takes a bound UDP or Unix datagram socket: the like of
    /// [`from_listener`](Builder::from_listener).
    ///
    /// # Errors
    /// When an option cannot be set on it.
    pub fn from_socket<H>(self, socket: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        self.with_transport(socket.into(), handler)
    }

    fn with_transport<H>(self, transport: T, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        let Builder { mixin, mut settings, actions, .. } = self;
        // What a stream mostly waits for is the begin of a message.
        settings.transport.read_timeout = settings.idle_timeout.or(settings.read_timeout);
        transport.prepare(&settings.transport).map_err(Error::system("set up the listener"))?;
        let local_addr = transport.local_addr().map_err(Error::system("read the address"))?;
        let state = ServerState::new(settings, local_addr).map_err(Error::system("make a pipe"))?;
        let (handler, state) = (handler.into_handler(), Arc::new(state));
        let listener = Listener::new(transport, handler, state, mixin.max_requests());
        Ok(Server::new(BaseServer::new(listener, actions), mixin))
    }
}

/// The system takes a timeout of zero for none at all.
fn not_zero(time: Duration) -> Duration {
    time.max(Duration::from_micros(1))
}

impl<T, M: std::fmt::Debug> std::fmt::Debug for Builder<T, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("mixin", &self.mixin)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
