//! Every setting as plain data, with its default; the [`Builder`](crate::Builder) fills it in.

mod access;

use std::time::Duration;

use crate::sys;

pub use access::{Access, Peers};

/// What to do with newcomers when the server is full.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overload {
    /// Leave them in the kernel's backlog until somebody leaves. They wait, connected as far as
    /// they can tell; when the backlog too is full the system turns them away.
    Defer,
    /// Accept them, say this, and close. An empty message just closes.
    Refuse(Vec<u8>),
}

/// TCP keepalive: how a peer that has vanished without a word is found
/// ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is silent before the first probe.
    pub idle: Duration,
    /// The time between probes.
    pub interval: Duration,
    /// After how many unanswered probes the connection is reset.
    pub probes: u32,
}

impl Default for Keepalive {
    /// First probe after 60 s, then each 15 s; reset after the fourth: within two minutes.
    fn default() -> Keepalive {
        Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(15), probes: 4 }
    }
}

/// How often one peer may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRate {
    /// So many times,
    pub connections: u32,
    /// in any time this long. All of them may come at once.
    pub per: Duration,
}

/// How fast a message must come, or be taken, once it has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// So many bytes each second, on the average since it began. Zero counts as one.
    pub bytes_per_second: u32,
    /// For so long after its begin the rate does not matter.
    pub grace: Duration,
}

impl MinRate {
    /// How long this many bytes may have taken, when the next is due.
    pub(crate) fn time_for(self, bytes: usize) -> Duration {
        let seconds = bytes as f64 / f64::from(self.bytes_per_second.max(1));
        // Capped where it is for ever for all that matters.
        self.grace.saturating_add(Duration::from_secs_f64(seconds.min(1e9)))
    }
}

/// What a [`Transport`](crate::transport::Transport) needs to know of the settings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportOptions {
    /// How many connections the kernel may hold ready before they are accepted. The system caps
    /// it (`net.core.somaxconn`).
    pub backlog: u32,
    /// `SO_REUSEADDR`: bind although connections of an earlier server linger in `TIME_WAIT`.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`: let several sockets share the port.
    pub reuse_port: bool,
    /// Whether an IPv6 server takes IPv4 clients too (the inverse of `IPV6_V6ONLY`).
    pub dual_stack: bool,
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// TCP keepalive; `None`: off.
    pub keepalive: Option<Keepalive>,
    /// The longest datagram that is taken, in bytes.
    pub max_packet_size: usize,
    /// `TCP_USER_TIMEOUT`: how long what was sent may stay without an answer from the peer's
    /// system; `None`: as long as the system says.
    pub user_timeout: Option<Duration>,
    /// How long a stream waits for the next message; `None`: for ever.
    pub read_timeout: Option<Duration>,
    /// How long a write waits for room; `None`: for ever.
    pub write_timeout: Option<Duration>,
}

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
            max_packet_size: 65_535,
            read_timeout: None,
            write_timeout: Some(Duration::from_secs(30)),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) transport: TransportOptions,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_peer: Option<usize>,
    pub(crate) connection_rate: Option<ConnectionRate>,
    pub(crate) access: Access,
    pub(crate) overload: Overload,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) stop_timeout: Duration,
    pub(crate) max_line_length: usize,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) message_timeout: Option<Duration>,
    pub(crate) min_rate: Option<MinRate>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            transport: TransportOptions::default(),
            max_connections: default_max_connections(),
            max_connections_per_peer: None,
            connection_rate: None,
            access: Access::open(),
            overload: Overload::Defer,
            request_timeout: None,
            stop_timeout: Duration::from_secs(30),
            max_line_length: 64 * 1024,
            read_timeout: None,
            idle_timeout: None,
            message_timeout: None,
            min_rate: None,
        }
    }
}

/// The descriptors that this process may open, less a sixteenth, and at least 32, for everything
/// that is not a connection.
fn default_max_connections() -> usize {
    let limit = sys::descriptors::limit();
    limit.saturating_sub((limit / 16).max(32)).max(1)
}
