//! [`Watchdog`]: warns of handlers that block their worker.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::worker_shared::{RunningFiber, Workers};
use crate::state::ServerHandle;
use crate::sys::thread_state::ThreadState;

/// Samples which fibers run, once per threshold, while the workers have requests.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    next_check: Option<Instant>,
    /// By worker; none for a worker that ran no fiber at the last check.
    samples: HashMap<usize, Sample>,
}

#[derive(Debug)]
struct Sample {
    running: RunningFiber,
    first_seen: Instant,
    warned: bool,
}

impl Watchdog {
    /// The time of the next check; `None` while the workers have no requests. The first request
    /// then wakes the watchdog.
    pub(super) fn next_check(&mut self, workers: &Workers, threshold: Duration) -> Option<Instant> {
        if self.next_check.is_none() {
            // Set the flag before reading the counts; the other order loses a wake-up.
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
        for (index, worker) in workers.all.iter().enumerate() {
            let Some(running) = worker.running_fiber() else {
                self.samples.remove(&index);
                continue;
            };
            let new_sample = || Sample { running, first_seen: now, warned: false };
            let sample = self.samples.entry(index).or_insert_with(new_sample);
            if sample.running != running {
                *sample = new_sample();
            }
            let time = now - sample.first_seen;
            if time >= threshold && !std::mem::replace(&mut sample.warned, true) {
                let state = worker.thread().and_then(ThreadState::of);
                warn(running.request, time, state, server);
            }
        }
        self.next_check = if workers.is_busy() { now.checked_add(threshold) } else { None };
    }
}

fn warn(request: u64, time: Duration, state: Option<ThreadState>, server: &ServerHandle) {
    let connections = server.connections();
    let peer = connections.iter().find(|connection| u64::from(connection.id) == request);
    let Some(peer) = peer.map(|connection| &connection.peer) else { return };
    let state = state.map(|state| format!(", and {state}")).unwrap_or_default();
    log::warn!(
        "the handler of {request} from {peer} has blocked its worker for {:.1} s{state}; use \
         Fibers::offload for what blocks or computes",
        time.as_secs_f64()
    );
}
