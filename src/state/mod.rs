//! What a server, its handles and its connections share: settings, counters, who is here, and
//! whether it is time to stop.

mod handle;
mod limits;
mod registry;
mod rejected;
mod stats;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::address::Address;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::id::ConnectionId;
use crate::sync::SleepFlag;
use crate::sys::shared::Shared;
use crate::sys::waker::{ShutdownSignal, Waker};
pub(crate) use registry::Registry;
use rejected::LingeringRejects;
use stats::Counters;

pub use handle::{RunningServer, ServerHandle};
pub(crate) use limits::{Limits, PeerKey};
pub use registry::ConnectionInfo;
pub use stats::Stats;

#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) settings: Settings,
    pub(crate) local_addr: Address,
    pub(crate) limits: Limits,
    pub(crate) registry: Registry,
    pub(crate) rejected: LingeringRejects,
    shared_with_children: Shared<SharedWithChildren>,
    next_id: AtomicU64,
    shutdown_signal: ShutdownSignal,
    /// Rung when a request has ended and the server was waiting for room.
    waker: Waker,
    release_wanted: SleepFlag,
    lifecycle: Mutex<Lifecycle>,
    stopped_serving: Condvar,
}

/// What the children of a forking server have in common with it.
#[derive(Debug, Default)]
struct SharedWithChildren {
    stats: Counters,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Lifecycle {
    serving: Serving,
    schedule: Option<StopSchedule>,
    killed: Vec<ConnectionInfo>,
    report: StopReport,
}

/// The timetable of a stop that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSchedule {
    /// Those who are still here are cut off: early enough for them to notice and be gone in time.
    pub(crate) force: Instant,
    /// Nobody waits for them any longer.
    pub(crate) end: Instant,
    /// Whoever asked for the stop has the report.
    over: Instant,
}

impl StopSchedule {
    fn after(time: Duration) -> StopSchedule {
        let now = Instant::now();
        let time = time.min(MAX_STOP_TIMEOUT);
        let force = now + time - (time / 5).min(FORCE_MARGIN);
        let over = now + time.max(MIN_STOP_TIME);
        StopSchedule { force, end: over - ((over - force) / 4).min(REPORT_MARGIN), over }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Serving {
    #[default]
    NotStarted,
    Active,
    Stopped,
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

impl ServerState {
    pub(crate) fn new(settings: Settings, local_addr: Address) -> io::Result<ServerState> {
        Ok(ServerState {
            limits: Limits::new(&settings),
            settings,
            local_addr,
            registry: Registry::default(),
            rejected: LingeringRejects::default(),
            shared_with_children: Shared::new()?,
            next_id: AtomicU64::new(1),
            shutdown_signal: ShutdownSignal::new()?,
            waker: Waker::new()?,
            release_wanted: SleepFlag::default(),
            lifecycle: Mutex::default(),
            stopped_serving: Condvar::new(),
        })
    }

    pub(crate) fn stats(&self) -> &Counters {
        &self.shared_with_children.stats
    }

    pub(crate) fn new_id(&self) -> ConnectionId {
        self.next_id.fetch_add(1, Ordering::Relaxed).into()
    }

    // Room: one thread waits for it, everybody who leaves makes some.

    /// Whether one more may come in. If not, the bell rings when that may have changed.
    pub(crate) fn has_capacity(&self, limit: usize) -> bool {
        if self.registry.len() < limit {
            return true;
        }
        self.release_wanted.arm();
        self.registry.len() < limit
    }

    /// Asks for the bell at the next chance.
    pub(crate) fn notify_on_release(&self) {
        self.release_wanted.arm();
    }

    /// Whatever room means may have changed.
    pub(crate) fn wake_acceptor(&self) {
        self.waker.wake();
    }

    pub(crate) fn release(&self, id: ConnectionId) {
        // Counted first: the end of the connection is what others can see.
        self.stats().finished.add_one();
        self.registry.remove(id);
        if self.release_wanted.take() {
            self.waker.wake();
        }
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    // Stopping. What may run in a signal handler is `shutdown` alone: it takes no lock.

    pub(crate) fn shutdown(&self) {
        self.shared_with_children.stopping.store(true, Ordering::SeqCst);
        self.shutdown_signal.trigger();
    }

    pub(crate) fn shutdown_pipe(&self) -> io::Result<OwnedFd> {
        self.shutdown_signal.try_clone_writer()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shared_with_children.stopping.load(Ordering::SeqCst)
    }

    /// Readable once a shutdown was asked for.
    pub(crate) fn shutdown_signal(&self) -> BorrowedFd<'_> {
        self.shutdown_signal.as_fd()
    }

    /// To be called by whoever notices that a shutdown was asked for; again does no harm.
    pub(crate) fn begin_stop(&self) {
        self.shared_with_children.stopping.store(true, Ordering::SeqCst);
        let deadline = StopSchedule::after(self.settings.stop_timeout);
        self.lifecycle.lock().schedule.get_or_insert(deadline);
        self.registry.drain();
    }

    /// The stop is to be over in this time; of several such wishes the earliest holds.
    fn bring_forward(&self, within: Duration) -> StopSchedule {
        let wish = StopSchedule::after(within);
        let mut lifecycle = self.lifecycle.lock();
        let deadline = match lifecycle.schedule {
            Some(earlier) if earlier.over <= wish.over => earlier,
            _ => wish,
        };
        lifecycle.schedule = Some(deadline);
        drop(lifecycle);
        self.registry.wake();
        deadline
    }

    pub(crate) fn schedule(&self) -> StopSchedule {
        let deadline = self.lifecycle.lock().schedule;
        deadline.unwrap_or_else(|| StopSchedule::after(self.settings.stop_timeout))
    }

    // Serving: once, and whoever stops the server learns how it ended.

    pub(crate) fn begin_serving(&self) -> Result<()> {
        let mut lifecycle = self.lifecycle.lock();
        if self.is_stopping() || lifecycle.serving != Serving::NotStarted {
            return Err(Error::ShutDown);
        }
        lifecycle.serving = Serving::Active;
        Ok(())
    }

    pub(crate) fn end_serving(&self) {
        let report = self.report();
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.serving = Serving::Stopped;
        lifecycle.report = report;
        drop(lifecycle);
        self.stopped_serving.notify_all();
    }

    pub(crate) fn report(&self) -> StopReport {
        let (drained, forced) = self.registry.drained_and_forced();
        let killed = self.lifecycle.lock().killed.clone();
        StopReport { drained, forced, killed, stuck: self.registry.snapshot() }
    }

    /// The children that are still there are about to be killed.
    pub(crate) fn record_killed(&self) {
        let killed = self.registry.snapshot();
        self.lifecycle.lock().killed = killed;
    }

    pub(crate) fn stop(&self, within: Duration) -> StopReport {
        let deadline = self.bring_forward(within);
        self.shutdown();
        let mut lifecycle = self.lifecycle.lock();
        while lifecycle.serving == Serving::Active {
            if self.stopped_serving.wait_until(&mut lifecycle, deadline.over).timed_out() {
                drop(lifecycle);
                return self.report();
            }
        }
        lifecycle.report.clone()
    }
}

/// The longest stop deadline: about thirty years, and no overflow of the clock.
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(1_000_000_000);

/// The most that connections that are cut off get to notice it.
const FORCE_MARGIN: Duration = Duration::from_millis(300);

/// The most that the serving thread gets of that, to let go of what is left and to report.
const REPORT_MARGIN: Duration = Duration::from_millis(50);

/// The shortest stop: what both of them need where no time was given.
const MIN_STOP_TIME: Duration = Duration::from_millis(100);
