//! [`ChildReports`]: what the children of a forking server leave behind of their requests, for the
//! observers of their parent.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::stats::CLOSE_REASONS;
use crate::close_reason::CloseReason;
use crate::id::ConnectionId;
use crate::net::Traffic;
use crate::sys::shared::Shared;

/// More children than this at a time leave nothing behind.
const MAX_REPORTS: usize = 16_384;

/// How a request has ended in a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChildReport {
    pub(crate) reason: CloseReason,
    pub(crate) traffic: Traffic,
    pub(crate) longest_wait: Duration,
}

/// A place for each child.
#[derive(Debug)]
pub(super) struct ChildReports(Shared<[Place]>);

#[derive(Debug, Default)]
struct Place {
    /// The number of the request; zero if the place is free.
    id: AtomicU64,
    /// The index of its [close reason](CLOSE_REASONS), plus one; zero until the child has reported.
    reason: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// In milliseconds.
    longest_wait: AtomicU64,
}

impl ChildReports {
    /// For so many children at a time.
    pub(super) fn new(children: usize) -> io::Result<ChildReports> {
        Shared::slice(children.min(MAX_REPORTS)).map(ChildReports)
    }

    /// In the parent, before it forks.
    pub(super) fn begin(&self, id: ConnectionId) {
        if let Some(place) = self.find(id, 0) {
            place.reason.store(0, Ordering::Relaxed);
            place.id.store(id.into(), Ordering::Relaxed);
        }
    }

    /// In the child, at its end.
    pub(super) fn report(&self, id: ConnectionId, report: ChildReport) {
        let Some(place) = self.find(id, id.into()) else { return };
        let index = CLOSE_REASONS.iter().position(|reason| *reason == report.reason);
        place.received.store(report.traffic.received, Ordering::Relaxed);
        place.sent.store(report.traffic.sent, Ordering::Relaxed);
        place.longest_wait.store(report.longest_wait.as_millis() as u64, Ordering::Relaxed);
        // Last: a child that is killed before it has reported nothing.
        place.reason.store(index.map_or(0, |index| 1 + index as u64), Ordering::Release);
    }

    /// In the parent, once the child has exited. `None` if it has not reported. Frees its place.
    pub(super) fn take(&self, id: ConnectionId) -> Option<ChildReport> {
        let place = self.find(id, id.into())?;
        let index = place.reason.load(Ordering::Acquire).checked_sub(1);
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let traffic = Traffic { received: load(&place.received), sent: load(&place.sent) };
        let longest_wait = Duration::from_millis(load(&place.longest_wait));
        place.id.store(0, Ordering::Relaxed);
        let reason = *CLOSE_REASONS.get(index? as usize)?;
        Some(ChildReport { reason, traffic, longest_wait })
    }

    /// The first place that is for request `wanted`, or free if that is zero. The search begins where
    /// that of this request mostly ends.
    fn find(&self, id: ConnectionId, wanted: u64) -> Option<&Place> {
        let (places, start) = (&self.0, u64::from(id) as usize % self.0.len());
        let (before, from) = places.split_at(start);
        from.iter().chain(before).find(|place| place.id.load(Ordering::Relaxed) == wanted)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_that_of_its_request_and_is_taken_once() {
        let reports = ChildReports::new(2).unwrap();
        let report = |reason, received| ChildReport {
            reason,
            traffic: Traffic { received, sent: 2 },
            longest_wait: Duration::from_millis(3),
        };
        // The first and the third want the same place.
        for id in [1, 3] {
            reports.begin(id.into());
        }
        reports.report(3.into(), report(CloseReason::Panicked, 30));
        reports.report(1.into(), report(CloseReason::Completed, 10));
        let taken = reports.take(3.into()).unwrap();
        assert_eq!((taken.reason, taken.traffic.received), (CloseReason::Panicked, 30));
        assert!(reports.take(3.into()).is_none(), "taken twice");
        reports.begin(5.into());
        assert!(reports.take(5.into()).is_none(), "a child that was killed has left nothing");
        assert_eq!(reports.take(1.into()).unwrap().reason, CloseReason::Completed);
        reports.report(7.into(), report(CloseReason::Eof, 0));
        assert!(reports.take(7.into()).is_none(), "it has no place");
    }
}
