//! [`CloseReason`]: why a request ended.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind};

use rustix::io::Errno;

use crate::error::Error;

/// Why a request ended: what [`Connection::close_reason`](crate::Connection::close_reason) tells
/// the `finish` hook, and what [`Stats`](crate::Stats) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler was done with it, the peer having asked for no end.
    Completed,
    /// The peer ended its side.
    Eof,
    /// The peer reset the connection, or vanished: nothing came back for as long as
    /// [`keepalive`](crate::Builder::keepalive) and
    /// [`user_timeout`](crate::Builder::user_timeout) allow.
    Reset,
    /// The peer sent nothing for as long as [`idle_timeout`](crate::Builder::idle_timeout) or
    /// [`read_timeout`](crate::Builder::read_timeout) allows.
    IdleTimeout,
    /// A message took longer than [`message_timeout`](crate::Builder::message_timeout), or came
    /// or went slower than [`min_rate`](crate::Builder::min_rate).
    MessageTimeout,
    /// The peer took nothing for as long as [`write_timeout`](crate::Builder::write_timeout)
    /// allows.
    WriteTimeout,
    /// A line or message was longer than its limit, or the peer took the messages of a
    /// [`Broadcast`](crate::Broadcast) too slowly.
    Limit,
    /// An access list, or `verify_request`, did not want it. No hook but `verify_request` saw it.
    Denied,
    /// This side ended it: by a stop, or by
    /// [`disconnect`](crate::ServerHandle::disconnect).
    Stopped,
    /// The handler returned an error of another kind; or, in a forking server, its child was
    /// killed or exited by itself.
    Error,
    /// The handler panicked.
    Panic,
}

impl CloseReason {
    /// What an error says of the connection that it came from; `None` for one that is not about
    /// a connection. [`is_hang_up`] is about those that are the peer's.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Option<CloseReason> {
        if let Some(error) = error.downcast_ref::<Error>() {
            return CloseReason::of_limit(error);
        }
        let error = error.downcast_ref::<io::Error>()?;
        if let Some(limit) = Error::of(error) {
            return CloseReason::of_limit(limit);
        }
        match (error.kind(), Errno::from_io_error(error)) {
            (ErrorKind::UnexpectedEof, _) => Some(CloseReason::Eof),
            (
                ErrorKind::BrokenPipe
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::NotConnected,
                _,
            ) => Some(CloseReason::Reset),
            // What the system says when a peer's machine or network is gone; a timeout of this
            // crate is no `Errno`.
            (_, Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH)) => {
                Some(CloseReason::Reset)
            }
            _ => None,
        }
    }

    fn of_limit(error: &Error) -> Option<CloseReason> {
        match error {
            Error::LineTooLong { .. } | Error::MessageTooLong { .. } => Some(CloseReason::Limit),
            Error::IdleTimeout { .. } => Some(CloseReason::IdleTimeout),
            Error::MessageTimeout { .. } | Error::TooSlow { .. } => {
                Some(CloseReason::MessageTimeout)
            }
            Error::WriteTimeout { .. } => Some(CloseReason::WriteTimeout),
            Error::Panicked { .. } => Some(CloseReason::Panic),
            // What was being done does not matter, but what the system said.
            Error::System { source, .. } => CloseReason::of(source),
            _ => None,
        }
    }

    /// Of two reasons the one that says more.
    pub(crate) fn most_severe(self, other: CloseReason) -> CloseReason {
        match (self, other) {
            (CloseReason::Panic, _) | (_, CloseReason::Panic) => CloseReason::Panic,
            (CloseReason::Error, _) | (_, CloseReason::Error) => CloseReason::Error,
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
            CloseReason::MessageTimeout => "message timeout",
            CloseReason::WriteTimeout => "write timeout",
            CloseReason::Limit => "limit",
            CloseReason::Denied => "denied",
            CloseReason::Stopped => "stopped",
            CloseReason::Error => "error",
            CloseReason::Panic => "panic",
        })
    }
}

/// Whether an error says no more than that the peer has gone: reset, closed while being written
/// to, closed in the middle of a message, or out of reach.
pub fn is_hang_up(error: &(dyn StdError + 'static)) -> bool {
    matches!(CloseReason::of(error), Some(CloseReason::Eof | CloseReason::Reset))
}
