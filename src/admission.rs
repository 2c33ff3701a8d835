//! Who may come in: the access list, the limits, and the handler's own word.

use std::sync::Arc;

use crate::control::Control;
use crate::gate::Origin;
use crate::request::{self, Request};
use crate::run::Work;
use crate::settings::Overload;

/// Whether the server should take another request from its listener now.
pub(crate) fn has_room(control: &Control, mixin_limit: usize) -> bool {
    match control.settings.overload {
        Overload::Defer => control.has_room(mixin_limit.min(control.gate.max_connections())),
        // Taken to be turned away; only what the mixin cannot run stays outside.
        Overload::Refuse(_) => control.has_room(mixin_limit),
    }
}

/// Lets a request in, or turns it away.
pub(crate) fn admit(work: Box<dyn Work>, control: &Arc<Control>) -> Option<Request> {
    let origin = match control.gate.asks() {
        true => match who(&*work, control) {
            Ok(origin) => origin,
            Err(TurnedAway) => return None,
        },
        false => None,
    };
    // Where the others are left in the backlog, there was room when this one was taken.
    let refuses = matches!(control.settings.overload, Overload::Refuse(_));
    if refuses && control.registry.len() >= control.gate.max_connections() {
        return refuse(&*work, control, "the server is full");
    }
    if !work.verify() {
        log::debug!("verify_request denies {}", work.peer());
        control.stats().denied.add_one();
        return None;
    }
    Some(Request::new(work, origin, control.clone()))
}

struct TurnedAway;

/// What is asked of a peer by who it is.
fn who(work: &dyn Work, control: &Control) -> Result<Option<Origin>, TurnedAway> {
    let gate = &control.gate;
    let ip = work.peer().ip();
    let uid = match (ip, work.link()) {
        (None, Some(link)) => link.stream().peer_uid().unwrap_or(None),
        _ => None,
    };
    if !gate.permits(ip, uid) {
        log::debug!("the access list denies {}", work.peer());
        control.stats().denied.add_one();
        return Err(TurnedAway);
    }
    let Some(origin) = Origin::of(ip, uid) else { return Ok(None) };
    if gate.max_per_peer().is_some_and(|most| control.registry.count(origin) >= most) {
        refuse(work, control, "its peer has as many connections as it may");
        return Err(TurnedAway);
    }
    if gate.is_too_frequent(origin) {
        refuse(work, control, "its peer connects too often");
        return Err(TurnedAway);
    }
    Ok(Some(origin))
}

fn refuse(work: &dyn Work, control: &Control, why: &str) -> Option<Request> {
    log::debug!("turning {} away: {why}", work.peer());
    control.stats().refused.add_one();
    if let Some(link) = work.link() {
        request::refuse(link, control);
    }
    None
}
