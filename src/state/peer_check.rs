//! Whether a peer may connect: the access list, and the limits per peer.

use super::events::Refusal;
use super::{PeerKey, ServerState};
use crate::address::Address;
use crate::net::SharedStream;

/// The user at the other end of a Unix stream socket, which the access list and the limits go by.
pub(crate) fn peer_uid(peer: &Address, stream: Option<&SharedStream>) -> Option<u32> {
    match (peer.ip(), stream) {
        (None, Some(stream)) => {
            stream.inner().peer_credentials().unwrap_or(None).map(|peer| peer.uid)
        }
        _ => None,
    }
}

impl ServerState {
    /// Checks a peer with this address or this user. `take_place` says whether a peer of this key, if it
    /// has one, may have one more connection within a limit, if there is one. Returns the key, if it is
    /// to be counted.
    pub(crate) fn check_peer(
        &self,
        peer: &Address,
        uid: Option<u32>,
        take_place: impl FnOnce(Option<PeerKey>, Option<usize>) -> bool,
    ) -> Result<Option<PeerKey>, Refusal> {
        let limits = &self.limits;
        // Without peer rules no lock is taken.
        let checks_peers = limits.checks_peers();
        if checks_peers && !limits.permits(peer.ip(), uid) {
            return Err(Refusal::Access);
        }
        let peer_key = PeerKey::of(peer.socket_addr(), uid).filter(|_| checks_peers);
        let max = peer_key.and_then(|_| limits.max_per_peer());
        if !take_place(peer_key, max) {
            return Err(Refusal::PeerLimit);
        }
        if peer_key.is_some_and(|peer_key| limits.exceeds_rate(peer_key)) {
            return Err(Refusal::Rate);
        }
        Ok(peer_key)
    }
}
