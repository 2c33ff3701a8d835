//! Why a request ended: [`CloseReason`].

use std::error::Error as StdError;
use std::fmt;

use crate::error::{Disconnect, Error};

/// Why a request ended: see [`Connection::close_reason`](crate::Connection::close_reason) and
/// [`Stats::ended_for`](crate::Stats::ended_for).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler returned, and the peer had not ended the connection.
    Completed,
    /// The peer shut its write side (EOF).
    Eof,
    /// The peer reset the connection, or is unreachable according to
    /// [`keepalive`](crate::Builder::keepalive) or
    /// [`user_timeout`](crate::Builder::user_timeout).
    Reset,
    /// No message began for the [`idle_timeout`](crate::Builder::idle_timeout).
    IdleTimeout,
    /// No input for the [`read_timeout`](crate::Builder::read_timeout).
    ReadTimeout,
    /// A message took longer than the [`message_timeout`](crate::Builder::message_timeout).
    MessageTimeout,
    /// The peer sent or received more slowly than the [`min_rate`](crate::Builder::min_rate).
    TooSlow,
    /// The peer received nothing of a write for the
    /// [`write_timeout`](crate::Builder::write_timeout).
    WriteTimeout,
    /// What ran [`within`](crate::Connection::within) a timeout would have taken longer.
    Timeout,
    /// A line or message was over its limit, or had too many descriptors, or the peer was too far behind the messages of a
    /// [`Broadcast`](crate::Broadcast) or a [`Sender`](crate::Sender). Or a client behind a
    /// [proxy](crate::Builder::proxy_protocol) was over a limit on connections.
    Limit,
    /// The access list or `verify_request` denied it. No other method of the handler was called.
    Denied,
    /// A [trusted proxy](crate::Builder::proxy_protocol) began with something other than a header of
    /// the PROXY protocol, or took too long. No method of the handler was called.
    BadProxyHeader,
    /// The TLS handshake failed, or took longer than the `handshake_timeout`. No method of the handler was
    /// called.
    HandshakeFailed,
    /// The server ended it: by a stop, or by
    /// [`disconnect`](crate::ServerHandle::disconnect).
    Stopped,
    /// The handler returned another error; or the child of a forking server was killed, or exited
    /// by itself.
    Failed,
    /// The handler panicked.
    Panicked,
}

impl CloseReason {
    /// What an error implies for the connection that it came from; `None` if it is not an error of
    /// a connection.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Option<CloseReason> {
        match Disconnect::of(error) {
            Some(Disconnect::Eof) => return Some(CloseReason::Eof),
            Some(Disconnect::Reset) => return Some(CloseReason::Reset),
            None => {}
        }
        match error.downcast_ref().or_else(|| Error::of(error.downcast_ref()?))? {
            Error::LineTooLong { .. }
            | Error::MessageTooLong { .. }
            | Error::SlowConsumer { .. }
            | Error::TooManyDescriptors { .. } => Some(CloseReason::Limit),
            Error::IdleTimeout { .. } => Some(CloseReason::IdleTimeout),
            Error::ReadTimeout { .. } => Some(CloseReason::ReadTimeout),
            Error::MessageTimeout { .. } => Some(CloseReason::MessageTimeout),
            Error::TooSlow { .. } => Some(CloseReason::TooSlow),
            Error::WriteTimeout { .. } => Some(CloseReason::WriteTimeout),
            Error::Timeout { .. } => Some(CloseReason::Timeout),
            Error::ProxyHeader { .. } => Some(CloseReason::BadProxyHeader),
            Error::Panicked { .. } => Some(CloseReason::Panicked),
            Error::Stopped => Some(CloseReason::Stopped),
            Error::System { source, .. } | Error::Io(source) => CloseReason::of(source),
            _ => None,
        }
    }

    /// The more severe of two reasons; `self` if both are equally severe.
    pub(crate) fn most_severe(self, other: CloseReason) -> CloseReason {
        match (self, other) {
            (CloseReason::Panicked, _) | (_, CloseReason::Panicked) => CloseReason::Panicked,
            (CloseReason::Failed, _) | (_, CloseReason::Failed) => CloseReason::Failed,
            _ => self,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::Completed => "completed",
            CloseReason::Eof => "end of file",
            CloseReason::Reset => "reset",
            CloseReason::IdleTimeout => "idle timeout",
            CloseReason::ReadTimeout => "read timeout",
            CloseReason::MessageTimeout => "message timeout",
            CloseReason::TooSlow => "too slow",
            CloseReason::WriteTimeout => "write timeout",
            CloseReason::Timeout => "timeout",
            CloseReason::Limit => "limit",
            CloseReason::Denied => "denied",
            CloseReason::BadProxyHeader => "bad PROXY header",
            CloseReason::HandshakeFailed => "handshake failed",
            CloseReason::Stopped => "stopped",
            CloseReason::Failed => "failed",
            CloseReason::Panicked => "panicked",
        })
    }
}
