//! What an [`Observer`](crate::Observer) is told of: a structure for each kind of event.

use std::time::Duration;
use std::{fmt, io};

use super::ListenerInfo;
use crate::address::{Address, Endpoint};
use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::id::ConnectionId;
#[cfg(feature = "tls")]
use crate::tls::TlsInfo;

/// A request was accepted and admitted: a connection, or a datagram.
/// [`Observer::accepted`](crate::Observer::accepted).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Accepted<'a> {
    /// Its number.
    pub id: ConnectionId,
    /// The client's address. Behind a [proxy](crate::Builder::proxy_protocol) it is that of the proxy,
    /// which has not said yet who its client is.
    pub peer: &'a Address,
    /// The listener that it came from.
    pub listener: &'a ListenerInfo,
}

/// A request is not served: its handler is not called.
/// [`Observer::refused`](crate::Observer::refused).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Refused<'a> {
    /// Its number, if it was accepted: [`Closed`] follows. `None` for one that was not admitted, of which
    /// this is the only event.
    pub id: Option<ConnectionId>,
    /// The client's address, or that of the proxy if the client is not known.
    pub peer: &'a Address,
    /// The listener that it came from.
    pub listener: &'a ListenerInfo,
    /// Why.
    pub reason: Refusal,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The [access list](crate::Builder::access) denies its peer.
    Access,
    /// `verify_request` of the handler denies it.
    Unverified,
    /// There are [`max_connections`](crate::Builder::max_connections), and the
    /// [policy](crate::Builder::overload) is to refuse more.
    Full,
    /// Its peer has [`max_connections_per_peer`](crate::Builder::max_connections_per_peer).
    PeerLimit,
    /// Its peer is above the [`connection_rate`](crate::Builder::connection_rate).
    Rate,
    /// There is no thread, process or fiber for it.
    NoWorker,
    /// A [proxy](crate::Builder::proxy_protocol) has not sent a valid header in time.
    BadProxyHeader,
    /// The TLS handshake failed, or took too long.
    HandshakeFailed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Access => "the access list denies it",
            Refusal::Unverified => "verify_request denies it",
            Refusal::Full => "the server is full",
            Refusal::PeerLimit => "its peer has as many connections as it may",
            Refusal::Rate => "its peer connects too often",
            Refusal::NoWorker => "there is no thread, process or fiber for it",
            Refusal::BadProxyHeader => "its proxy sent no valid header",
            Refusal::HandshakeFailed => "the TLS handshake failed",
        })
    }
}

impl Refusal {
    /// That of a connection which was accepted, and closed for this reason before its handler was called;
    /// `None` if its client, or a stop, has closed it.
    pub(crate) fn of(reason: CloseReason) -> Option<Refusal> {
        match reason {
            CloseReason::BadProxyHeader => Some(Refusal::BadProxyHeader),
            CloseReason::HandshakeFailed => Some(Refusal::HandshakeFailed),
            _ => None,
        }
    }
}

/// What had to come before the handler is done: the header of a proxy, the TLS handshake. Connections
/// with neither have no such event. [`Observer::handshaken`](crate::Observer::handshaken).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Handshaken<'a> {
    /// The number of the connection.
    pub id: ConnectionId,
    /// The client's address, according to the proxy if there is one.
    pub peer: &'a Address,
    /// The address of the proxy; `None` if the client has connected directly.
    pub proxied_by: Option<&'a Address>,
    /// What TLS has agreed on; `None` without TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<&'a TlsInfo>,
    /// How long it took.
    pub duration: Duration,
}

/// A request has ended: its place is free, and it is no longer listed.
/// [`Observer::closed`](crate::Observer::closed).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Closed<'a> {
    /// Its number.
    pub id: ConnectionId,
    /// The client's address.
    pub peer: &'a Address,
    /// The listener that it came from.
    pub listener: &'a ListenerInfo,
    /// Why it has ended. A request that was accepted but not run, for want of a thread, process or fiber,
    /// ends with [`CloseReason::Stopped`], which [`Stats`](crate::Stats) does not count.
    pub reason: CloseReason,
    /// How long it took, from when it was accepted until it was closed.
    pub duration: Duration,
    /// How many bytes the handler has read, or how many the datagram has.
    pub received: u64,
    /// How many bytes were sent to the client: by the handler, broadcasts, senders and relays.
    pub sent: u64,
    /// The longest time, to about 10 ms, that the request has waited for its client at once: in a read, a
    /// write, the TLS handshake, or the lingering close. Waits for several things at once, which
    /// [`Select`](crate::Select) and relays do, do not count. Zero for a datagram.
    pub longest_wait: Duration,
}

/// Something happened to an [upstream](crate::Connection::connect) of a request.
/// [`Observer::upstream`](crate::Observer::upstream).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Upstream<'a> {
    /// The request that it belongs to; `None` for one that was made by
    /// [`ServerHandle::connect`](crate::ServerHandle::connect).
    pub request: Option<ConnectionId>,
    /// What happened.
    pub change: UpstreamChange<'a>,
}

/// What happened to an upstream.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum UpstreamChange<'a> {
    /// It is connected, and its TLS handshake done if it has TLS.
    #[non_exhaustive]
    Connected {
        /// Its own number.
        id: ConnectionId,
        /// What the handler has asked for.
        endpoint: &'a Endpoint,
        /// The address that this led to.
        peer: &'a Address,
        /// How long it took.
        duration: Duration,
    },
    /// It could not be connected to.
    #[non_exhaustive]
    Failed {
        /// What the handler has asked for.
        endpoint: &'a Endpoint,
        /// Why not.
        error: &'a Error,
        /// How long it took.
        duration: Duration,
    },
    /// It is closed.
    #[non_exhaustive]
    Closed {
        /// Its own number.
        id: ConnectionId,
        /// Its address.
        peer: &'a Address,
        /// How long it was connected.
        duration: Duration,
        /// How many bytes were read from it.
        received: u64,
        /// How many bytes were sent to it.
        sent: u64,
    },
}

/// The server is at a limit, or the system is short of something; or that is over: when it has not
/// happened for five seconds. [`Observer::pressure`](crate::Observer::pressure).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Pressure<'a> {
    /// As many requests are being served as may be. More wait, or are refused.
    #[non_exhaustive]
    AtLimit {
        /// The limit: [`max_connections`](crate::Builder::max_connections), or that of the mixin.
        limit: usize,
    },
    /// There is room again.
    #[non_exhaustive]
    BelowLimit {
        /// How long there was none.
        after: Duration,
    },
    /// The system has no descriptor or memory for one more connection. The acceptor tries again.
    #[non_exhaustive]
    AcceptFails {
        /// That of accept(2).
        error: &'a io::Error,
    },
    /// Connections can be accepted again.
    #[non_exhaustive]
    AcceptWorks {
        /// How long they could not.
        after: Duration,
    },
}

/// Of a flood of events: how many were not told. [`Observer::folded`](crate::Observer::folded).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Folded {
    /// Which events.
    pub event: EventKind,
    /// How many.
    pub count: u64,
}

/// A kind of events, of which there may be a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// [`Accepted`].
    Accepted,
    /// [`Refused`].
    Refused,
    /// [`Handshaken`].
    Handshaken,
    /// [`Closed`].
    Closed,
    /// [`Upstream`].
    Upstream,
    /// [`Pressure`].
    Pressure,
}

impl EventKind {
    pub(super) const ALL: [EventKind; 6] = [
        EventKind::Accepted,
        EventKind::Refused,
        EventKind::Handshaken,
        EventKind::Closed,
        EventKind::Upstream,
        EventKind::Pressure,
    ];
}

/// The name of the observer's method.
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EventKind::Accepted => "accepted",
            EventKind::Refused => "refused",
            EventKind::Handshaken => "handshaken",
            EventKind::Closed => "closed",
            EventKind::Upstream => "upstream",
            EventKind::Pressure => "pressure",
        })
    }
}
