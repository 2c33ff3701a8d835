//! Who may come in: the limits, and the handler's own word.

use std::sync::Arc;

use crate::control::Control;
use crate::request::{self, Request};
use crate::run::Work;
use crate::settings::Overload;

/// Whether the server should take another request from its listener now.
pub(crate) fn has_room(control: &Control, mixin_limit: usize) -> bool {
    let settings = &control.settings;
    match settings.overload {
        Overload::Defer => control.has_room(mixin_limit.min(settings.max_connections)),
        // Taken to be turned away; only what the mixin cannot run stays outside.
        Overload::Refuse(_) => control.has_room(mixin_limit),
    }
}

/// Lets a request in, or turns it away.
pub(crate) fn admit(work: Box<dyn Work>, control: &Arc<Control>) -> Option<Request> {
    let settings = &control.settings;
    if control.registry.len() >= settings.max_connections {
        log::debug!("full: turning {} away", work.peer());
        control.stats.refused.add_one();
        if let Some(link) = work.link() {
            request::refuse(link, &settings.overload);
        }
        return None;
    }
    if !work.verify() {
        log::debug!("verify_request denies {}", work.peer());
        control.stats.denied.add_one();
        return None;
    }
    Some(Request::new(work, control.clone()))
}
