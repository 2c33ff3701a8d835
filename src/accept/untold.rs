//! [`Untold`]: what the observers are told once the lock of the listeners is released.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::listener::{Accept, AcceptState, Listener};
use crate::address::Address;
use crate::request::RequestTask;
use crate::state::events::{EventKind, Pressure, Refusal};
use crate::state::{ListenerInfo, ServerState};

pub(super) enum Untold {
    Refused { peer: Address, listener: Arc<ListenerInfo>, reason: Refusal },
    AtLimit { limit: usize },
    BelowLimit { after: Duration },
    AcceptFails { error: io::Error },
    AcceptWorks { after: Duration },
}

impl Untold {
    pub(super) fn refused(task: &dyn RequestTask, reason: Refusal) -> Untold {
        Untold::Refused { peer: task.peer().clone(), listener: task.listener().clone(), reason }
    }

    pub(super) fn accept_fails(error: &io::Error) -> Untold {
        let error = match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        Untold::AcceptFails { error }
    }

    fn tell(&self, state: &ServerState) {
        let pressure = match self {
            Untold::Refused { peer, listener, reason } => {
                return state.tell_refused(None, peer, listener, *reason);
            }
            Untold::AtLimit { limit } => Pressure::AtLimit { limit: *limit },
            Untold::BelowLimit { after } => Pressure::BelowLimit { after: *after },
            Untold::AcceptFails { error } => Pressure::AcceptFails { error },
            Untold::AcceptWorks { after } => Pressure::AcceptWorks { after: *after },
        };
        state.tell_event(EventKind::Pressure, |observer| observer.pressure(&pressure));
    }
}

impl AcceptState {
    /// Notes what is to be told, if there is an observer.
    pub(super) fn note(&mut self, state: &ServerState, untold: impl FnOnce() -> Untold) {
        if state.is_observed() {
            self.untold.push(untold());
        }
    }
}

impl Listener {
    /// Calls `call` under the lock of the listeners, and tells the observers what it has noted.
    #[inline(always)]
    pub(super) fn accepting<R>(&self, call: impl FnOnce(&mut AcceptState) -> R) -> R {
        let mut accepting = self.accepting.lock();
        let result = call(&mut accepting);
        if !accepting.untold.is_empty() {
            let untold = std::mem::take(&mut accepting.untold);
            drop(accepting);
            untold.iter().for_each(|untold| untold.tell(&self.state));
        }
        result
    }

    /// The same for an accept, of which they are told too.
    #[inline(always)]
    pub(super) fn accept_with(&self, call: impl FnOnce(&mut AcceptState) -> Accept) -> Accept {
        let accept = self.accepting(call);
        if let Accept::Request(request) = &accept {
            request.tell_accepted();
        }
        accept
    }
}
