//! Where a server listens: the end of a [`Builder`].

use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::take_over::{Inherited, Sockets};
use super::{Also, Builder};
use crate::accept::{BaseServer, Listener, prepare};
use crate::address::Endpoint;
use crate::close_reason::CloseReason;
use crate::error::{Error, Result};
use crate::handler::{DatagramRequestHandler, StreamRequestHandler};
use crate::mixin::{Mixin, Sequential};
use crate::net::WriteProgress;
use crate::request::IntoHandler;
use crate::server::Server;
use crate::state::{ListenerInfo, Listening, ServerState};
use crate::transport::{Connected, Transport};

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// Listens on this address too, beside that of [`bind`](Builder::bind); may be called again for
    /// more. All listeners share one registry, the same limits and the same stop.
    ///
    /// A stream server takes TCP and Unix stream addresses, a datagram server UDP and Unix datagram
    /// addresses. [`Connection::listener`](crate::Connection::listener) says which one a client has
    /// come by, [`ServerHandle::listen`](crate::ServerHandle::listen) adds one while the server
    /// serves. An address that is none is an error of `bind`.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::TcpStream;
    /// use socketserver::{ThreadingTcpServer, services::Hello};
    ///
    /// let server = ThreadingTcpServer::builder()
    ///     .also("127.0.0.1:0")
    ///     .also("unix:@socketserver-doc-also")
    ///     .bind("127.0.0.1:0", Hello)?
    ///     .spawn()?;
    /// let listeners = server.handle().listeners();
    /// assert_eq!(listeners.len(), 3);
    /// let second = listeners[1].local_addr.socket_addr().ok_or("not TCP")?;
    /// let mut answer = String::new();
    /// TcpStream::connect(second)?.read_to_string(&mut answer)?;
    /// assert_eq!(answer, "Hello World!\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn also<A>(mut self, address: A) -> Self
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        let endpoint = address.try_into().map_err(Into::into);
        self.also.push(Also::Endpoint { endpoint, is_plain: false });
        self
    }

    /// Takes requests from this transport too: a socket that was bound elsewhere, as for
    /// [`from_listener`](Builder::from_listener) and [`from_socket`](Builder::from_socket), or one that
    /// the program [was started with](crate::transport::Listeners). May be called again for more.
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use socketserver::transport::Tcp;
    /// use socketserver::{ThreadingTcpServer, services::Hello};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    /// let server = ThreadingTcpServer::builder()
    ///     .also_transport(Tcp::from(listener))
    ///     .bind("127.0.0.1:0", Hello)?;
    /// assert_eq!(server.handle().listeners().len(), 2);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn also_transport<U>(mut self, transport: U) -> Self
    where
        U: Transport<Handler = T::Handler>,
    {
        let add = |listener: &Listener| listener.add(vec![transport], None).map(drop);
        self.also.push(Also::Transport(Box::new(add)));
        self
    }

    /// Binds and listens: clients can connect when this returns.
    ///
    /// The address is a text such as `127.0.0.1:2525` (see [`Endpoint`]), a
    /// [`SocketAddr`](std::net::SocketAddr) or a path. For port 0 the system chooses a free one,
    /// which [`local_addr`](Server::local_addr) returns.
    ///
    /// A host name, such as `localhost`, stands for all of its IPv4 and IPv6 addresses that this
    /// machine has: each gets a listener, and for port 0 the same port.
    ///
    /// # Errors
    /// [`Error::Address`] and [`Error::Resolve`] for what is no address, [`Error::Bind`] when the
    /// system refuses it, or one of several; then nothing is bound. [`Error::Unsupported`] for settings
    /// that exclude each other.
    pub fn bind<A, H>(mut self, address: A, handler: H) -> Result<Server<T, M>>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
        H: IntoHandler<T::Handler>,
    {
        let endpoint = address.try_into().map_err(Into::into)?;
        if let Some(sockets) = self.receive()? {
            // The first of all: it is one of the predecessor's mostly.
            self.also.insert(0, Also::Endpoint { endpoint: Ok(endpoint), is_plain: false });
            return self.with_sockets(sockets, handler);
        }
        let mut transports = T::bind_each(&endpoint, &self.settings.transport)?.into_iter();
        let absent = || io::ErrorKind::AddrNotAvailable.into();
        let no_address = || Error::Bind { address: endpoint.to_string(), source: absent() };
        let first = transports.next().ok_or_else(no_address)?;
        let (endpoint, others) = (Some(endpoint), transports.collect());
        self.with_sockets(Sockets { first, endpoint, others, inherited: None }, handler)
    }

    pub(super) fn with_sockets<H>(self, sockets: Sockets<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        if self.take_over.is_some() {
            let reason = "listeners are taken over by `bind` and `from_predecessor` only";
            return Err(Error::Unsupported { reason });
        }
        #[cfg(feature = "tls")]
        let tls = self.tls;
        let Builder { mixin, mut settings, actions, observers, also, .. } = self;
        let Sockets { first, endpoint, others, inherited } = sockets;
        if settings.proxy_protocol.is_some() && mixin.forks_requests() && settings.limits_peers() {
            let reason = "a forking server reads the PROXY header in the child, and cannot limit the \
                          connections of one client";
            return Err(Error::Unsupported { reason });
        }
        // The socket's own timeout is for what a connection mostly waits for, the next message.
        settings.descriptors_per_request = mixin.descriptors_per_request().max(1);
        settings.processes = mixin.processes().max(1);
        if mixin.forks_requests() {
            settings.forked_requests = mixin.max_requests();
        }
        settings.transport.read_timeout = settings.idle_timeout.or(settings.read_timeout);
        settings.transport.write_timeout = settings.write_timeout.map(WriteProgress::slice);
        let local_addr = prepare(&first, &settings.transport)?;
        let info = ListenerInfo::new(1, local_addr, false, endpoint.clone());
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "TLS is added to it"))]
        let mut state =
            ServerState::new(settings, observers, info).map_err(Error::system("make a pipe"))?;
        #[cfg(feature = "tls")]
        if let Some(tls) = tls {
            state.begin_tls(tls.into_inner());
        }
        let (handler, state) = (handler.into_handler(), Arc::new(state));
        let listener = Listener::new(first, &handler, state, mixin.max_requests());
        if !others.is_empty() {
            listener.add(others, endpoint.as_ref())?;
        }
        let Some(Inherited { others, mut taken_over }) = inherited else {
            also.into_iter().try_for_each(|also| also.add_to(&listener, false))?;
            return Ok(Server::new(BaseServer::new(listener, actions, None), mixin));
        };
        others
            .into_iter()
            .try_for_each(|received| listener.take_over(received))
            .and_then(|()| also.into_iter().try_for_each(|also| also.add_to(&listener, true)))
            .inspect_err(|error| taken_over.fail(&error.to_string()))?;
        Ok(Server::new(BaseServer::new(listener, actions, Some(taken_over)), mixin))
    }
}

impl Also {
    /// `has_predecessor`: it may be there already.
    fn add_to(self, listener: &Listener, has_predecessor: bool) -> Result<()> {
        match self {
            Also::Transport(add) => add(listener),
            Also::Endpoint { endpoint, is_plain } => {
                let endpoint = endpoint?;
                if has_predecessor && listener.is_bound_for(&endpoint) {
                    return Ok(());
                }
                listener.listen(&endpoint, is_plain).map(drop)
            }
        }
    }
}

impl<T: Transport<Handler = dyn StreamRequestHandler>, M: Mixin> Builder<T, M> {
    /// Takes a listening TCP or Unix stream socket that was bound elsewhere, by an earlier process
    /// for instance. It is made non-blocking, and is closed in programs that this process starts
    /// (`FD_CLOEXEC`). A Unix socket's file is not removed at the end.
    ///
    /// # Errors
    /// [`Error::System`] when an option cannot be set on it.
    pub fn from_listener<H>(self, listener: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<dyn StreamRequestHandler>,
    {
        self.with_sockets(Sockets::one(listener.into()), handler)
    }

    /// Serves one connection that another program has accepted, on this thread, until it has ended: that of
    /// a program which is started for each client, by inetd, systemd (`Accept=yes`), `s6-tcpserver` or
    /// `nc -e`. It mostly is standard input:
    ///
    /// ```no_run
    /// use std::io;
    /// use std::os::fd::AsFd;
    /// use socketserver::{TcpServer, services::Echo};
    ///
    /// let connection = io::stdin().as_fd().try_clone_to_owned()?;
    /// let reason = TcpServer::builder().serve_connection(connection, Echo)?;
    /// eprintln!("{reason}");
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// The settings hold as for any server's connection, whatever the mixin. Returns why it ended;
    /// [`CloseReason::Denied`](crate::CloseReason::Denied) also for one that a limit rejects.
    ///
    /// # Errors
    /// [`Error::Inherited`] if it is no connected TCP or Unix stream socket, [`Error::System`] when an
    /// option cannot be set on it.
    pub fn serve_connection<H>(
        self,
        connection: impl Into<OwnedFd>,
        handler: H,
    ) -> Result<CloseReason>
    where
        H: IntoHandler<dyn StreamRequestHandler>,
    {
        let transport = Connected::new(connection.into())?;
        let builder = Builder {
            mixin: Sequential,
            settings: self.settings,
            actions: self.actions,
            observers: self.observers,
            also: Vec::new(),
            take_over: None,
            #[cfg(feature = "tls")]
            tls: self.tls,
            transport: PhantomData,
        };
        let server: Server<Connected, _> =
            builder.with_sockets(Sockets::one(transport), handler)?;
        Ok(server.handle_one().unwrap_or(CloseReason::Denied))
    }
}

impl<T: Transport<Handler = dyn DatagramRequestHandler>, M: Mixin> Builder<T, M> {
    /// Takes a UDP or Unix datagram socket that was bound elsewhere. A Unix socket is made
    /// non-blocking. It is closed in programs that this process starts (`FD_CLOEXEC`), and its file is
    /// not removed at the end.
    ///
    /// # Errors
    /// [`Error::System`] when an option cannot be set on it.
    pub fn from_socket<H>(self, socket: impl Into<T>, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<dyn DatagramRequestHandler>,
    {
        self.with_sockets(Sockets::one(socket.into()), handler)
    }
}
