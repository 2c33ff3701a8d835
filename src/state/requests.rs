//! What the observers are told of requests.

use std::thread;
use std::time::Instant;

use super::child_reports::ChildReport;
use super::events::{Accepted, Closed, EventKind, Refusal, Refused};
use super::registry::Removed;
use super::{End, ListenerInfo, ServerState};
use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::id::ConnectionId;
use crate::net::Traffic;

impl ServerState {
    pub(crate) fn tell_accepted(&self, id: ConnectionId, peer: &Address, listener: &ListenerInfo) {
        let accepted = Accepted { id, peer, listener };
        self.tell_event(EventKind::Accepted, |observer| observer.accepted(&accepted));
    }

    /// `id` is `None` for a request that was not admitted.
    pub(crate) fn tell_refused(
        &self,
        id: Option<ConnectionId>,
        peer: &Address,
        listener: &ListenerInfo,
        reason: Refusal,
    ) {
        let refused = Refused { id, peer, listener, reason };
        self.tell_event(EventKind::Refused, |observer| observer.refused(&refused));
    }

    pub(super) fn tell_closed(
        &self,
        id: ConnectionId,
        end: End,
        listener: &ListenerInfo,
        removed: &Removed,
    ) {
        let Removed { peer, begun, longest_wait } = removed;
        let of_child = self.child_reports.as_ref().and_then(|reports| reports.take(id));
        let here = |reason, traffic: Traffic| ChildReport {
            reason,
            traffic: begun.traffic.unwrap_or(traffic),
            longest_wait: *longest_wait,
        };
        let (at, report) = match end {
            End::Ended(ended) => (ended.at, here(ended.reason, ended.traffic)),
            End::InChild => {
                let failed = || here(CloseReason::Failed, Traffic::default());
                (Instant::now(), of_child.unwrap_or_else(failed))
            }
            // The panic is that of a destructor.
            End::NotRun if thread::panicking() => {
                (Instant::now(), here(CloseReason::Panicked, Traffic::default()))
            }
            End::NotRun => (Instant::now(), here(CloseReason::Stopped, Traffic::default())),
        };
        let closed = Closed {
            id,
            peer,
            listener,
            reason: report.reason,
            duration: at.saturating_duration_since(begun.at),
            received: report.traffic.received,
            sent: report.traffic.sent,
            longest_wait: report.longest_wait,
        };
        self.tell_event(EventKind::Closed, |observer| observer.closed(&closed));
    }

    /// In the parent, before a child is forked for this request.
    pub(crate) fn begin_in_child(&self, id: ConnectionId) {
        if let Some(reports) = &self.child_reports {
            reports.begin(id);
        }
    }
}
