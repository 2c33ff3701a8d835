//! Who notices that a handler keeps its worker to itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::desk::{Team, Turn};
use crate::handle::ServerHandle;

/// Looks now and then whose turn it is, while anybody is served.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    next_look: Option<Instant>,
    /// For each worker, whose turn it was at the last look, since when, and whether that was said.
    seen: HashMap<usize, (Turn, Instant, bool)>,
}

impl Watchdog {
    /// When to look next; `None` while nobody is served: the alarm will be given.
    pub(super) fn next_look(&mut self, team: &Team, longest: Duration) -> Option<Instant> {
        if self.next_look.is_none() {
            // Said first and looked at after, so that nobody begins unheard in between.
            team.alarm.set();
            if team.is_busy() {
                self.next_look = Instant::now().checked_add(longest);
            }
        }
        self.next_look
    }

    pub(super) fn look(&mut self, team: &Team, longest: Duration, server: &ServerHandle) {
        let now = Instant::now();
        if self.next_look.is_none_or(|look| now < look) {
            return;
        }
        for (worker, desk) in team.desks.iter().enumerate() {
            let Some(turn) = desk.turn() else {
                self.seen.remove(&worker);
                continue;
            };
            let seen = self.seen.entry(worker).or_insert((turn, now, false));
            if seen.0 != turn {
                *seen = (turn, now, false);
            }
            let time = now - seen.1;
            if time >= longest && !std::mem::replace(&mut seen.2, true) {
                warn(turn.request, time, server);
            }
        }
        self.next_look = if team.is_busy() { now.checked_add(longest) } else { None };
    }
}

fn warn(request: u64, time: Duration, server: &ServerHandle) {
    let connections = server.connections();
    let peer = connections.iter().find(|connection| connection.id == request);
    let Some(peer) = peer.map(|connection| &connection.peer) else { return };
    log::warn!(
        "the handler of {request} from {peer} has held up its worker for {:.1} s; what computes or \
         blocks is for Fibers::offload",
        time.as_secs_f64()
    );
}
