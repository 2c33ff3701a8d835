//! Who may come in: the access list, the limits, and the handler's own word.

use std::sync::Arc;

use crate::config::Overload;
use crate::request::lifecycle::RequestTask;
use crate::request::{self, Request};
use crate::state::PeerKey;
use crate::state::ServerState;

/// Whether the server should take another request from its listener now.
pub(crate) fn has_capacity(state: &ServerState, mixin_limit: usize) -> bool {
    match state.settings.overload {
        Overload::Defer => state.has_capacity(mixin_limit.min(state.limits.max_connections())),
        // Taken to be turned away; only what the mixin cannot run stays outside.
        Overload::Refuse(_) => state.has_capacity(mixin_limit),
    }
}

/// Lets a request in, or turns it away.
pub(crate) fn admit(task: Box<dyn RequestTask>, state: &Arc<ServerState>) -> Option<Request> {
    let peer_key = match state.limits.checks_peers() {
        true => match check_peer(&*task, state) {
            Ok(peer_key) => peer_key,
            Err(Rejected) => return None,
        },
        false => None,
    };
    // Where the others are left in the backlog, there was room when this one was taken.
    let refuses = matches!(state.settings.overload, Overload::Refuse(_));
    if refuses && state.registry.len() >= state.limits.max_connections() {
        return reject(&*task, state, "the server is full");
    }
    if !task.verify() {
        log::debug!("verify_request denies {}", task.peer());
        state.stats().denied.add_one();
        return None;
    }
    Some(Request::new(task, peer_key, state.clone()))
}

struct Rejected;

/// What is asked of a peer by who it is.
fn check_peer(task: &dyn RequestTask, state: &ServerState) -> Result<Option<PeerKey>, Rejected> {
    let limits = &state.limits;
    let ip = task.peer().ip();
    let uid = match (ip, task.shared_stream()) {
        (None, Some(stream)) => stream.inner().peer_uid().unwrap_or(None),
        _ => None,
    };
    if !limits.permits(ip, uid) {
        log::debug!("the access list denies {}", task.peer());
        state.stats().denied.add_one();
        return Err(Rejected);
    }
    let Some(peer_key) = PeerKey::of(ip, uid) else { return Ok(None) };
    if limits.max_per_peer().is_some_and(|most| state.registry.count(peer_key) >= most) {
        reject(task, state, "its peer has as many connections as it may");
        return Err(Rejected);
    }
    if limits.exceeds_rate(peer_key) {
        reject(task, state, "its peer connects too often");
        return Err(Rejected);
    }
    Ok(Some(peer_key))
}

fn reject(task: &dyn RequestTask, state: &ServerState, why: &str) -> Option<Request> {
    log::debug!("turning {} away: {why}", task.peer());
    state.stats().refused.add_one();
    if let Some(stream) = task.shared_stream() {
        request::send_refusal(stream, state);
    }
    None
}
