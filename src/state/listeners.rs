//! The listeners of a server as the rest of a program sees them: [`ListenerInfo`]; and what a handle
//! asks of the part that accepts: [`Listening`].

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{ServerHandle, ServerState};
use crate::address::{Address, Endpoint};
use crate::error::{Error, Result};
use crate::id::ListenerId;

/// A socket that a server takes requests from: a listening stream socket, or a datagram socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its number.
    pub id: ListenerId,
    /// The address that it is bound to, with the real port where 0 was asked for.
    pub local_addr: Address,
    /// Whether its connections are over TLS.
    pub is_tls: bool,
    endpoint: Option<Endpoint>,
}

impl ListenerInfo {
    pub(crate) fn new(
        id: u64,
        local_addr: Address,
        is_tls: bool,
        endpoint: Option<Endpoint>,
    ) -> Arc<ListenerInfo> {
        Arc::new(ListenerInfo { id: id.into(), local_addr, is_tls, endpoint })
    }

    /// What it was bound for; `None` for a socket that was bound elsewhere.
    pub(crate) fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref()
    }
}

/// The part of a server that accepts, for its handles.
pub(crate) trait Listening: Send + Sync {
    /// `is_plain`: without the server's TLS.
    fn listen(&self, endpoint: &Endpoint, is_plain: bool) -> Result<Vec<ListenerInfo>>;
    fn close_listener(&self, id: ListenerId) -> bool;
    fn listeners(&self) -> Vec<ListenerInfo>;
    /// A duplicate of each socket, for another process.
    fn copies(&self) -> io::Result<Vec<(OwnedFd, ListenerInfo)>>;
}

impl ServerHandle {
    /// The listeners that requests are taken from now, in the order in which they were added: that
    /// of [`bind`](crate::Builder::bind) first. None once a stop has closed them.
    pub fn listeners(&self) -> Vec<ListenerInfo> {
        self.state().listening().map(|listening| listening.listeners()).unwrap_or_default()
    }

    /// Listens on one more address, from now on, as
    /// [`Builder::also`](crate::Builder::also) does from the start; the server may be serving
    /// already. Returns the listeners: one for each address of a host name, otherwise one.
    ///
    /// A host name is looked up on the calling thread. In a child of a forking server it fails: a
    /// child serves its one request.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?;
    /// let handle = server.handle();
    /// for listener in handle.listen("[::1]:0")? {
    ///     println!("also listening on {}", listener.local_addr);
    ///     handle.close_listener(listener.id);
    /// }
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Builder::bind`](crate::Builder::bind), after which nothing has changed;
    /// [`Error::ShutDown`] when a stop was asked for.
    pub fn listen<A>(&self, address: A) -> Result<Vec<ListenerInfo>>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        self.listen_on(&address.try_into().map_err(Into::into)?, false)
    }

    /// Listens on one more address without TLS, as
    /// [`Builder::also_plain`](crate::Builder::also_plain) does from the start. All else is that of
    /// [`listen`](ServerHandle::listen).
    ///
    /// # Errors
    /// Those of [`listen`](ServerHandle::listen).
    #[cfg(feature = "tls")]
    pub fn listen_plain<A>(&self, address: A) -> Result<Vec<ListenerInfo>>
    where
        A: TryInto<Endpoint>,
        A::Error: Into<Error>,
    {
        self.listen_on(&address.try_into().map_err(Into::into)?, true)
    }

    fn listen_on(&self, endpoint: &Endpoint, is_plain: bool) -> Result<Vec<ListenerInfo>> {
        let listening = self.state().listening().filter(|_| !self.is_stopping());
        listening.ok_or(Error::ShutDown)?.listen(endpoint, is_plain)
    }

    /// Closes one listener while the server goes on: what waits in its backlog now is served, and
    /// then the thread that accepts closes it, and removes the file of a Unix socket. This does not
    /// wait for that: the listener is closed when [`listeners`](ServerHandle::listeners) no longer
    /// has it. Its connections are served on. Returns whether there is such a listener, which is
    /// not being closed already.
    ///
    /// The socket of a datagram listener stays open until the datagrams that it has received are
    /// answered. A server whose last listener was closed serves its connections, and waits for
    /// another [`listen`](ServerHandle::listen) or a stop.
    pub fn close_listener(&self, id: ListenerId) -> bool {
        self.state().listening().is_some_and(|listening| listening.close_listener(id))
    }
}

impl ServerState {
    /// `None` once the server has closed its listeners.
    pub(crate) fn listening(&self) -> Option<Arc<dyn Listening>> {
        self.listening.get()?.upgrade()
    }
}
