//! [`Error`]: what can go wrong, with the context that a log line needs.

use std::convert::Infallible;
use std::time::Duration;
use std::{fmt, io};

/// What this crate's own functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where.
///
/// Reading and writing a [`Connection`](crate::Connection) gives [`std::io::Error`], as std's
/// streams do; where a limit of this crate is the cause, that error carries one of these, which
/// [`Error::of`] finds.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A text is not an address, or an address of the wrong kind for this server.
    Address {
        /// The text as it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A host name could not be turned into an address.
    Resolve {
        /// The host and port as they were given.
        host: String,
        /// What the system's resolver said.
        source: io::Error,
    },
    /// A server could not listen on an address.
    Bind {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A peer sent a line longer than `max_line_length`.
    LineTooLong {
        /// The limit, in bytes, the line's end included.
        limit: usize,
    },
    /// A peer announced, or the program wants to send, a [framed](crate::framing) message over
    /// the limit.
    MessageTooLong {
        /// The length of the message, in bytes.
        length: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A peer sent nothing for too long: `idle_timeout`, or `read_timeout`.
    IdleTimeout {
        /// How long it was waited for.
        limit: Duration,
    },
    /// A message that had begun was not whole by its `message_timeout`.
    MessageTimeout {
        /// How long it was given.
        limit: Duration,
    },
    /// A message came, or was taken, more slowly than `min_rate` allows.
    TooSlow {
        /// The limit.
        bytes_per_second: u32,
    },
    /// A peer took nothing of what was written to it for too long: `write_timeout`.
    WriteTimeout {
        /// How long it was waited for.
        limit: Duration,
    },
    /// A datagram was longer than `max_packet_size`. It was dropped: half a message is none.
    Truncated {
        /// The datagram's length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A handler panicked; this is the panic's message.
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// A forking server will not fork, because this process has other threads: a child could
    /// inherit a lock (of the allocator, of a logger) that nobody in it will ever release.
    OtherThreads {
        /// How many threads the process has besides the one that serves.
        count: usize,
    },
    /// The server was shut down before; it serves no more.
    ShutDown,
    /// The system refused something else.
    System {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The error of this crate that an [`io::Error`] carries, if any.
    ///
    /// ```
    /// use socketserver::{Connection, Error};
    ///
    /// let mut connection = Connection::in_memory("far too long\n");
    /// connection.set_max_line_length(4);
    /// let error = connection.read_line(&mut String::new()).unwrap_err();
    /// assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: 4 })));
    /// ```
    pub fn of(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { doing, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Address { text, reason } => write!(f, "bad address {text:?}: {reason}"),
            Error::Resolve { host, source } => write!(f, "cannot resolve {host}: {source}"),
            Error::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Error::LineTooLong { limit } => write!(f, "line too long (limit {limit} bytes)"),
            Error::MessageTooLong { length, limit } => {
                write!(f, "message of {length} bytes is too long (limit {limit} bytes)")
            }
            Error::Truncated { length, limit } => {
                write!(f, "datagram of {length} bytes is too long (limit {limit} bytes)")
            }
            Error::IdleTimeout { limit } => {
                write!(f, "timed out: the peer sent nothing for {limit:?}")
            }
            Error::MessageTimeout { limit } => {
                write!(f, "timed out: the message was not whole after {limit:?}")
            }
            Error::TooSlow { bytes_per_second } => {
                write!(f, "timed out: the peer is slower than {bytes_per_second} bytes a second")
            }
            Error::WriteTimeout { limit } => {
                write!(f, "timed out: the peer took nothing for {limit:?}")
            }
            Error::Panicked { message } => write!(f, "handler panicked: {message}"),
            Error::OtherThreads { count } => write!(
                f,
                "refusing to fork: the process has {count} other thread{}",
                if *count == 1 { "" } else { "s" }
            ),
            Error::ShutDown => f.write_str("the server has been shut down"),
            Error::System { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Resolve { source, .. }
            | Error::Bind { source, .. }
            | Error::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// How a limit of this crate passes through an interface that speaks [`io::Error`].
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Resolve { source, .. }
            | Error::Bind { source, .. }
            | Error::System { source, .. } => source.kind(),
            Error::Address { .. } => io::ErrorKind::InvalidInput,
            Error::LineTooLong { .. } | Error::MessageTooLong { .. } | Error::Truncated { .. } => {
                io::ErrorKind::InvalidData
            }
            Error::IdleTimeout { .. }
            | Error::MessageTimeout { .. }
            | Error::TooSlow { .. }
            | Error::WriteTimeout { .. } => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// So that an address which cannot be wrong, such as a `SocketAddr`, fits where one that can is
/// also taken.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Error {
        match never {}
    }
}
