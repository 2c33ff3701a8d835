//! [`Server`]: what a user holds.

mod builder;
mod shutdown;

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use crate::accept::{BaseServer, NextRequest};
use crate::address::{Address, Endpoint};
use crate::close_reason::CloseReason;
use crate::error::{Error, Result};
use crate::handler::{DatagramRequestHandler, StreamRequestHandler};
#[cfg(feature = "fibers")]
use crate::mixin::Fibers;
use crate::mixin::{Forking, Mixin, Sequential, Spawnable, Threading};
use crate::request::{AnyHandler, IntoHandler, Request, panic_message};
use crate::state::{RunningServer, ServerHandle};
use crate::transport::{Tcp, Transport, Udp, UnixDatagram, UnixStream};
use shutdown::shut_down;

pub use builder::Builder;

/// A server that listens, and can serve: where requests come from (`T`), who runs them (`M`), and
/// the handler that answers them.
///
/// Its sixteen aliases are the servers of CPython's `socketserver`, and four on fibers.
///
/// Dropping it closes the listener, removes the file of a Unix socket, and ends what
/// [`handle_request`](Server::handle_request) has left running as a stop does: CPython's
/// `server_close`.
pub struct Server<T, M: Mixin> {
    /// `None` while it is being dropped.
    base: Option<BaseServer>,
    mixin: M,
    /// Dropped last, so that no request waits for a handler that takes long to be dropped.
    _handler: AnyHandler,
    transport: PhantomData<fn() -> T>,
}

/// TCP, one connection after the other.
pub type TcpServer = Server<Tcp, Sequential>;
/// UDP, one datagram after the other.
pub type UdpServer = Server<Udp, Sequential>;
/// Unix stream sockets, one connection after the other.
pub type UnixStreamServer = Server<UnixStream, Sequential>;
/// Unix datagram sockets, one datagram after the other.
pub type UnixDatagramServer = Server<UnixDatagram, Sequential>;

/// TCP, a thread per connection.
pub type ThreadingTcpServer = Server<Tcp, Threading>;
/// UDP, a thread per datagram.
pub type ThreadingUdpServer = Server<Udp, Threading>;
/// Unix stream sockets, a thread per connection.
pub type ThreadingUnixStreamServer = Server<UnixStream, Threading>;
/// Unix datagram sockets, a thread per datagram.
pub type ThreadingUnixDatagramServer = Server<UnixDatagram, Threading>;

/// TCP, a process per connection.
pub type ForkingTcpServer = Server<Tcp, Forking>;
/// UDP, a process per datagram.
pub type ForkingUdpServer = Server<Udp, Forking>;
/// Unix stream sockets, a process per connection.
pub type ForkingUnixStreamServer = Server<UnixStream, Forking>;
/// Unix datagram sockets, a process per datagram.
pub type ForkingUnixDatagramServer = Server<UnixDatagram, Forking>;

/// TCP, a fiber per connection.
#[cfg(feature = "fibers")]
pub type FiberTcpServer = Server<Tcp, Fibers>;
/// UDP, a fiber per datagram.
#[cfg(feature = "fibers")]
pub type FiberUdpServer = Server<Udp, Fibers>;
/// Unix stream sockets, a fiber per connection.
#[cfg(feature = "fibers")]
pub type FiberUnixStreamServer = Server<UnixStream, Fibers>;
/// Unix datagram sockets, a fiber per datagram.
#[cfg(feature = "fibers")]
pub type FiberUnixDatagramServer = Server<UnixDatagram, Fibers>;

/// What [`Server::handle_request`] did. These three are all that it can do: a program may match
/// them without a further arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// A request was handled, or given to a thread or process that handles it.
    Request,
    /// There was none within the [`request_timeout`](crate::Builder::request_timeout).
    TimedOut,
    /// The server has been shut down.
    ShutDown,
}

impl<T: Transport, M: Mixin + Default> Server<T, M> {
    /// Binds and listens, with default settings: see [`Builder::bind`].
    ///
    /// # Errors
    /// See [`Builder::bind`].
    pub fn bind<A, H>(address: A, handler: H) -> Result<Server<T, M>>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
        H: IntoHandler<T::Handler>,
    {
        Self::builder().bind(address, handler)
    }

    /// A server with other than the default settings.
    pub fn builder() -> Builder<T, M> {
        Builder::new(M::default())
    }
}

impl<T: Transport<Handler = dyn StreamRequestHandler>, M: Mixin + Default> Server<T, M> {
    /// Takes a listening stream socket that was bound elsewhere: see [`Builder::from_listener`].
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use socketserver::{ThreadingTcpServer, services::Hello};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    /// let server = ThreadingTcpServer::from_listener(listener, Hello)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Builder::from_listener`].
    pub fn from_listener<H>(listener: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<dyn StreamRequestHandler>,
    {
        Self::builder().from_listener(listener, handler)
    }
}

impl<T: Transport<Handler = dyn DatagramRequestHandler>, M: Mixin + Default> Server<T, M> {
    /// Takes a bound datagram socket: see [`Builder::from_socket`].
    ///
    /// # Errors
    /// See [`Builder::from_socket`].
    pub fn from_socket<H>(socket: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<dyn DatagramRequestHandler>,
    {
        Self::builder().from_socket(socket, handler)
    }
}

impl<T, M: Mixin> Server<T, M> {
    fn base(&self) -> &BaseServer {
        self.base.as_ref().expect("only `drop` takes it")
    }
}

impl<T: Transport, M: Mixin> Server<T, M> {
    pub(crate) fn new(base: BaseServer, mixin: M) -> Server<T, M> {
        let _handler = base.listener().handler();
        Server { base: Some(base), mixin, _handler, transport: PhantomData }
    }

    fn process_request(&self, request: Request) {
        let process = || self.mixin.process_request(self.base(), request);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(process)) {
            log::error!("process_request panicked: {}", panic_message(&*panic));
        }
    }

    /// The address that it was bound to, with the real port where 0 was asked for. It is that of its
    /// first listener; [`ServerHandle::listeners`] has all.
    pub fn local_addr(&self) -> &Address {
        self.base().state().local_addr()
    }

    /// A handle to stop it with from another thread, to be taken before serving.
    pub fn handle(&self) -> ServerHandle {
        self.base().handle()
    }

    /// Serves until it is shut down, and then until every request has ended, or the
    /// [`stop_timeout`](crate::Builder::stop_timeout) is over.
    ///
    /// # Errors
    /// [`Error::ShutDown`] when it was shut down before; from a forking server,
    /// [`Error::OtherThreads`] beside other threads, and [`Error::System`] without `pidfd_open`;
    /// [`Error::System`] when the workers of [`Fibers`](crate::Fibers) cannot be started. No error of
    /// a connection and no shortage of the system ends it.
    pub fn serve_forever(self) -> Result<()> {
        self.start()?;
        self.serve()
    }

    /// Waits for one request and handles it, for a program with a loop of its own. Returns whether
    /// there was one within the [`request_timeout`](crate::Builder::request_timeout).
    ///
    /// To wait for a server and other things at the same time, poll it ([`AsFd`]).
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::{Handled, UdpServer, services::Echo};
    ///
    /// let server =
    ///     UdpServer::builder().request_timeout(Duration::ZERO).bind("127.0.0.1:0", Echo)?;
    /// assert_eq!(server.handle_request(), Handled::TimedOut);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn handle_request(&self) -> Handled {
        if let Err(error) = self.base().take_over() {
            log::error!("{error}");
            self.handle().shutdown();
        }
        let timeout = self.base().state().settings.request_timeout;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match self.mixin.next_request(self.base(), deadline) {
            NextRequest::Request(request) => {
                self.process_request(request);
                Handled::Request
            }
            NextRequest::TimedOut | NextRequest::Ready => Handled::TimedOut,
            NextRequest::ShutDown => Handled::ShutDown,
        }
    }

    /// Handles the request that is there now, on this thread. `None` if there is none, or if it was
    /// rejected.
    fn handle_one(&self) -> Option<CloseReason> {
        match self.base().next_request_or_ready(Some(Instant::now()), None) {
            NextRequest::Request(request) => Some(request.finish()),
            _ => None,
        }
    }

    fn start(&self) -> Result<()> {
        let (base, state) = (self.base(), self.base().state());
        state.begin_serving()?;
        self.mixin.start(base)?;
        base.take_over()?;
        state.tell_start();
        Ok(())
    }

    fn serve(self) -> Result<()> {
        for listener in self.handle().listeners() {
            log::info!("serving on {}", listener.local_addr);
        }
        while let NextRequest::Request(request) = self.mixin.next_request(self.base(), None) {
            self.process_request(request);
        }
        // Dropping the server is what stops it.
        Ok(())
    }
}

impl<T, M: Mixin> Drop for Server<T, M> {
    fn drop(&mut self) {
        if let Some(base) = self.base.take() {
            shut_down(base, &self.mixin);
        }
    }
}

impl<T: Transport, M: Spawnable> Server<T, M> {
    /// Serves on a thread of its own, already listening when this returns: for a program that has
    /// other things to do.
    ///
    /// ```
    /// use std::time::Duration;
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?;
    /// println!("listening on {}", server.local_addr());
    /// let report = server.stop(Duration::from_secs(5));
    /// assert!(report.is_clean());
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShutDown`] when it was shut down before, [`Error::System`] when a thread of the
    /// server cannot be started.
    pub fn spawn(self) -> Result<RunningServer> {
        let handle = self.handle();
        self.start()?;
        let thread = thread::Builder::new()
            .name("socketserver".to_owned())
            .spawn(move || self.serve())
            .map_err(Error::system("start the server's thread"))?;
        Ok(RunningServer::new(handle, thread))
    }
}

impl<T, M: Mixin> AsFd for Server<T, M> {
    /// To wait for together with other descriptors; readable means that a listener has something,
    /// for [`handle_request`](Server::handle_request). It is not the socket of a listener, and stays
    /// the same while listeners come and go.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.base().as_fd()
    }
}

impl<T, M: Mixin> std::fmt::Debug for Server<T, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.base().state().local_addr())
    }
}
