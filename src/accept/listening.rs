//! Listeners come and go: the part of [`Listener`] that a builder and a
//! [`ServerHandle`](crate::ServerHandle) use.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::listener::{Accept, Listener};
use super::source::{Source, prepare};
use crate::address::{Endpoint, Scheme};
use crate::error::{Error, Result};
use crate::hand_over::Received;
use crate::id::ListenerId;
use crate::request::{AnyHandler, sealed};
use crate::state::{ListenerInfo, Listening};
use crate::sys::poller::ReadySet;
use crate::transport::{Tcp, Transport, Udp, UnixDatagram, UnixStream};

impl Listening for Listener {
    fn listen(&self, endpoint: &Endpoint, is_plain: bool) -> Result<Vec<ListenerInfo>> {
        let is_tls = !is_plain && self.state.has_tls();
        match (&self.handler, endpoint.is_unix()) {
            (AnyHandler::Stream(_), true) => self.bind::<UnixStream>(endpoint, is_tls),
            (AnyHandler::Stream(_), false) => self.bind::<Tcp>(endpoint, is_tls),
            (AnyHandler::Datagram(_), true) => self.bind::<UnixDatagram>(endpoint, is_tls),
            (AnyHandler::Datagram(_), false) => self.bind::<Udp>(endpoint, is_tls),
        }
    }

    fn close_listener(&self, id: ListenerId) -> bool {
        let is_closing = self.accepting.lock().sources.begin_closing(id, &self.ready);
        if is_closing {
            self.has_closing.store(true, Ordering::SeqCst);
            self.state.wake_acceptor();
        }
        is_closing
    }

    fn listeners(&self) -> Vec<ListenerInfo> {
        self.accepting.lock().sources.infos()
    }

    fn copies(&self) -> io::Result<Vec<(OwnedFd, ListenerInfo)>> {
        self.accepting.lock().sources.copies()
    }
}

impl Listener {
    fn bind<T: Transport>(&self, endpoint: &Endpoint, is_tls: bool) -> Result<Vec<ListenerInfo>> {
        let transports = T::bind_each(endpoint, &self.state.settings.transport)?;
        self.add_all(transports, is_tls, Some(endpoint))
    }

    /// Takes requests from these transports too, over TLS if the server has it: from all of them, or from
    /// none. `endpoint` is what they were bound for, if this server has bound them.
    ///
    /// # Errors
    /// Those of [`listen`](crate::ServerHandle::listen).
    pub(crate) fn add<T: Transport>(
        &self,
        transports: Vec<T>,
        endpoint: Option<&Endpoint>,
    ) -> Result<Vec<ListenerInfo>> {
        self.add_all(transports, self.state.has_tls(), endpoint)
    }

    /// Takes requests from a listener of another server, as that one did.
    ///
    /// # Errors
    /// [`Error::Inherited`] if it is of the other kind, streams or datagrams.
    pub(crate) fn take_over(&self, received: Received) -> Result<()> {
        let Received { socket, is_plain, endpoint } = received;
        let (is_tls, endpoint) = (!is_plain && self.state.has_tls(), endpoint.as_ref());
        match (&self.handler, socket.scheme()) {
            (AnyHandler::Stream(_), Scheme::Unix) => {
                self.add_all(vec![UnixStream::try_from(socket)?], is_tls, endpoint)
            }
            (AnyHandler::Stream(_), _) => {
                self.add_all(vec![Tcp::try_from(socket)?], is_tls, endpoint)
            }
            (AnyHandler::Datagram(_), Scheme::UnixDatagram) => {
                self.add_all(vec![UnixDatagram::try_from(socket)?], is_tls, endpoint)
            }
            (AnyHandler::Datagram(_), _) => {
                self.add_all(vec![Udp::try_from(socket)?], is_tls, endpoint)
            }
        }
        .map(drop)
    }

    /// Whether there is a listener that was bound for this endpoint, or is bound to it.
    pub(crate) fn is_bound_for(&self, endpoint: &Endpoint) -> bool {
        let shown = endpoint.to_string();
        self.accepting
            .lock()
            .sources
            .infos()
            .iter()
            .any(|info| info.endpoint() == Some(endpoint) || info.local_addr.to_string() == shown)
    }

    /// See [`Transport::set_owner`].
    pub(crate) fn set_owner(&self, yes: bool) {
        self.accepting.lock().sources.set_owner(yes);
    }

    fn add_all<T: Transport>(
        &self,
        transports: Vec<T>,
        is_tls: bool,
        endpoint: Option<&Endpoint>,
    ) -> Result<Vec<ListenerInfo>> {
        let Some(handler) = <T::Handler as sealed::RequestHandler>::of_any(&self.handler) else {
            // The transports of a server have the handler's kind: types see to it.
            return Ok(Vec::new());
        };
        let mut prepared = Vec::new();
        for transport in transports {
            let address = prepare(&transport, &self.state.settings.transport)?;
            prepared.push((transport, address));
        }
        let mut added = Vec::new();
        let mut accepting = self.accepting.lock();
        let sources = &mut accepting.sources;
        if sources.is_closed {
            return Err(Error::ShutDown);
        }
        for (transport, address) in prepared {
            let info = ListenerInfo::new(sources.next_number(), address, is_tls, endpoint.cloned());
            added.push(ListenerInfo::clone(&info));
            let source = Source::new(info, transport, handler.clone());
            if let Err(error) = sources.add(source, &self.ready) {
                for _ in 1..added.len() {
                    sources.remove(sources.len() - 1, &self.ready);
                }
                return Err(Error::system("wait for the listener")(error));
            }
        }
        drop(accepting);
        self.state.wake_acceptor();
        Ok(added)
    }

    /// In a forked child, which is to hold the socket of no listener but the one that its request
    /// needs: calls `release` with the descriptors, which stay open. From then on it has no listeners.
    pub(super) fn release_inherited(
        &self,
        kept: Option<ListenerId>,
        mut release: impl FnMut(BorrowedFd<'_>),
    ) {
        release(self.state.acceptor_waker().as_fd());
        self.ready.get().inspect(|ready| ready.release(&mut release));
        // Another thread, if the program has promised that it does no harm, may have held the lock at
        // the fork.
        let Some(mut accepting) = self.accepting.try_lock() else {
            log::warn!("a child keeps the listeners of its parent: a thread was using them");
            return;
        };
        accepting.sources.is_closed = true;
        accepting.sources.others(kept).for_each(|source| release(source.as_fd()));
    }

    /// In a forked child that accepts beside its parent: it has the same listeners, and waits for them
    /// by itself.
    pub(super) fn become_child(&self) -> io::Result<()> {
        self.idle.become_child();
        // As above, a thread may have held the lock.
        let Some(mut accepting) = self.accepting.try_lock() else {
            return Err(io::Error::other("a thread of the parent was using the listeners"));
        };
        accepting.sources.become_child(&self.ready)
    }

    /// Takes a request from the backlog of a listener that is being closed, and closes it when there
    /// is none. `WouldBlock`: no listener is being closed now.
    pub(super) fn accept_from_closing(&self) -> Accept {
        self.accept_with(|accepting| {
            loop {
                let Some(index) = accepting.sources.closing() else {
                    self.has_closing.store(false, Ordering::SeqCst);
                    return Accept::WouldBlock;
                };
                if !accepting.sources.is_drained(index) {
                    match self.accept_locked(accepting, index) {
                        Accept::WouldBlock => {}
                        accept => return accept,
                    }
                }
                let closed = accepting.sources.remove(index, &self.ready);
                let info = closed.info.clone();
                // Under the lock: a listener that is not listed any more is closed, and its file removed. A
                // user's transport may panic.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(closed)));
                log::info!("closed the listener {}", info.local_addr);
            }
        })
    }
}

/// Readable when a source has something. It stays the same while listeners come and go.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if let Some(ready) = self.ready.get().and_then(ReadySet::descriptor) {
            return ready;
        }
        let sources = &self.accepting.lock().sources;
        // There may be no descriptor left for it, and epoll(7) refuses a user's transport.
        let ready = sources.ready_set(&self.ready);
        let ready = ready.inspect_err(|error| log::debug!("waiting for one listener: {error}"));
        if let Some(ready) = ready.ok().and_then(ReadySet::descriptor) {
            return ready;
        }
        match sources.first() {
            Some(first) => self.lent.get_or_init(|| first.clone()).as_fd(),
            None => self.state.shutdown_signal(),
        }
    }
}
