//! Every setting as plain data, with its default; the [`Builder`](crate::Builder) fills it in.

use std::time::Duration;

use crate::sys;

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
    /// How long a read waits; `None`: for ever.
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
    pub(crate) overload: Overload,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) stop_deadline: Duration,
    pub(crate) max_line_length: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            transport: TransportOptions::default(),
            max_connections: default_max_connections(),
            overload: Overload::Defer,
            request_timeout: None,
            stop_deadline: Duration::from_secs(30),
            max_line_length: 64 * 1024,
        }
    }
}

/// The descriptors that this process may open, less a sixteenth, and at least 32, for everything
/// that is not a connection.
fn default_max_connections() -> usize {
    let limit = sys::process::descriptor_limit();
    limit.saturating_sub((limit / 16).max(32)).max(1)
}
