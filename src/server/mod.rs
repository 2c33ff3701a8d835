//! [`Server`]: what a user holds.

pub(crate) mod builder;

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use crate::accept::{BaseServer, NextRequest};
use crate::address::Address;
use crate::error::{Error, Result};
#[cfg(feature = "fibers")]
use crate::mixin::Fibers;
use crate::mixin::{Forking, Mixin, Sequential, Spawnable, Threading};
use crate::request::Request;
use crate::request::lifecycle::panic_message;
use crate::state::ServerState;
use crate::state::{RunningServer, ServerHandle};
pub use builder::Builder;

use crate::transport::{Tcp, Transport, Udp, UnixDatagram, UnixStream};

/// A server that listens, and can serve: where requests come from (`T`), who runs them (`M`), and
/// the handler that answers them.
///
/// Its aliases are the twelve servers of CPython's `socketserver`.
///
/// Dropping it closes the listener, removes the file of a Unix socket, and ends what
/// [`handle_request`](Server::handle_request) has left running as a stop does: CPython's
/// `server_close`.
pub struct Server<T, M: Mixin> {
    // In this order: whoever comes while the last requests end is told that nobody serves here.
    base: BaseServer,
    running: Running<M>,
    // And last, so that no request waits for a handler that takes its time to be dropped.
    _handler: Box<dyn Send + Sync>,
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

/// What [`Server::handle_request`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Handled {
    /// A request came, and was handled or given to a thread or process that handles it.
    Request,
    /// None came within the [`request_timeout`](crate::Builder::request_timeout).
    TimedOut,
    /// The server has been shut down.
    ShutDown,
}

impl<T: Transport, M: Mixin> Server<T, M> {
    pub(crate) fn new(base: BaseServer, mixin: M) -> Server<T, M> {
        let running = Running { mixin, handle: base.handle() };
        let _handler = base.listener().handler();
        Server { base, running, _handler, transport: PhantomData }
    }

    /// Where it listens, with the real port where 0 was asked for.
    pub fn local_addr(&self) -> &Address {
        &self.base.state().local_addr
    }

    /// A handle to stop it with from elsewhere, to be taken before serving.
    pub fn handle(&self) -> ServerHandle {
        self.base.handle()
    }

    /// Serves until it is shut down, and then until every connection has ended, or the
    /// [`stop_timeout`](crate::Builder::stop_timeout) has come.
    ///
    /// # Errors
    /// [`Error::ShutDown`] when it was shut down before, [`Error::OtherThreads`] from a forking
    /// server beside other threads, [`Error::System`] when the workers of a fiber server cannot be
    /// started. Nothing that happens to a connection, and no shortage of the system's, ends it.
    pub fn serve_forever(self) -> Result<()> {
        self.start()?;
        self.serve()
    }

    /// Waits for one request and handles it, for a program with a loop of its own. Whether one
    /// came within the [`request_timeout`](crate::Builder::request_timeout) is what it returns.
    ///
    /// A server can be waited for together with other things by its listener ([`AsFd`]).
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
        let timeout = self.base.state().settings.request_timeout;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match self.running.mixin.next_request(&self.base, deadline) {
            NextRequest::Request(request) => {
                self.running.process_request(&self.base, request);
                Handled::Request
            }
            NextRequest::TimedOut | NextRequest::Ready => Handled::TimedOut,
            NextRequest::ShutDown => Handled::ShutDown,
        }
    }

    fn start(&self) -> Result<()> {
        self.base.state().begin_serving()?;
        self.running.mixin.start(&self.base)
    }

    fn serve(self) -> Result<()> {
        let Server { base, running, .. } = &self;
        log::info!("serving on {}", self.local_addr());
        while let NextRequest::Request(request) = running.mixin.next_request(base, None) {
            running.process_request(base, request);
        }
        Ok(())
    }
}

/// The requests that the mixin is running, or will: when this is dropped, they have ended.
struct Running<M: Mixin> {
    mixin: M,
    handle: ServerHandle,
}

impl<M: Mixin> Running<M> {
    fn process_request(&self, base: &BaseServer, request: Request) {
        let process = || self.mixin.process_request(base, request);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(process)) {
            log::error!("process_request panicked: {}", panic_message(&*panic));
        }
    }
}

impl<M: Mixin> Drop for Running<M> {
    fn drop(&mut self) {
        let Running { mixin, handle } = self;
        let state = handle.state();
        // Whoever waits for the server to stop is told when it has, even by a panic.
        let _end_serving = EndServing(state);
        state.shutdown();
        state.begin_stop();
        state.rejected.clear();
        if !mixin.wait(handle, &|| state.schedule().force) {
            state.registry.force();
            mixin.terminate();
            mixin.wait(handle, &|| state.schedule().end);
        }
        mixin.close(handle);
        let stuck = state.registry.snapshot();
        for one in stuck.iter().take(MAX_LOGGED) {
            log::warn!("{} from {} does not end; left behind", one.id, one.peer);
        }
        if let more @ 1.. = stuck.len().saturating_sub(MAX_LOGGED) {
            log::warn!("nor do {more} more");
        }
    }
}

/// How many of those who do not end the log names.
const MAX_LOGGED: usize = 20;

struct EndServing<'a>(&'a ServerState);

impl Drop for EndServing<'_> {
    fn drop(&mut self) {
        self.0.end_serving();
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
    /// The listener, to wait for together with other descriptors; readable means that
    /// [`handle_request`](Server::handle_request) has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }
}

impl<T, M: Mixin> std::fmt::Debug for Server<T, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.base.state().local_addr)
    }
}
