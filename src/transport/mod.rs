//! Where requests come from: [`Transport`] and the four that are built in.

mod socket_file;
mod tcp;
mod udp;
mod unix_datagram;
mod unix_stream;

use std::io;
use std::os::fd::AsFd;

use crate::address::{Address, Endpoint};
use crate::error::Result;
use crate::request::RequestHandler;

pub use tcp::Tcp;
pub use udp::Udp;
pub use unix_datagram::UnixDatagram;
pub use unix_stream::UnixStream;

/// Where requests come from.
///
/// A server waits on the transport's descriptor ([`AsFd`]) and calls
/// [`accept`](Transport::accept) when it is readable. Four transports are built in; one of your own
/// can bring another kind of socket, or wrap one of these to count, delay or falsify:
///
/// ```
/// use std::io;
/// use std::os::fd::{AsFd, BorrowedFd};
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use socketserver::transport::{IncomingStream, Tcp, Transport, TransportOptions};
/// use socketserver::{Address, Endpoint, Server, StreamRequestHandler, Threading, services::Hello};
///
/// /// TCP that fails each other time.
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
    /// Which handler its requests need: `dyn StreamRequestHandler` or
    /// `dyn DatagramRequestHandler`.
    type Handler: RequestHandler + ?Sized;

    /// Binds and listens.
    ///
    /// # Errors
    /// [`Error::Bind`](crate::Error::Bind) with the endpoint, or an error about the endpoint
    /// itself.
    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<Self>;

    /// Called once before serving, also for a socket that was not bound here: to set on it what
    /// accepting relies on, and what connections inherit. Does nothing by default.
    ///
    /// # Errors
    /// What the system says.
    fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
        let _ = options;
        Ok(())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    fn local_addr(&self) -> io::Result<Address>;

    /// Takes the next request, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when there is none. Any other error is survived: the server goes on at once
    /// where it concerns one connection, and after a while where it concerns the system.
    fn accept(
        &self,
        options: &TransportOptions,
    ) -> io::Result<<Self::Handler as RequestHandler>::Incoming>;
}

pub use crate::config::TransportOptions;
pub use crate::datagram::DatagramSocket;
pub use crate::net::{SocketStream, Stream};
pub use crate::request::{IncomingDatagram, IncomingStream};
