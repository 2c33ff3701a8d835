//! [`Error`]: the errors of this crate, with the context that a log line needs.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use rustix::io::Errno;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The errors of this crate.
///
/// Reads and writes of a [`Connection`](crate::Connection) fail with [`std::io::Error`], as those
/// of std's streams do. If the cause is a limit of this crate, that error contains one of these:
/// see [`Error::of`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A text is not an address, or not one of this server's transport.
    #[non_exhaustive]
    Address {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A host name could not be resolved.
    #[non_exhaustive]
    Resolve {
        /// The host and port.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// A server could not bind to an address, or listen on it.
    #[non_exhaustive]
    Bind {
        /// The address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// A socket that the process was to be started with is not there, or no server can serve it:
    /// [`transport::Listeners`](crate::transport::Listeners).
    #[non_exhaustive]
    Inherited {
        /// Its name, or that of the variable.
        socket: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Listeners could not be [handed over](crate::ServerHandle::hand_over), or
    /// [taken over](crate::Builder::take_over). The old server goes on.
    #[non_exhaustive]
    HandOver {
        /// Why.
        reason: String,
    },
    /// A peer sent a line longer than `max_line_length`.
    #[non_exhaustive]
    LineTooLong {
        /// The limit, in bytes, `\n` included.
        limit: usize,
    },
    /// A [framed](crate::framing) message, announced by a peer or to be sent, is over the limit.
    #[non_exhaustive]
    MessageTooLong {
        /// The length of the message, in bytes.
        length: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// No message began for the `idle_timeout`.
    #[non_exhaustive]
    IdleTimeout {
        /// The timeout.
        limit: Duration,
    },
    /// No input for the `read_timeout`.
    #[non_exhaustive]
    ReadTimeout {
        /// The timeout.
        limit: Duration,
    },
    /// A message was not complete after the `message_timeout`.
    #[non_exhaustive]
    MessageTimeout {
        /// The timeout.
        limit: Duration,
    },
    /// A peer sent a message, or received a write, at less than the `min_rate`.
    #[non_exhaustive]
    TooSlow {
        /// The minimal rate.
        bytes_per_second: u32,
    },
    /// A peer received nothing of a write for the `write_timeout`.
    #[non_exhaustive]
    WriteTimeout {
        /// The timeout.
        limit: Duration,
    },
    /// A wait [`within`](crate::Connection::within) a timeout would have taken longer.
    #[non_exhaustive]
    Timeout {
        /// The timeout.
        limit: Duration,
    },
    /// The bytes that a proxy has sent first, or that were to be sent so, are no header of the
    /// [PROXY protocol](crate::proxy_protocol).
    #[non_exhaustive]
    ProxyHeader {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A server cannot have two of its settings together.
    #[non_exhaustive]
    Unsupported {
        /// Which, and why.
        reason: &'static str,
    },
    /// A peer sent more descriptors than a handler [receives](crate::Connection::receive_fds), or than
    /// the process may have open.
    #[non_exhaustive]
    TooManyDescriptors {
        /// The limit.
        limit: usize,
    },
    /// A datagram was longer than `max_packet_size`, and was dropped.
    #[non_exhaustive]
    Truncated {
        /// The datagram's length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// A handler panicked.
    #[non_exhaustive]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A server with [`Forking`](crate::Forking) or [`Prefork`](crate::Prefork) does not fork, because
    /// the process has other threads: a child could inherit a lock (of the allocator, of a logger) that
    /// is never released in it.
    #[non_exhaustive]
    OtherThreads {
        /// The number of threads besides the serving one.
        count: usize,
    },
    /// An upstream could not be connected to: none of its addresses.
    #[non_exhaustive]
    Connect {
        /// The address that failed last.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// An upstream could not be connected to within the timeout, its name look-up included.
    #[non_exhaustive]
    ConnectTimeout {
        /// The address, as it was given.
        address: String,
        /// The timeout.
        limit: Duration,
    },
    /// A file cannot be used for TLS.
    #[non_exhaustive]
    TlsFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS with a peer has failed: a handshake, or a record that cannot be decrypted.
    #[non_exhaustive]
    Tls {
        /// What the peer has done, or has said by an alert.
        reason: String,
    },
    /// The input of a TLS connection ended without the peer's `close_notify`
    /// ([RFC 8446, 6.1](https://www.rfc-editor.org/rfc/rfc8446#section-6.1)): there may have been more.
    TlsTruncated,
    /// A client was further behind the messages of a [`Sender`](crate::Sender) than its capacity, and
    /// was disconnected.
    #[non_exhaustive]
    SlowConsumer {
        /// The capacity, in bytes.
        limit: usize,
    },
    /// The connection of a [`Sender`](crate::Sender) has ended.
    ConnectionClosed,
    /// A wait of a handler was ended because a stop of the server was out of time.
    Stopped,
    /// The server has been shut down, and cannot serve again.
    ShutDown,
    /// Another system call failed.
    #[non_exhaustive]
    System {
        /// What it was for, as in "cannot {doing}".
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// An I/O error of the program's own, converted by `?`.
    Io(io::Error),
}

impl Error {
    /// The error of this crate inside an [`io::Error`], if any.
    ///
    /// ```
    /// use socketserver::{Connection, Error};
    ///
    /// let mut connection = Connection::in_memory("far too long\n");
    /// let connection = connection.as_mut();
    /// connection.set_max_line_length(4);
    /// let error = connection.read_line(&mut String::new()).unwrap_err();
    /// assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: 4, .. })));
    /// ```
    pub fn of(error: &io::Error) -> Option<&Error> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether an error only means that the peer is gone: reset, `EPIPE`, EOF inside a message,
    /// unreachable, or that it breaks the rules of TLS. The error is an [`io::Error`] or one of these.
    ///
    /// ```
    /// use std::io;
    /// use socketserver::Error;
    ///
    /// assert!(Error::is_disconnect(&io::Error::from(io::ErrorKind::ConnectionReset)));
    /// assert!(!Error::is_disconnect(&io::Error::from(io::ErrorKind::PermissionDenied)));
    /// ```
    pub fn is_disconnect(error: &(dyn std::error::Error + 'static)) -> bool {
        Disconnect::of(error).is_some()
    }

    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { doing, source }
    }
}

/// How a peer has disconnected.
pub(crate) enum Disconnect {
    /// EOF inside a message.
    Eof,
    /// Reset, or unreachable.
    Reset,
}

impl Disconnect {
    /// `None` for an error that is not a disconnect.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Option<Disconnect> {
        if let Some(Error::System { source, .. } | Error::Io(source)) = error.downcast_ref() {
            return Disconnect::of(source);
        }
        if let Some(Error::ConnectionClosed | Error::Tls { .. } | Error::TlsTruncated) =
            error.downcast_ref()
        {
            return Some(Disconnect::Reset);
        }
        let error: &io::Error = error.downcast_ref()?;
        if let Some(inner) = Error::of(error) {
            return Disconnect::of(inner);
        }
        match (error.kind(), Errno::from_io_error(error)) {
            (ErrorKind::UnexpectedEof, _) => Some(Disconnect::Eof),
            (
                ErrorKind::BrokenPipe
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::NotConnected,
                _,
            ) => Some(Disconnect::Reset),
            // The peer's host or network is gone. A timeout of this crate has no errno.
            (_, Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH)) => {
                Some(Disconnect::Reset)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Address { text, reason } => write!(f, "bad address {text:?}: {reason}"),
            Error::Resolve { host, source } => write!(f, "cannot resolve {host}: {source}"),
            Error::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Error::Inherited { socket, reason } => write!(f, "{socket}: {reason}"),
            Error::HandOver { reason } => write!(f, "not handed over: {reason}"),
            Error::Connect { address, source } => {
                write!(f, "cannot connect to {address}: {source}")
            }
            Error::ConnectTimeout { address, limit } => {
                write!(f, "timed out: not connected to {address} within {limit:?}")
            }
            Error::TlsFile { file, reason } => {
                write!(f, "cannot use {} for TLS: {reason}", file.display())
            }
            Error::Tls { reason } => write!(f, "TLS: {reason}"),
            Error::TlsTruncated => f.write_str("TLS: the peer has not ended its output"),
            Error::SlowConsumer { limit } => {
                write!(f, "the client is more than {limit} bytes of messages behind")
            }
            Error::ConnectionClosed => f.write_str("the connection has ended"),
            Error::Stopped => f.write_str("the server stops"),
            Error::LineTooLong { limit } => write!(f, "line too long (limit {limit} bytes)"),
            Error::MessageTooLong { length, limit } => {
                write!(f, "message of {length} bytes is too long (limit {limit} bytes)")
            }
            Error::Truncated { length, limit } => {
                write!(f, "datagram of {length} bytes is too long (limit {limit} bytes)")
            }
            Error::TooManyDescriptors { limit } => {
                write!(f, "more descriptors than can be received (limit {limit})")
            }
            Error::ProxyHeader { reason } => write!(f, "bad PROXY header: {reason}"),
            Error::Unsupported { reason } => f.write_str(reason),
            Error::IdleTimeout { limit } => {
                write!(f, "timed out: the peer sent no message for {limit:?}")
            }
            Error::ReadTimeout { limit } => {
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
            Error::Timeout { limit } => write!(f, "timed out: not done within {limit:?}"),
            Error::Panicked { message } => write!(f, "handler panicked: {message}"),
            Error::OtherThreads { count } => write!(
                f,
                "refusing to fork: the process has {count} other thread{}",
                if *count == 1 { "" } else { "s" }
            ),
            Error::ShutDown => f.write_str("the server has been shut down"),
            Error::System { doing, source } => write!(f, "cannot {doing}: {source}"),
            Error::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Resolve { source, .. }
            | Error::Bind { source, .. }
            | Error::Connect { source, .. }
            | Error::System { source, .. } => Some(source),
            // Displayed as the error itself.
            Error::Io(error) => error.source(),
            _ => None,
        }
    }
}

/// For functions that return [`io::Error`]; [`Error::of`] is the way back.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let error = match error {
            Error::Io(error) => return error,
            error => error,
        };
        let kind = match &error {
            Error::Resolve { source, .. }
            | Error::Bind { source, .. }
            | Error::Connect { source, .. }
            | Error::System { source, .. } => source.kind(),
            Error::Address { .. } => ErrorKind::InvalidInput,
            Error::LineTooLong { .. }
            | Error::MessageTooLong { .. }
            | Error::ProxyHeader { .. }
            | Error::TooManyDescriptors { .. }
            | Error::Truncated { .. } => ErrorKind::InvalidData,
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::ConnectTimeout { .. }
            | Error::IdleTimeout { .. }
            | Error::ReadTimeout { .. }
            | Error::MessageTimeout { .. }
            | Error::TooSlow { .. }
            | Error::WriteTimeout { .. }
            | Error::Timeout { .. } => ErrorKind::TimedOut,
            Error::TlsFile { .. } | Error::Tls { .. } => ErrorKind::InvalidData,
            Error::TlsTruncated => ErrorKind::UnexpectedEof,
            Error::ConnectionClosed => ErrorKind::BrokenPipe,
            _ => ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// For `?` on std's I/O in a function that returns [`Result`]. An error of this crate inside the
/// [`io::Error`] becomes itself again, any other one [`Error::Io`].
///
/// ```no_run
/// use socketserver::{ThreadingTcpServer, services::Echo};
///
/// fn main() -> socketserver::Result<()> {
///     let address = std::fs::read_to_string("/etc/echo/address")?;
///     ThreadingTcpServer::bind(address.trim(), Echo)?.serve_forever()
/// }
/// ```
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        error.downcast().unwrap_or_else(Error::Io)
    }
}

/// For [`Builder::bind`](crate::Builder::bind) with an address that needs no parsing, such as a
/// `SocketAddr`.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Error {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_of_a_limit_is_no_disconnect_and_one_of_the_system_is() {
        let limit = Duration::from_secs(1);
        for error in [
            Error::IdleTimeout { limit },
            Error::ReadTimeout { limit },
            Error::WriteTimeout { limit },
            Error::Timeout { limit },
        ] {
            assert!(!Error::is_disconnect(&error));
            assert!(!Error::is_disconnect(&io::Error::from(error)));
        }
        for errno in [Errno::TIMEDOUT, Errno::CONNRESET] {
            assert!(Error::is_disconnect(&io::Error::from(errno)), "{errno}");
            let source = errno.into();
            assert!(Error::is_disconnect(&Error::System { doing: "read", source }), "{errno}");
        }
        assert!(!Error::is_disconnect(&io::Error::from(ErrorKind::TimedOut)));
    }

    #[test]
    fn an_error_goes_through_io_error_and_back() {
        let error = Error::from(io::Error::from(Error::LineTooLong { limit: 1 }));
        assert!(matches!(error, Error::LineTooLong { limit: 1 }));
        let error = Error::from(io::Error::from(Errno::NOENT));
        assert!(matches!(error, Error::Io(_)));
        let text = error.to_string();
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::NotFound, text));
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
    }
}
