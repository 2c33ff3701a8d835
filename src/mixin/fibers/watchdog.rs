//! Who notices that a handler keeps its worker to itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::worker_shared::{RunningFiber, Workers};
use crate::state::ServerHandle;

/// Looks now and then whose turn it is, while anybody is served.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    next_check: Option<Instant>,
    /// For each worker, whose turn it was at the last look, since when, and whether that was said.
    seen: HashMap<usize, (RunningFiber, Instant, bool)>,
}

impl Watchdog {
    /// When to look next; `None` while nobody is served: the alarm will be given.
    pub(super) fn next_check(&mut self, workers: &Workers, threshold: Duration) -> Option<Instant> {
        if self.next_check.is_none() {
            // Said first and looked at after, so that nobody begins unheard in between.
            workers.watchdog.arm();
            if workers.is_busy() {
                self.next_check = Instant::now().checked_add(threshold);
            }
        }
        self.next_check
    }

    pub(super) fn check(&mut self, workers: &Workers, threshold: Duration, server: &ServerHandle) {
        let now = Instant::now();
        if self.next_check.is_none_or(|check| now < check) {
            return;
        }
        for (number, worker) in workers.all.iter().enumerate() {
            let Some(running) = worker.running_fiber() else {
                self.seen.remove(&number);
                continue;
            };
            let seen = self.seen.entry(number).or_insert((running, now, false));
            if seen.0 != running {
                *seen = (running, now, false);
            }
            let time = now - seen.1;
            if time >= threshold && !std::mem::replace(&mut seen.2, true) {
                warn(running.request, time, server);
            }
        }
        self.next_check = if workers.is_busy() { now.checked_add(threshold) } else { None };
    }
}

fn warn(request: u64, time: Duration, server: &ServerHandle) {
    let connections = server.connections();
    let peer = connections.iter().find(|connection| u64::from(connection.id) == request);
    let Some(peer) = peer.map(|connection| &connection.peer) else { return };
    log::warn!(
        "the handler of {request} from {peer} has held up its worker for {:.1} s; what computes or \
         blocks is for Fibers::offload",
        time.as_secs_f64()
    );
}
