//! [`Builder`]: every setting of a server, with its default. Those of its sockets are in `socket.rs`,
//! and its end, where the server listens, in `bind.rs`.

mod bind;
mod socket;
mod take_over;
#[cfg(feature = "tls")]
mod tls;

use std::marker::PhantomData;
use std::time::Duration;

use crate::accept::{Listener, ServiceActions};
use crate::address::Endpoint;
use crate::config::{
    Access, ConnectionRate, Keepalive, MinRate, Overload, ProxyProtocol, Settings,
};
use crate::error::Result;
use crate::handler::StreamRequestHandler;
use crate::mixin::Mixin;
use crate::state::{Observer, Observers};
use crate::sys;
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;
use crate::transport::Transport;
use take_over::TakeOver;

/// The settings of a server: start with [`Server::builder`](crate::Server::builder) or
/// [`Builder::new`], end with [`bind`](Builder::bind).
///
/// Everywhere, `None` means no limit. A timeout of zero counts as one millisecond, which is the
/// shortest one, and a limit of zero requests as one.
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
    actions: Vec<ServiceActions>,
    observers: Observers,
    /// The further listeners, in their order.
    also: Vec<Also>,
    take_over: Option<TakeOver<T>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
    transport: PhantomData<fn() -> T>,
}

enum Also {
    /// `is_plain`: without the server's TLS.
    Endpoint { endpoint: Result<Endpoint>, is_plain: bool },
    /// Adds a transport that was bound elsewhere.
    Transport(AddTransport),
}

type AddTransport = Box<dyn FnOnce(&Listener) -> Result<()> + Send>;

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// The default settings, with a mixin that the program has chosen.
    ///
    /// ```
    /// use socketserver::transport::Tcp;
    /// use socketserver::extend::Mixin;
    /// use socketserver::{Builder, Sequential, Threading, services::Echo};
    ///
    /// # let one_at_a_time = true;
    /// let mixin: Box<dyn Mixin> =
    ///     if one_at_a_time { Box::new(Sequential) } else { Box::new(Threading::new()) };
    /// let server = Builder::<Tcp, _>::new(mixin).bind("127.0.0.1:0", Echo)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn new(mixin: M) -> Builder<T, M> {
        Builder {
            mixin,
            settings: Settings::default(),
            actions: Vec::new(),
            observers: Observers::default(),
            also: Vec::new(),
            take_over: None,
            #[cfg(feature = "tls")]
            tls: None,
            transport: PhantomData,
        }
    }

    /// Who runs requests: a mixin with settings of its own, or another one than the server's name
    /// says.
    pub fn mixin<N: Mixin>(self, mixin: N) -> Builder<T, N> {
        Builder {
            mixin,
            settings: self.settings,
            actions: self.actions,
            observers: self.observers,
            also: self.also,
            take_over: self.take_over,
            #[cfg(feature = "tls")]
            tls: self.tls,
            transport: self.transport,
        }
    }

    /// How many connections the kernel queues until they are accepted; 1024 by default, and never
    /// more than the system's `net.core.somaxconn`. CPython's `request_queue_size`. A listener that
    /// was bound elsewhere keeps its own number, and datagrams wait in the socket's buffer.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.settings.transport.backlog = connections;
        self
    }

    /// Whether a TCP server may bind while connections of an earlier one are in `TIME_WAIT`
    /// (`SO_REUSEADDR`); yes by default. On Linux it does not let two servers listen on one port.
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

    /// Whether a server on an IPv6 address such as `[::]` accepts IPv4 clients too, which are then
    /// shown with their IPv4 addresses; no by default, whatever `net.ipv6.bindv6only` says.
    pub fn dual_stack(mut self, yes: bool) -> Self {
        self.settings.transport.dual_stack = yes;
        self
    }

    /// Whether TCP sends small answers at once (`TCP_NODELAY`); yes by default, since a connection
    /// buffers its writes already. CPython's `disable_nagle_algorithm`.
    pub fn nodelay(mut self, yes: bool) -> Self {
        self.settings.transport.nodelay = yes;
        self
    }

    /// TCP keepalive, which tells a client that has vanished from one that is silent; on by default,
    /// with [`Keepalive::default`]. `None`: off.
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.settings.transport.keepalive = keepalive.into();
        self
    }

    /// How long sent data may stay unacknowledged before the connection is reset
    /// (`TCP_USER_TIMEOUT`, [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)); two minutes
    /// by default. Keepalive finds a client that vanished while nothing was being sent; this finds one
    /// that vanished while an answer was, or that has taken none of it for so long. It is rounded up to
    /// whole milliseconds, and almost 25 days are the most. `None`: as long as the system says, a
    /// quarter of an hour and more.
    pub fn user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.transport.user_timeout = timeout.into().map(not_zero);
        self
    }

    /// How many requests are served at a time; by default, as many as the descriptors that the
    /// process may have are enough for, less a sixteenth (and at least 32) for everything else. A
    /// request takes one descriptor, and two under [`Forking`](crate::Forking). Zero counts as one. The
    /// log says when the limit is reached, and when that is over, by [`log::warn`].
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = Some(connections.max(1));
        self
    }

    /// Raises the soft limit on open descriptors to the hard limit (`RLIMIT_NOFILE`, [getrlimit(2)]),
    /// now, so that [`max_connections`](Builder::max_connections) is more by default. The soft limit
    /// is often 1024. If the system refuses, that is logged, and the limit stays as it is.
    ///
    /// The limit is that of the whole process, and of the programs that it starts. Those that call
    /// select(2) cannot use descriptors above 1023.
    ///
    /// [getrlimit(2)]: https://man7.org/linux/man-pages/man2/getrlimit.2.html
    pub fn raise_descriptor_limit(self) -> Self {
        if let Err(error) = sys::descriptors::raise_limit() {
            log::warn!("cannot raise the limit on open descriptors: {error}");
        }
        self
    }

    /// How many requests of one peer are served at a time; any number (`None`) by default. Zero
    /// counts as one. More of them are refused, whatever the [`overload`](Builder::overload) policy:
    /// in the backlog they would delay other clients.
    ///
    /// One peer is an IPv4 address, an IPv6 network of 64 bits, or a user of this machine on a Unix
    /// stream socket. In networks that are shared, each address is a peer: link-local ones by their
    /// interface, and those of translators from IPv4 (NAT64) by the IPv4 address in them.
    pub fn max_connections_per_peer(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.settings.max_connections_per_peer = connections.into().map(|max| max.max(1));
        self
    }

    /// How often one peer, as for
    /// [`max_connections_per_peer`](Builder::max_connections_per_peer), may connect; as often as it
    /// likes (`None`) by default. Connections above the rate are refused.
    pub fn connection_rate(mut self, rate: impl Into<Option<ConnectionRate>>) -> Self {
        self.settings.connection_rate = rate.into();
        self
    }

    /// Who may connect; every client ([`Access::open`]) by default. Others are disconnected without
    /// a message, and counted as [`denied`](crate::Stats::denied).
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
    /// ([`Error::ReadTimeout`](crate::Error::ReadTimeout)); for ever (`None`) by default.
    pub fn read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.read_timeout = timeout.into().map(not_zero);
        self
    }

    /// How long a client may be silent between messages, if that is not the same as
    /// [`read_timeout`](Builder::read_timeout), which then bounds each wait within a message only.
    /// `None`, the default: the same.
    ///
    /// A message is a line, for a handler that reads lines; otherwise what
    /// [`Connection::with_message_timeout`](crate::Connection::with_message_timeout) says.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into().map(not_zero);
        self
    }

    /// How long a message may take to be whole, from its first bytes on; for ever (`None`) by
    /// default. It bounds a client that sends a byte now and then. A read of the message then fails
    /// with `TimedOut` ([`Error::MessageTimeout`](crate::Error::MessageTimeout)).
    pub fn message_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.message_timeout = timeout.into().map(not_zero);
        self
    }

    /// How fast a client must send a message once its first bytes are there, and take what is
    /// written; at any rate (`None`) by default. If it is slower, reads and writes fail with
    /// `TimedOut` ([`Error::TooSlow`](crate::Error::TooSlow)).
    pub fn min_rate(mut self, rate: impl Into<Option<MinRate>>) -> Self {
        self.settings.min_rate = rate.into();
        self
    }

    /// How long a write waits for the client to take something before it fails with `TimedOut`
    /// ([`Error::WriteTimeout`](crate::Error::WriteTimeout)); 30 s by default. `None`: for ever.
    ///
    /// Each time that the client has acknowledged some bytes (or read some, from a Unix socket) the
    /// time begins anew, however slow the client is: [`min_rate`](Builder::min_rate) is for that. A
    /// client that takes nothing is cut off after the timeout, or up to a quarter later.
    pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.write_timeout = timeout.into().map(not_zero);
        self
    }

    /// How long [`Server::handle_request`](crate::Server::handle_request) waits for a request; for ever
    /// (`None`) by default. It is the one timeout for which zero is zero: not at all. CPython's `timeout`.
    pub fn request_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.request_timeout = timeout.into();
        self
    }

    /// How long a stop waits for requests to end by themselves before it shuts their connections
    /// down, unless [`ServerHandle::stop`](crate::ServerHandle::stop) is given another time; 30 s by
    /// default. Zero shuts them down at once. One client that does not read is enough for a stop to
    /// take all of this time.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.settings.stop_timeout = timeout;
        self
    }

    /// How long a line may be for [`Connection::read_line`](crate::Connection::read_line), in
    /// bytes, its end included; 64 KiB by default.
    pub fn max_line_length(mut self, bytes: usize) -> Self {
        self.settings.max_line_length = bytes;
        self
    }

    /// The longest datagram that is received, in bytes; any (`None`) by default. A longer one is
    /// dropped, counted, and reported to `handle_error` as [`Error::Truncated`](crate::Error::Truncated).
    ///
    /// A UDP datagram has less than 65,535 bytes, a Unix datagram at most as many as its sender's
    /// buffer (`SO_SNDBUF`).
    pub fn max_packet_size(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.settings.transport.max_packet_size = bytes.into();
        self
    }

    /// Has `call` called about every `interval` while the server waits for requests; never by
    /// default. CPython's `service_actions`. It runs on the thread that accepts, so it should be
    /// quick. A panic in it is logged. Set more than once, all of the calls are made, each at its interval.
    pub fn service_actions(
        mut self,
        interval: Duration,
        call: impl FnMut() + Send + 'static,
    ) -> Self {
        let interval = not_zero(interval);
        self.actions.push(ServiceActions::new(interval, call));
        self
    }

    /// Is told what happens to the server; none by default. Set more than once, all of them are told, in
    /// this order.
    ///
    /// ```
    /// use socketserver::events::{AccessLog, Pressure};
    /// use socketserver::{Observer, ThreadingTcpServer, services::Echo};
    ///
    /// struct Page;
    ///
    /// impl Observer for Page {
    ///     fn pressure(&self, pressure: &Pressure<'_>) {
    ///         eprintln!("look after the server: {pressure:?}");
    ///     }
    /// }
    ///
    /// let server = ThreadingTcpServer::builder()
    ///     .observer(AccessLog::new())
    ///     .observer(Page)
    ///     .bind("127.0.0.1:0", Echo)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }
}

impl<T: Transport<Handler = dyn StreamRequestHandler>, M: Mixin> Builder<T, M> {
    /// The peers that are proxies, and begin each connection with a header of the
    /// [PROXY protocol](crate::proxy_protocol) (version 1 or 2), which names the client; none (`None`) by
    /// default.
    ///
    /// From those peers a header is required: a connection that begins with anything else, or not
    /// [in time](ProxyProtocol::timeout), is closed unread
    /// ([`CloseReason::BadProxyHeader`](crate::CloseReason::BadProxyHeader)). From all others no header
    /// is looked for: what they send is for the handler.
    ///
    /// [`Connection::peer_addr`](crate::Connection::peer_addr) is then the client's address, and so is
    /// what [`access`](Builder::access), [`max_connections_per_peer`](Builder::max_connections_per_peer)
    /// and [`connection_rate`](Builder::connection_rate) judge, after the header; they do not judge the
    /// proxy. If the proxy has connected on its own account, or does not know its client, the connection
    /// is that of the proxy, as if there were no header.
    ///
    /// The request's own thread, process or fiber reads the header, and calls `verify_request` after it.
    /// Under [`Forking`](crate::Forking) that is the child, while the parent lists the proxy and counts
    /// nothing of the client: there are no limits per peer.
    ///
    /// ```
    /// use std::net::IpAddr;
    /// use socketserver::{Access, ProxyProtocol, ThreadingTcpServer, services::Echo};
    ///
    /// let proxies = Access::closed().allow("127.0.0.1".parse::<IpAddr>()?);
    /// let server = ThreadingTcpServer::builder()
    ///     .proxy_protocol(ProxyProtocol::from(proxies))
    ///     .bind("127.0.0.1:0", Echo)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn proxy_protocol(mut self, proxies: impl Into<Option<ProxyProtocol>>) -> Self {
        self.settings.proxy_protocol = proxies.into();
        self
    }
}

/// For the system, a timeout of zero is none.
fn not_zero(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}

impl<T, M: std::fmt::Debug> std::fmt::Debug for Builder<T, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("mixin", &self.mixin)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
