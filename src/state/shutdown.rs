//! The course of a stop: who may ask for it, when each step of it is due, and what it reports.
//!
//! [`ServerHandle::stop`](super::ServerHandle::stop) and a signal only ask for it. The thread that
//! serves goes through its steps, in `server/shutdown.rs`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ConnectionInfo, ServerState};
use crate::error::{Error, Result};
use crate::sync::{Current, Waitable};

/// What a stop did to the connections, or to the children of a forking server, that were there when
/// it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// How many requests ended by themselves, having read and answered all that was received.
    pub drained: usize,
    /// How many connections had to be shut down near the end of the timeout: those of handlers that
    /// went on, and of clients that did not take what was written to them, for which the stop has
    /// waited all that time. Children get `SIGTERM` as well.
    pub forced: usize,
    /// Of those, the children that did not end even then, and were killed by `SIGKILL`. Under
    /// [`Prefork`](crate::Prefork) it is empty: the log names what a child could not end.
    pub killed: Vec<ConnectionInfo>,
    /// The requests that had not ended even then: their handlers wait for something other than
    /// their connection, or compute.
    pub stuck: Vec<ConnectionInfo>,
}

impl StopReport {
    /// Whether every request ended by itself.
    pub fn is_clean(&self) -> bool {
        self.forced == 0 && self.stuck.is_empty()
    }
}

/// When each step of a stop is due.
///
/// ```text
/// stop begins          force                end            report
/// |--- handlers drain ---|--- handlers notice ---|--- pool joins ---|
///                         at most 300 ms           at most 50 ms
/// ```
///
/// Both margins come off the timeout, so that `stop` returns in time. Short timeouts have shorter
/// margins: a fifth of the timeout from `force` on, a quarter of that from `end` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopSchedule {
    /// After a hand-over: clients that have connected before have sent their first request.
    pub(crate) first_requests: Instant,
    /// The remaining connections are shut down, early enough for their handlers to end in time.
    pub(crate) force: Instant,
    /// The server stops waiting for them.
    pub(crate) end: Instant,
    /// `stop` returns.
    report: Instant,
}

/// The longest stop timeout: about thirty years, which cannot overflow the clock.
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(1_000_000_000);

/// The shortest one. A timeout of zero gets this too: handlers need a moment to notice.
const MIN_STOP_TIMEOUT: Duration = Duration::from_millis(100);

/// The most time between `force` and `report`.
const FORCE_MARGIN: Duration = Duration::from_millis(300);

/// How long a client whose connection was accepted shortly before a hand-over has to send its first
/// request.
const FIRST_REQUEST_TIME: Duration = Duration::from_secs(1);

/// How many of the stuck requests are logged one by one.
const MAX_LOGGED: usize = 20;

/// The most time between `end` and `report`.
const REPORT_MARGIN: Duration = Duration::from_millis(50);

impl StopSchedule {
    fn after(timeout: Duration) -> StopSchedule {
        let now = Instant::now();
        let timeout = timeout.min(MAX_STOP_TIMEOUT);
        let force = now + timeout - (timeout / 5).min(FORCE_MARGIN);
        let first_requests = now + (timeout / 2).min(FIRST_REQUEST_TIME);
        let report = now + timeout.max(MIN_STOP_TIMEOUT);
        let end = report - ((report - force) / 4).min(REPORT_MARGIN);
        StopSchedule { first_requests, force, end, report }
    }
}

/// Where a server is between its start and its end.
#[derive(Debug, Default)]
pub(super) struct Lifecycle {
    serving: Serving,
    /// `None` until a stop begins.
    schedule: Option<StopSchedule>,
    killed: Vec<ConnectionInfo>,
    report: StopReport,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Serving {
    #[default]
    NotStarted,
    Active,
    Stopped,
}

/// Asking for a stop.
impl ServerState {
    /// Runs in signal handlers: it takes no lock and allocates nothing.
    pub(crate) fn shutdown(&self) {
        self.processes.stop_all();
        self.signals.shutdown.trigger();
    }

    /// As [`shutdown`](ServerState::shutdown), of this process alone.
    pub(crate) fn shutdown_process(&self) {
        self.processes.own().set_stopping(true);
        self.signals.shutdown.trigger();
    }

    pub(crate) fn shutdown_pipe(&self) -> io::Result<OwnedFd> {
        self.signals.shutdown.try_clone_writer()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.processes.own().is_stopping()
    }

    /// Readable once a shutdown was asked for.
    pub(crate) fn shutdown_signal(&self) -> BorrowedFd<'_> {
        self.signals.shutdown.as_fd()
    }

    /// Asks for a stop, and waits for its report until the timeout.
    pub(crate) fn stop(&self, timeout: Duration) -> StopReport {
        let schedule = self.bring_forward(timeout);
        self.shutdown();
        let mut lifecycle = self.lifecycle.lock();
        while lifecycle.serving == Serving::Active {
            if self.stopped.wait_until(&mut lifecycle, schedule.report).timed_out() {
                drop(lifecycle);
                return self.report();
            }
        }
        lifecycle.report.clone()
    }

    /// Has the stop end within `timeout`. Of several timeouts the earliest deadline wins.
    fn bring_forward(&self, timeout: Duration) -> StopSchedule {
        let wanted = StopSchedule::after(timeout);
        self.processes.limit_stop(timeout.min(MAX_STOP_TIMEOUT));
        let mut lifecycle = self.lifecycle.lock();
        let schedule = match lifecycle.schedule {
            Some(earlier) if earlier.report <= wanted.report => earlier,
            _ => wanted,
        };
        lifecycle.schedule = Some(schedule);
        drop(lifecycle);
        self.registry.wake();
        self.wake_acceptor();
        schedule
    }
}

/// Going through it.
impl ServerState {
    /// A server serves once.
    pub(crate) fn begin_serving(&self) -> Result<()> {
        let mut lifecycle = self.lifecycle.lock();
        if self.is_stopping() || lifecycle.serving != Serving::NotStarted {
            return Err(Error::ShutDown);
        }
        lifecycle.serving = Serving::Active;
        Ok(())
    }

    /// Tells the observers that the server serves.
    pub(crate) fn tell_start(&self) {
        self.tell(|observer| observer.listening(self.local_addr()));
    }

    /// Tells the observers that a stop has begun, once. Not called in a forked child.
    pub(crate) fn tell_stop(&self) {
        if !self.stop_was_told.swap(true, Ordering::SeqCst) {
            self.tell(|observer| observer.stopping());
        }
    }

    /// Sets the schedule and shuts the read side of every connection. Called by each thread that
    /// notices a shutdown; calls after the first change nothing.
    pub(crate) fn begin_stop(&self) {
        self.processes.own().set_stopping(true);
        let timeout = self.processes.stop_time_left().unwrap_or(self.settings.stop_timeout);
        let schedule = StopSchedule::after(timeout);
        self.lifecycle.lock().schedule.get_or_insert(schedule);
        self.registry.drain(self.processes.is_handed_over());
        self.stop_waiters.lock().iter().for_each(|waiter| waiter.unpark());
    }

    /// Until when new clients are [spared](super::Registry::drain), if there may be some.
    pub(crate) fn spared_until(&self) -> Option<Instant> {
        self.registry.spares_new().then(|| self.schedule().first_requests)
    }

    /// Spares them no longer, if their time is over.
    pub(crate) fn drain_new_in_time(&self) {
        if self.spared_until().is_some_and(|until| Instant::now() >= until) {
            self.registry.drain_new();
        }
    }

    pub(crate) fn schedule(&self) -> StopSchedule {
        let schedule = self.lifecycle.lock().schedule;
        schedule.unwrap_or_else(|| StopSchedule::after(self.settings.stop_timeout))
    }

    /// The children that are still there are about to be killed.
    pub(crate) fn record_killed(&self) {
        let killed = self.registry.snapshot();
        self.lifecycle.lock().killed = killed;
    }

    /// Serving is over: `stop` returns.
    pub(crate) fn end_serving(&self) {
        let report = self.report();
        let mut lifecycle = self.lifecycle.lock();
        lifecycle.serving = Serving::Stopped;
        lifecycle.report = report.clone();
        drop(lifecycle);
        self.stopped.notify_all();
        self.tell_folded(true);
        self.tell(|observer| observer.stopped(&report));
    }

    fn report(&self) -> StopReport {
        let (drained, forced) = self.registry.drained_and_forced();
        let of_children = self.processes.drained_and_forced();
        let killed = self.lifecycle.lock().killed.clone();
        let (drained, forced) = (drained + of_children.0, forced + of_children.1);
        StopReport { drained, forced, killed, stuck: self.registry.snapshot() }
    }

    /// For the log of a stop that is over: which requests have not ended.
    pub(crate) fn log_stuck(&self) {
        let stuck = self.registry.snapshot();
        for request in stuck.iter().take(MAX_LOGGED) {
            let ConnectionInfo { id, peer, activity, activity_time, .. } = request;
            let seconds = activity_time.as_secs_f64();
            log::warn!(
                "{id} from {peer} does not end; left behind: it {activity} for {seconds:.1} s"
            );
        }
        if let more @ 1.. = stuck.len().saturating_sub(MAX_LOGGED) {
            log::warn!("nor do {more} more");
        }
    }
}

/// For the stop.
impl Waitable for ServerState {
    fn is_ready(&self) -> bool {
        self.is_stopping()
    }

    fn add_waiter(&self, waiter: &Arc<Current>) {
        self.stop_waiters.lock().push(waiter.clone());
    }

    fn remove_waiter(&self, waiter: &Arc<Current>) {
        let mut waiters = self.stop_waiters.lock();
        let position = waiters.iter().position(|other| Arc::ptr_eq(other, waiter));
        position.map(|position| waiters.swap_remove(position));
    }
}
