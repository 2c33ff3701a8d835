//! What a client must do before its handler is called: on the request's own thread, process or fiber,
//! because it may take the client some time.

use std::sync::Arc;
use std::time::Instant;

use super::lifecycle::{self, catch_panic};
use crate::close_reason::CloseReason;
use crate::connection::Connection;
#[cfg(feature = "tls")]
use crate::error::Error;
use crate::handler::StreamRequestHandler;
use crate::net::SharedStream;
use crate::state::events::{EventKind, Handshaken, Refusal};
use crate::state::{PeerKey, ServerState, peer_uid};
#[cfg(feature = "tls")]
use crate::tls;

/// The steps of one connection, which come in this order. At its end, the client's address is known, and
/// what admission could not check without it is checked.
pub(super) struct Opening {
    expects_proxy_header: bool,
    #[cfg(feature = "tls")]
    expects_handshake: bool,
}

impl Opening {
    /// `None` for a connection whose client need do nothing.
    pub(super) fn of(stream: &SharedStream, state: &ServerState) -> Option<Opening> {
        let proxies = state.settings.proxy_protocol.as_ref();
        let expects_proxy_header = proxies.is_some_and(|proxies| {
            proxies.trusts(stream.peer().ip(), peer_uid(stream.peer(), Some(stream)))
        });
        let opening = Opening {
            expects_proxy_header,
            #[cfg(feature = "tls")]
            expects_handshake: tls::of(stream).is_some(),
        };
        opening.is_needed().then_some(opening)
    }

    #[cfg(feature = "tls")]
    fn is_needed(&self) -> bool {
        self.expects_proxy_header || self.expects_handshake
    }

    #[cfg(not(feature = "tls"))]
    fn is_needed(&self) -> bool {
        self.expects_proxy_header
    }

    /// Whether the peer is not the client, whose address is still to come.
    pub(super) fn changes_peer(&self) -> bool {
        self.expects_proxy_header
    }

    /// # Errors
    /// The reason for which the connection is closed. It has been counted.
    // Not inlined: its frame need not be on the stack while the handler runs.
    #[inline(never)]
    pub(super) fn run(
        &self,
        connection: &mut Connection,
        handler: &dyn StreamRequestHandler,
    ) -> Result<(), CloseReason> {
        let begun = Instant::now();
        let Err(Failure { reason, refusal, is_explained }) = self.open(connection, handler) else {
            tell_handshaken(connection, begun);
            return Ok(());
        };
        let state = connection.server().state();
        // Before the refusal and the close, which the client can see.
        state.stats().ended_for(reason).add_one();
        log::debug!("{}: {reason}, before its handler was called", connection.peer_addr());
        let refuses = || state.send_refusal(Some(connection.shared_stream()));
        if is_explained || reason == CloseReason::Limit && refuses() {
            // Not left to the acceptor, which may be in another process.
            let _ = connection.linger();
        }
        if let Some(refusal) = refusal {
            let (id, peer) = (Some(connection.id()), connection.peer_addr());
            state.tell_refused(id, peer, connection.listener(), refusal);
        }
        Err(reason)
    }

    fn open(
        &self,
        connection: &mut Connection,
        handler: &dyn StreamRequestHandler,
    ) -> Result<(), Failure> {
        let state = connection.server().state().clone();
        if let (true, Some(proxies)) = (self.expects_proxy_header, &state.settings.proxy_protocol) {
            connection.receive_proxy_header(proxies.header_timeout())?;
            admit_client(connection, &state)?;
        }
        #[cfg(feature = "tls")]
        if self.expects_handshake {
            handshake(connection)?;
        }
        match verify(connection, handler) {
            true => Ok(()),
            false => {
                // Nothing is lost if there is no room to say so.
                let _ = connection.shared_stream().inner().end_output();
                Err(Refusal::Unverified.into())
            }
        }
    }
}

/// Why a connection is closed before its handler was called.
struct Failure {
    reason: CloseReason,
    /// `None` if its client, or a stop, has closed it.
    refusal: Option<Refusal>,
    /// The client is being told why, and may be sending still, so that a close could destroy what it is
    /// told.
    is_explained: bool,
}

impl From<CloseReason> for Failure {
    fn from(reason: CloseReason) -> Failure {
        Failure { reason, refusal: Refusal::of(reason), is_explained: false }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let reason = match refusal {
            Refusal::Access | Refusal::Unverified => CloseReason::Denied,
            _ => CloseReason::Limit,
        };
        Failure { reason, refusal: Some(refusal), is_explained: false }
    }
}

#[inline(always)]
fn tell_handshaken(connection: &Connection, begun: Instant) {
    let state = connection.server().state();
    if !state.is_observed() {
        return;
    }
    #[cfg(feature = "tls")]
    let tls = connection.tls();
    let handshaken = Handshaken {
        id: connection.id(),
        peer: connection.peer_addr(),
        proxied_by: connection.proxied_by(),
        #[cfg(feature = "tls")]
        tls: tls.as_ref(),
        duration: begun.elapsed(),
    };
    state.tell_event(EventKind::Handshaken, |observer| observer.handshaken(&handshaken));
}

/// Checks the client behind a proxy as the acceptor checks others, and registers it.
fn admit_client(connection: &Connection, state: &Arc<ServerState>) -> Result<(), Refusal> {
    let (client, stream) = (connection.peer_addr(), connection.shared_stream());
    let uid = match connection.proxied_by() {
        // The user at the other end is the proxy's.
        Some(_) => None,
        None => peer_uid(client, Some(stream)),
    };
    let register = |peer_key: Option<PeerKey>, max: Option<usize>| {
        state.registry.set_peer(connection.id(), client.clone(), peer_key, max)
    };
    let admitted = state.check_peer(client, uid, register);
    admitted.map(drop).inspect_err(|why| log::debug!("rejecting {client}: {why}"))
}

/// The handshake of TLS.
#[cfg(feature = "tls")]
fn handshake(connection: &Connection) -> Result<(), Failure> {
    let stream = connection.shared_stream();
    let timeout = connection.server().state().settings.handshake_timeout;
    let Err(error) = tls::handshake(stream, Instant::now() + timeout) else { return Ok(()) };
    log::debug!("{}: the TLS handshake failed: {error}", connection.peer_addr());
    if let Some(Error::Tls { .. }) = Error::of(&error) {
        // An alert says why.
        let failure = Failure::from(CloseReason::HandshakeFailed);
        return Err(Failure { is_explained: true, ..failure });
    }
    let by_server = connection.close_reason_of_server();
    Err(by_server.unwrap_or(CloseReason::HandshakeFailed).into())
}

/// Asks the handler's `verify_request`.
pub(super) fn verify(connection: &Connection, handler: &dyn StreamRequestHandler) -> bool {
    let verify = catch_panic(|| Ok(handler.verify_request(connection)));
    verify.unwrap_or_else(|error| {
        let handle_error = |error: &_| handler.handle_error(connection, error);
        lifecycle::report(handle_error, connection.peer_addr(), &*error);
        false
    })
}
