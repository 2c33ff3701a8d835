//! What a server, its handles and its connections share: settings, counters, who is here, and
//! whether it is time to stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::farewell::Farewells;
use crate::gate::Gate;
use crate::registry::{ConnectionInfo, Registry};
use crate::settings::Settings;
use crate::stats::Counters;
use crate::sys::shared::Shared;
use crate::sys::wait::{Bell, Switch};

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) settings: Settings,
    pub(crate) local_addr: Address,
    pub(crate) gate: Gate,
    pub(crate) registry: Registry,
    pub(crate) farewells: Farewells,
    in_common: Shared<InCommon>,
    next_id: AtomicU64,
    stop: Switch,
    /// Rung when a request has ended and the server was waiting for room.
    bell: Bell,
    wants_room: AtomicBool,
    phase: Mutex<Phase>,
    changed: Condvar,
}

/// What the children of a forking server have in common with it.
#[derive(Debug, Default)]
struct InCommon {
    stats: Counters,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Phase {
    serving: Serving,
    deadline: Option<Deadline>,
    killed: Vec<ConnectionInfo>,
    report: StopReport,
}

/// The timetable of a stop that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// Those who are still here are cut off: early enough for them to notice and be gone in time.
    pub(crate) force: Instant,
    /// Nobody waits for them any longer.
    pub(crate) end: Instant,
    /// Whoever asked for the stop has the report.
    over: Instant,
}

impl Deadline {
    fn after(time: Duration) -> Deadline {
        let now = Instant::now();
        let time = time.min(FOREVER);
        let force = now + time - (time / 5).min(FORCE_MARGIN);
        let over = now + time.max(SHORTEST);
        Deadline { force, end: over - ((over - force) / 4).min(REPORT_MARGIN), over }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Serving {
    #[default]
    NotYet,
    Now,
    Over,
}

/// What a stop did to the connections, or to the children of a forking server, that were there when
/// it began.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StopReport {
    /// So many ended by themselves, having read and answered all that was received.
    pub drained: usize,
    /// So many had to be cut off at the deadline; children get `SIGTERM` as well.
    pub forced: usize,
    /// Of those, the children that did not end even then, and had to be killed by `SIGKILL`.
    pub killed: Vec<ConnectionInfo>,
    /// These had not ended even then: their handlers are busy with something else.
    pub stuck: Vec<ConnectionInfo>,
}

impl StopReport {
    /// Whether every connection ended by itself.
    pub fn is_clean(&self) -> bool {
        self.forced == 0 && self.stuck.is_empty()
    }
}

impl Control {
    pub(crate) fn new(settings: Settings, local_addr: Address) -> io::Result<Control> {
        Ok(Control {
            gate: Gate::new(&settings),
            settings,
            local_addr,
            registry: Registry::default(),
            farewells: Farewells::default(),
            in_common: Shared::new()?,
            next_id: AtomicU64::new(1),
            stop: Switch::new()?,
            bell: Bell::new()?,
            wants_room: AtomicBool::new(false),
            phase: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn stats(&self) -> &Counters {
        &self.in_common.stats
    }

    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    // Room: one thread waits for it, everybody who leaves makes some.

    /// Whether one more may come in. If not, the bell rings when that may have changed.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        if self.registry.len() < limit {
            return true;
        }
        // Said first and looked at again after, so that nobody leaves unheard in between.
        self.wants_room.store(true, Ordering::SeqCst);
        self.registry.len() < limit
    }

    /// Asks for the bell at the next chance.
    pub(crate) fn want_room(&self) {
        self.wants_room.store(true, Ordering::SeqCst);
    }

    /// Whatever room means may have changed.
    pub(crate) fn reconsider(&self) {
        self.bell.ring();
    }

    pub(crate) fn leave(&self, id: u64) {
        // Counted first: the end of the connection is what others can see.
        self.stats().finished.add_one();
        self.registry.leave(id);
        if self.wants_room.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    // Stopping. What may run in a signal handler is `shutdown` alone: it takes no lock.

    pub(crate) fn shutdown(&self) {
        self.in_common.stopping.store(true, Ordering::SeqCst);
        self.stop.throw();
    }

    pub(crate) fn shutdown_pipe(&self) -> io::Result<OwnedFd> {
        self.stop.thrower()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.in_common.stopping.load(Ordering::SeqCst)
    }

    /// Readable once a shutdown was asked for.
    pub(crate) fn stop_signal(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// To be called by whoever notices that a shutdown was asked for; again does no harm.
    pub(crate) fn begin_stop(&self) {
        self.in_common.stopping.store(true, Ordering::SeqCst);
        let deadline = Deadline::after(self.settings.stop_deadline);
        self.phase.lock().deadline.get_or_insert(deadline);
        self.registry.drain();
    }

    /// The stop is to be over in this time; of several such wishes the earliest holds.
    fn limit_deadline(&self, within: Duration) -> Deadline {
        let wish = Deadline::after(within);
        let mut phase = self.phase.lock();
        let deadline = match phase.deadline {
            Some(earlier) if earlier.over <= wish.over => earlier,
            _ => wish,
        };
        phase.deadline = Some(deadline);
        drop(phase);
        self.registry.wake();
        deadline
    }

    pub(crate) fn deadline(&self) -> Deadline {
        let deadline = self.phase.lock().deadline;
        deadline.unwrap_or_else(|| Deadline::after(self.settings.stop_deadline))
    }

    // Serving: once, and whoever stops the server learns how it ended.

    pub(crate) fn begin_serving(&self) -> Result<()> {
        let mut phase = self.phase.lock();
        if self.is_stopping() || phase.serving != Serving::NotYet {
            return Err(Error::ShutDown);
        }
        phase.serving = Serving::Now;
        Ok(())
    }

    pub(crate) fn end_serving(&self) {
        let report = self.report();
        let mut phase = self.phase.lock();
        phase.serving = Serving::Over;
        phase.report = report;
        drop(phase);
        self.changed.notify_all();
    }

    pub(crate) fn report(&self) -> StopReport {
        let (drained, forced) = self.registry.drained_and_forced();
        let killed = self.phase.lock().killed.clone();
        StopReport { drained, forced, killed, stuck: self.registry.snapshot() }
    }

    /// The children that are still there are about to be killed.
    pub(crate) fn note_killed(&self) {
        let killed = self.registry.snapshot();
        self.phase.lock().killed = killed;
    }

    pub(crate) fn stop(&self, within: Duration) -> StopReport {
        let deadline = self.limit_deadline(within);
        self.shutdown();
        let mut phase = self.phase.lock();
        while phase.serving == Serving::Now {
            if self.changed.wait_until(&mut phase, deadline.over).timed_out() {
                drop(phase);
                return self.report();
            }
        }
        phase.report.clone()
    }
}

/// The longest stop deadline: about thirty years, and no overflow of the clock.
const FOREVER: Duration = Duration::from_secs(1_000_000_000);

/// The most that connections that are cut off get to notice it.
const FORCE_MARGIN: Duration = Duration::from_millis(300);

/// The most that the serving thread gets of that, to let go of what is left and to report.
const REPORT_MARGIN: Duration = Duration::from_millis(50);

/// The shortest stop: what both of them need where no time was given.
const SHORTEST: Duration = Duration::from_millis(100);
