//! The settings of a [`Builder`] that concern a restart.

use std::path::PathBuf;
use std::time::Duration;

use super::{Builder, not_zero};
use crate::address::Endpoint;
use crate::error::{Error, Result};
use crate::hand_over::{Received, TakenOver, receive_from};
use crate::mixin::Mixin;
use crate::request::IntoHandler;
use crate::server::Server;
use crate::transport::{InheritedSocket, Transport};

/// Where listeners are taken over, and how the first of them becomes the server's transport.
pub(super) struct TakeOver<T> {
    path: PathBuf,
    adopt: fn(InheritedSocket) -> Result<T>,
}

impl<T, M> Builder<T, M>
where
    T: Transport + TryFrom<InheritedSocket, Error = Error>,
    M: Mixin,
{
    /// Takes the listeners over from the server that [hands them
    /// over](crate::ServerHandle::hand_over) at this path, if there is one, and has it stop once this
    /// one serves: a restart that loses no client. If there is no such server, this one binds its
    /// addresses, as it does by default.
    ///
    /// All listeners are taken over, or none, as they are: with the options that the other process has
    /// set, also those that were [added](crate::ServerHandle::listen) to it, and in its order. An
    /// address of this server's that one of them was bound for, port 0 included, is not bound anew; any
    /// other one is. If that fails, if this server does not
    /// [serve](crate::Server::serve_forever) within the [`hand_over_timeout`](Builder::hand_over_timeout),
    /// or is dropped before, the old server goes on as if nothing had happened.
    ///
    /// The server at the path must be of the same user, or of root. If it dies after it has sent the
    /// listeners, this server keeps them.
    ///
    /// # Errors
    /// [`Error::HandOver`]: [`bind`](Builder::bind) fails if the other server does not pass its listeners
    /// on, or if they are of the other kind, streams or datagrams; serving fails if the other server
    /// goes on.
    pub fn take_over(mut self, path: impl Into<PathBuf>) -> Self {
        self.take_over = Some(TakeOver { path: path.into(), adopt: |socket| socket.try_into() });
        self
    }
}

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// A server on the listeners of its predecessor, and on those of [`also`](Builder::also) that it does
    /// not have: for a program that was itself started with its sockets, and binds to no address. It
    /// ends a [`take_over`](Builder::take_over) in place of [`bind`](Builder::bind).
    ///
    /// # Errors
    /// Those of `bind`; [`Error::HandOver`] also if there is no server to take over from.
    pub fn from_predecessor<H>(mut self, handler: H) -> Result<Server<T, M>>
    where
        H: IntoHandler<T::Handler>,
    {
        let sockets = self.receive()?;
        let absent = || Error::HandOver { reason: "there is no predecessor".to_owned() };
        self.with_sockets(sockets.ok_or_else(absent)?, handler)
    }

    /// How long a server that [hands over](crate::ServerHandle::hand_over) waits for its successor to
    /// serve, and one that [takes over](Builder::take_over) for the listeners; 30 s by default.
    pub fn hand_over_timeout(mut self, timeout: Duration) -> Self {
        self.settings.hand_over_timeout = not_zero(timeout);
        self
    }

    /// The sockets of the predecessor, if there is one.
    pub(super) fn receive(&mut self) -> Result<Option<Sockets<T>>> {
        let Some(TakeOver { path, adopt }) = self.take_over.take() else { return Ok(None) };
        let received = receive_from(&path, self.settings.hand_over_timeout)?;
        let Some((mut others, mut taken_over)) = received else { return Ok(None) };
        for index in 0..others.len() {
            // The first one is over TLS if the server is.
            if others[index].is_plain {
                continue;
            }
            let copy = others[index].socket.try_clone();
            let copy = copy.map_err(Error::system("duplicate a listener"))?;
            if let Ok(first) = adopt(copy) {
                let endpoint = others.remove(index).endpoint;
                let inherited = Some(Inherited { others, taken_over });
                return Ok(Some(Sockets { first, endpoint, others: Vec::new(), inherited }));
            }
        }
        let reason = "its listeners are of another kind".to_owned();
        taken_over.fail(&reason);
        Err(Error::HandOver { reason })
    }
}

/// What a server is made with.
pub(super) struct Sockets<T> {
    pub(super) first: T,
    /// What the first and the others were bound for, if not elsewhere.
    pub(super) endpoint: Option<Endpoint>,
    pub(super) others: Vec<T>,
    pub(super) inherited: Option<Inherited>,
}

impl<T> Sockets<T> {
    /// One that was bound elsewhere.
    pub(super) fn one(first: T) -> Sockets<T> {
        Sockets { first, endpoint: None, others: Vec::new(), inherited: None }
    }
}

/// The other listeners of a predecessor.
pub(super) struct Inherited {
    pub(super) others: Vec<Received>,
    pub(super) taken_over: TakenOver,
}
