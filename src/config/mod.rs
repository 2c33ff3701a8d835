//! Every setting of a server as plain data, with its default. The [`Builder`](crate::Builder) fills
//! it in.
//!
//! `None` means no limit. Zero counts as the least that a setting can be: one millisecond for a
//! timeout, one second for keepalive, one for a number of requests or probes.

mod access;
mod proxy_protocol;
mod socket_hook;

use std::io;
use std::time::Duration;

use socket2::Socket;

use crate::net::WriteProgress;
use crate::sys;

pub use access::{Access, Peers};
pub use proxy_protocol::ProxyProtocol;
pub(crate) use socket_hook::SocketHook;

/// What a full server does with a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overload {
    /// Leave it in the kernel's backlog until a connection ends. To the client it looks connected.
    /// When the backlog is full too, the kernel drops or refuses further connections
    /// ([listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html)).
    Defer,
    /// Accept it, send this message, and close it. An empty message sends nothing.
    Refuse(Vec<u8>),
}

/// TCP keepalive: how the kernel detects a peer that has vanished without closing its connection
/// ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)).
///
/// Times are rounded up to whole seconds, from 1 to 32,767, which is nine hours. Other values than
/// Linux allows, zero for instance, become the nearest that it does.
///
/// These are all the options that keepalive has, so that the fields can be relied on:
/// `Keepalive { probes: 8, ..Keepalive::default() }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is silent before the first probe (`TCP_KEEPIDLE`); 60 s by default.
    pub idle: Duration,
    /// The time between two probes (`TCP_KEEPINTVL`); 15 s by default.
    pub interval: Duration,
    /// How many unanswered probes reset the connection (`TCP_KEEPCNT`), from 1 to 127; 4 by
    /// default.
    pub probes: u32,
}

impl Default for Keepalive {
    /// The first probe after 60 s, then one every 15 s; the connection is reset when the fourth is
    /// not answered, within two minutes.
    fn default() -> Keepalive {
        Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(15), probes: 4 }
    }
}

// `ConnectionRate` and `MinRate` are open structs, so that their numbers are named where they are
// written. A further number would be a setting of its own.

/// How often one peer may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRate {
    /// The number of connections that a peer may make in each interval of the length
    /// [`per`](ConnectionRate::per), all at once or spread out. Zero
    /// counts as one.
    pub connections: u32,
    /// The length of the interval. Zero counts as one millisecond.
    pub per: Duration,
}

/// The lowest rate at which a peer may send a message, or take what is written to it, once the
/// first bytes of it were transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// The rate, in bytes per second, as an average since the first bytes. Zero counts as one.
    pub bytes_per_second: u32,
    /// How long after the first bytes the rate is not checked. Zero: it is checked at once.
    pub grace: Duration,
}

impl MinRate {
    /// How long after the first bytes the transfer of `bytes` bytes may end.
    pub(crate) fn time_for(self, bytes: usize) -> Duration {
        self.grace.saturating_add(self.transfer_time(bytes as u64))
    }

    /// How long a transfer of so many bytes takes at this rate.
    pub(crate) fn transfer_time(self, bytes: u64) -> Duration {
        let seconds = bytes as f64 / f64::from(self.bytes_per_second.max(1));
        // At most 30 years, which a `Duration` can hold whatever the number of bytes.
        Duration::from_secs_f64(seconds.min(1e9))
    }
}

/// The settings that a [`Transport`](crate::extend::Transport) uses. The methods of the same
/// names of [`Builder`](crate::Builder) describe them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportOptions {
    /// How many connections the kernel queues before they are accepted, at most
    /// `net.core.somaxconn` ([listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html));
    /// 1024 by default.
    pub backlog: u32,
    /// `SO_REUSEADDR`: a TCP server binds although connections of an earlier one are in
    /// `TIME_WAIT`; `true` by default.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: several sockets share the port; `false` by default.
    pub reuse_port: bool,
    /// Whether an IPv6 server takes IPv4 clients too (the inverse of `IPV6_V6ONLY`); `false` by
    /// default.
    pub dual_stack: bool,
    /// `TCP_NODELAY`: TCP sends small segments at once; `true` by default.
    pub nodelay: bool,
    /// TCP keepalive; [`Keepalive::default`] by default, `None`: off.
    pub keepalive: Option<Keepalive>,
    /// The longest datagram that is accepted, in bytes. `None`, the default: whatever the socket
    /// receives.
    pub max_packet_size: Option<usize>,
    /// `TCP_USER_TIMEOUT`: how long data may stay unacknowledged before the connection is reset;
    /// two minutes by default, `None`: the system's limit. Rounded up to whole milliseconds, and at
    /// most almost 25 days.
    pub user_timeout: Option<Duration>,
    /// How long a stream's read blocks, which is mostly the wait for the first byte of a message:
    /// the `idle_timeout`, or else the `read_timeout`. `None`, the default: for ever.
    pub read_timeout: Option<Duration>,
    /// How long a stream's write blocks for lack of room: an eighth of the server's `write_timeout`,
    /// 3.75 s by default. Then the connection asks for the peer's progress
    /// ([`Stream::unacknowledged`](crate::extend::Stream::unacknowledged)), and writes again.
    /// `None`: for ever.
    pub write_timeout: Option<Duration>,
    /// The mode of the file of a Unix socket. `None`, the default: the system's.
    pub socket_mode: Option<u32>,
    /// The owner of that file, by number. `None`, the default: the process's user.
    pub socket_owner: Option<u32>,
    /// The group of that file, by number. `None`, the default: the system's.
    pub socket_group: Option<u32>,
    pub(crate) socket_hook: Option<SocketHook>,
}

impl TransportOptions {
    /// What [`Builder::socket`](crate::Builder::socket) asks for, to be called before a socket is bound.
    ///
    /// # Errors
    /// Those of the program's function.
    pub fn prepare_socket(&self, socket: &Socket) -> io::Result<()> {
        self.socket_hook.as_ref().map_or(Ok(()), |hook| hook.call(socket))
    }
}

const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

impl Default for TransportOptions {
    fn default() -> TransportOptions {
        TransportOptions {
            backlog: 1024,
            reuse_address: true,
            reuse_port: false,
            dual_stack: false,
            nodelay: true,
            keepalive: Some(Keepalive::default()),
            user_timeout: Some(Duration::from_secs(120)),
            max_packet_size: None,
            read_timeout: None,
            write_timeout: Some(WriteProgress::slice(DEFAULT_WRITE_TIMEOUT)),
            socket_mode: None,
            socket_owner: None,
            socket_group: None,
            socket_hook: None,
        }
    }
}

/// Every setting of a server; the methods of the same names of [`Builder`](crate::Builder) describe
/// them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) transport: TransportOptions,
    /// `None`: [`default_max_connections`].
    pub(crate) max_connections: Option<usize>,
    /// The mixin's, at least one.
    pub(crate) descriptors_per_request: usize,
    /// The mixin's, at least one.
    pub(crate) processes: usize,
    /// How many requests at a time each have a process of their own; zero if they have none.
    pub(crate) forked_requests: usize,
    pub(crate) max_connections_per_peer: Option<usize>,
    pub(crate) connection_rate: Option<ConnectionRate>,
    pub(crate) access: Access,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    pub(crate) overload: Overload,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) stop_timeout: Duration,
    pub(crate) hand_over_timeout: Duration,
    pub(crate) max_line_length: usize,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) message_timeout: Option<Duration>,
    pub(crate) min_rate: Option<MinRate>,
    #[cfg(feature = "tls")]
    pub(crate) handshake_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            transport: TransportOptions::default(),
            max_connections: None,
            descriptors_per_request: 1,
            processes: 1,
            forked_requests: 0,
            max_connections_per_peer: None,
            connection_rate: None,
            access: Access::open(),
            proxy_protocol: None,
            overload: Overload::Defer,
            request_timeout: None,
            stop_timeout: Duration::from_secs(30),
            hand_over_timeout: Duration::from_secs(30),
            max_line_length: 64 * 1024,
            read_timeout: None,
            idle_timeout: None,
            write_timeout: Some(DEFAULT_WRITE_TIMEOUT),
            message_timeout: None,
            min_rate: None,
            #[cfg(feature = "tls")]
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    pub(crate) fn max_connections(&self) -> usize {
        let default = || default_max_connections(self.descriptors_per_request);
        self.max_connections.unwrap_or_else(default)
    }

    /// Whether the connections of one peer are counted.
    pub(crate) fn limits_peers(&self) -> bool {
        self.max_connections_per_peer.is_some() || self.connection_rate.is_some()
    }
}

/// How many requests the descriptors that this process may open are enough for, less a sixteenth
/// (at least 32) for everything that is not a request; at least 1.
fn default_max_connections(descriptors_per_request: usize) -> usize {
    let limit = sys::descriptors::limit();
    (limit.saturating_sub((limit / 16).max(32)) / descriptors_per_request).max(1)
}
