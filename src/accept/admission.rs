//! Who may come in: capacity, the access list, the limits per peer, and `verify_request`.

use std::sync::Arc;

use crate::config::Overload;
use crate::request::{Request, RequestTask};
use crate::state::events::Refusal;
use crate::state::{PeerKey, ServerState, peer_uid};

/// Whether the acceptor should take another request from its listener now. If not, it is woken when
/// a request has ended.
pub(super) fn has_capacity(state: &ServerState, mixin_limit: usize) -> bool {
    match state.settings.overload {
        Overload::Defer => state.has_capacity(mixin_limit.min(state.limits.max_connections())),
        // A request above `max_connections` is accepted to be refused. Only the mixin's own limit
        // leaves it in the backlog.
        Overload::Refuse(_) => state.has_capacity(mixin_limit),
    }
}

/// Whether a request that is accepted now is above `max_connections`, and refused. If so, the
/// acceptor is woken when a request has ended, and logs that the limit is no longer reached.
pub(super) fn refuses(state: &ServerState) -> bool {
    matches!(state.settings.overload, Overload::Refuse(_))
        && !state.has_capacity(state.limits.max_connections())
}

/// The limit of a server that is full; for its log, which one it is, and what becomes of more requests.
pub(super) fn limit(state: &ServerState, mixin_limit: usize) -> (usize, String) {
    let max_connections = state.limits.max_connections();
    let (limit, setting, more) = match state.settings.overload {
        _ if mixin_limit < max_connections => (mixin_limit, "the mixin's limit", "wait"),
        Overload::Defer => (max_connections, "max_connections", "wait"),
        Overload::Refuse(_) => (max_connections, "max_connections", "are refused"),
    };
    (limit, format!("{limit} requests are being served, which is {setting}; more {more}"))
}

/// Admits a request, or rejects it: then it is returned, to be dropped.
pub(super) fn admit(
    task: Box<dyn RequestTask>,
    state: &Arc<ServerState>,
) -> Result<Request, (Box<dyn RequestTask>, Refusal)> {
    let checked = match state.limits.checks_peers() && task.is_of_peer() {
        true => check_peer(&*task, state),
        false => Ok(None),
    };
    let admitted = checked.and_then(|peer_key| match () {
        // Under `Overload::Defer`, `has_capacity` was true when this one was accepted.
        () if refuses(state) => Err(Refusal::Full),
        () if !task.verify() => Err(Refusal::Unverified),
        () => Ok(peer_key),
    });
    match admitted {
        Ok(peer_key) => Ok(Request::new(task, peer_key, state.clone())),
        Err(why) => {
            log::debug!("rejecting {}: {why}", task.peer());
            match why {
                Refusal::Access | Refusal::Unverified => state.stats().denied.add_one(),
                _ => state.reject(task.shared_stream()),
            }
            Err((task, why))
        }
    }
}

/// Checks what depends on who the peer is. Returns its key, if it has one.
fn check_peer(task: &dyn RequestTask, state: &ServerState) -> Result<Option<PeerKey>, Refusal> {
    let peer = task.peer();
    let uid = peer_uid(peer, task.shared_stream().map(|stream| &**stream));
    let has_place = |peer_key: Option<PeerKey>, max: Option<usize>| {
        let limited = peer_key.zip(max);
        limited.is_none_or(|(peer_key, max)| state.registry.count(peer_key) < max)
    };
    state.check_peer(peer, uid, has_place)
}
