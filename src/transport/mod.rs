//! [`Transport`], the source of a server's requests, and the four that are built in: TCP, UDP, Unix
//! stream and Unix datagram sockets.

mod connected;
mod each_address;
mod inherited;
mod permissions;
mod socket_file;
mod tcp;
mod udp;
mod unix_datagram;
mod unix_stream;

use std::io;
use std::os::fd::AsFd;

use crate::address::{Address, Endpoint};
use crate::config::TransportOptions;
use crate::error::Result;
use crate::request::RequestHandler;

pub(crate) use connected::Connected;
pub use inherited::{InheritedSocket, Listeners};
pub use tcp::Tcp;
pub use udp::Udp;
pub use unix_datagram::UnixDatagram;
pub use unix_stream::UnixStream;

/// The source of a server's requests: a socket from which connections or datagrams are accepted.
///
/// The server waits until the transport's descriptor ([`AsFd`]) is readable, and then calls
/// [`accept`](Transport::accept). A transport of your own may use another kind of socket, or wrap
/// one of the four that are built in, for instance to count, delay or fail:
///
/// ```
/// use std::io;
/// use std::os::fd::{AsFd, BorrowedFd};
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use socketserver::extend::{IncomingStream, Transport, TransportOptions};
/// use socketserver::transport::Tcp;
/// use socketserver::{Address, Endpoint, Server, StreamRequestHandler, Threading, services::Hello};
///
/// /// TCP of which every second accept fails.
/// struct Flaky(Tcp, AtomicU32);
///
/// impl AsFd for Flaky {
///     fn as_fd(&self) -> BorrowedFd<'_> {
///         self.0.as_fd()
///     }
/// }
///
/// impl Transport for Flaky {
///     type Handler = dyn StreamRequestHandler;
///
///     fn bind(endpoint: &Endpoint, options: &TransportOptions) -> socketserver::Result<Flaky> {
///         Ok(Flaky(Tcp::bind(endpoint, options)?, AtomicU32::new(0)))
///     }
///
///     fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
///         self.0.prepare(options)
///     }
///
///     fn local_addr(&self) -> io::Result<Address> {
///         self.0.local_addr()
///     }
///
///     fn accept(&self, options: &TransportOptions) -> io::Result<IncomingStream> {
///         match self.1.fetch_add(1, Ordering::Relaxed) % 2 {
///             0 => Err(io::ErrorKind::ConnectionAborted.into()),
///             _ => self.0.accept(options),
///         }
///     }
/// }
///
/// let server = Server::<Flaky, Threading>::bind("127.0.0.1:0", Hello)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Transport: AsFd + Send + Sync + Sized + 'static {
    /// The kind of handler for its requests: `dyn StreamRequestHandler` or
    /// `dyn DatagramRequestHandler`.
    type Handler: RequestHandler + ?Sized;

    /// Binds to the endpoint, and listens if the socket is one that does.
    ///
    /// # Errors
    /// [`Error::Bind`](crate::Error::Bind) if the system refuses;
    /// [`Error::Address`](crate::Error::Address) or [`Error::Resolve`](crate::Error::Resolve) for
    /// an endpoint that this transport cannot use.
    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<Self>;

    /// Binds to each address of the endpoint, all of them or none: what
    /// [`Builder::bind`](crate::Builder::bind) calls. By default it is the one that
    /// [`bind`](Transport::bind) binds to. TCP and UDP bind to all addresses of a host name.
    ///
    /// # Errors
    /// Those of [`bind`](Transport::bind).
    fn bind_each(endpoint: &Endpoint, options: &TransportOptions) -> Result<Vec<Self>> {
        Ok(vec![Self::bind(endpoint, options)?])
    }

    /// Called once before serving, also for a socket that was bound elsewhere: sets the options
    /// that accepting relies on (such as non-blocking mode) and those that connections inherit.
    /// Does nothing by default.
    ///
    /// # Errors
    /// The error of the system call that failed.
    fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
        let _ = options;
        Ok(())
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// The error of the system call that failed.
    fn local_addr(&self) -> io::Result<Address>;

    /// Accepts the next request, without blocking.
    ///
    /// # Errors
    /// `WouldBlock` if there is none. No error stops the server: after one that concerns a single
    /// connection (such as `ECONNABORTED`) it accepts again at once, after one that concerns the
    /// system (such as `EMFILE`) with a delay.
    fn accept(
        &self,
        options: &TransportOptions,
    ) -> io::Result<<Self::Handler as RequestHandler>::Incoming>;

    /// Whether what belongs to the socket besides its descriptor, such as the file of a Unix socket, is
    /// this process's to remove. It is called with `false` when another process has
    /// [taken the socket over](crate::Builder::take_over), and in that one with `true`. Does nothing by
    /// default.
    fn set_owner(&self, yes: bool) {
        let _ = yes;
    }

    /// How many requests may be waiting to be accepted now, at most. It is asked once, when a stop
    /// begins, which then serves so many and none that come later. `None`, the default: that is not
    /// known, and the stop accepts requests until none is left or its time is over.
    fn max_queued(&self) -> Option<usize> {
        None
    }
}

/// A number that the system is set to, by its path below `/proc/sys`.
fn sysctl(path: &str) -> Option<usize> {
    std::fs::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().parse().ok()
}
