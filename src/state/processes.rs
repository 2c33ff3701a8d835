//! [`Processes`]: what the processes of a server share. There are several only under
//! [`Prefork`](crate::Prefork): the parent, and children that accept beside each other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, getppid};

use super::counter::Counter;
use super::stats::{Counters, Stats};
use crate::sys::clock::millis;
use crate::sys::shared::Shared;
use crate::sys::waker::{self, ShutdownSignal, Waker};

#[derive(Debug)]
pub(crate) struct Processes {
    all: Shared<[Process]>,
    server: Shared<ServerWide>,
    /// The index of this process.
    own: AtomicUsize,
    /// `None` in the process that has made the server.
    parent: OnceLock<Parent>,
    /// The parent needs to know what the children are doing.
    reports_load: AtomicBool,
}

/// What one process tells the others. A child of [`Forking`](crate::Forking), which serves a
/// request of its parent's, counts for its parent.
#[derive(Debug, Default)]
#[repr(align(128))] // The counters of two processes are not in one cache line.
pub(crate) struct Process {
    pub(crate) stats: Counters,
    /// It accepts beside others.
    accepts: AtomicBool,
    /// How many requests more it accepts; zero for no limit.
    quota: AtomicU64,
    /// It accepts no more, and ends when its requests have ended.
    retires: AtomicBool,
    /// When its oldest request began, by [`millis`]; zero without one. It is kept only if the
    /// parent needs it.
    oldest: AtomicU64,
    stopping: AtomicBool,
    /// How many requests its stop has drained and forced.
    drained: AtomicUsize,
    forced: AtomicUsize,
}

#[derive(Debug, Default)]
struct ServerWide {
    last_id: AtomicU64,
    /// During a stop: how many requests are left to take, of those that waited when it began.
    left_to_drain: AtomicUsize,
    /// By when a stop is to be over, by [`millis`]; zero if that was not said.
    stop_deadline: AtomicU64,
    /// A child has been woken for a connection that it does not accept.
    passed_on: AtomicBool,
    /// Another program has the listeners, and what belongs to them.
    handed_over: AtomicBool,
    wanted: Wanted,
}

/// What the parent wants to be woken for.
#[derive(Debug, Default)]
struct Wanted {
    /// Fewer idle children than this.
    min_idle: AtomicUsize,
    /// More idle children than this; zero means never.
    max_idle: AtomicUsize,
    /// A request begins while none is being served.
    first_request: AtomicBool,
}

/// How a child reaches its parent.
#[derive(Debug)]
struct Parent {
    waker: Waker,
    /// Triggers its shutdown signal.
    shutdown: OwnedFd,
    pid: Option<Pid>,
}

/// What wakes and stops one process. A parent makes those of a child, and keeps them too.
#[derive(Debug)]
pub(crate) struct ProcessSignals {
    /// Wakes the acceptor: a request has ended while it waited for that, or a limit has changed.
    pub(crate) waker: Waker,
    pub(crate) shutdown: ShutdownSignal,
}

/// How many requests more than another process one may serve and still be the next to be woken for a
/// connection: a process whose memory is in the caches serves short requests best.
const MAX_IMBALANCE: u64 = 1;

impl ProcessSignals {
    pub(crate) fn new() -> io::Result<ProcessSignals> {
        Ok(ProcessSignals { waker: Waker::new()?, shutdown: ShutdownSignal::new()? })
    }
}

impl Processes {
    /// For so many processes, this one included.
    pub(super) fn new(count: usize) -> io::Result<Processes> {
        Ok(Processes {
            all: Shared::slice(count)?,
            server: Shared::new()?,
            own: AtomicUsize::new(0),
            parent: OnceLock::new(),
            reports_load: AtomicBool::new(false),
        })
    }

    pub(crate) fn own(&self) -> &Process {
        &self.all[self.own.load(Ordering::Relaxed)]
    }

    /// The process with this index. That of the process that has made the server is 0.
    pub(crate) fn get(&self, index: usize) -> &Process {
        &self.all[index]
    }

    pub(super) fn new_id(&self) -> u64 {
        1 + self.server.last_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The counters of all processes. `own_active`: how many requests this process serves.
    pub(super) fn stats(&self, own_active: usize) -> Stats {
        let mut stats = Stats::default();
        self.all.iter().for_each(|process| process.stats.add_to(&mut stats));
        stats.active = match self.all.len() {
            1 => own_active as u64,
            // A request ends between the two reads, perhaps.
            _ => stats.accepted.saturating_sub(stats.finished),
        };
        stats
    }

    /// How many requests the stops of the children have drained and forced.
    pub(super) fn drained_and_forced(&self) -> (usize, usize) {
        let sum = |number: fn(&Process) -> &AtomicUsize| {
            self.all.iter().map(|process| number(process).load(Ordering::Relaxed)).sum()
        };
        (sum(|process| &process.drained), sum(|process| &process.forced))
    }

    /// Whether the listeners are another program's, which removes their files.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.server.handed_over.load(Ordering::SeqCst)
    }

    /// They are from now on; `false` if they were before.
    pub(crate) fn hand_over(&self) -> bool {
        !self.server.handed_over.swap(true, Ordering::SeqCst)
    }

    /// They are this server's again: the other program has ended.
    pub(crate) fn take_back(&self) {
        self.server.handed_over.store(false, Ordering::SeqCst);
    }

    /// Asks every process to stop. Runs in signal handlers.
    pub(super) fn stop_all(&self) {
        self.all.iter().for_each(|process| process.set_stopping(true));
        if let Some(parent) = self.parent.get() {
            waker::trigger(parent.shutdown.as_fd());
        }
    }

    /// In a child that is to accept no more: whether what is queued is left to another one. It is not if
    /// the server stops, or its parent is dead.
    ///
    /// A parent that stops looks for a child that accepts, and forks one if there is none: either it sees
    /// that this one does not, or this one sees the stop.
    pub(crate) fn leaves_backlog(&self) -> bool {
        let Some(parent) = self.parent.get() else { return false };
        self.retire_own();
        !self.get(0).is_stopping() && getppid() == parent.pid
    }

    /// The stop of all processes is to be over after this time. Of several deadlines the earliest wins.
    pub(super) fn limit_stop(&self, timeout: Duration) {
        let deadline = 1 + millis().saturating_add(timeout.as_millis() as u64);
        let (shared, order) = (&self.server.stop_deadline, Ordering::SeqCst);
        let is_earlier = |current: u64| current == 0 || deadline < current;
        let _ =
            shared.fetch_update(order, order, |current| is_earlier(current).then_some(deadline));
    }

    /// How much of that time is left; `None` if there is no limit.
    pub(super) fn stop_time_left(&self) -> Option<Duration> {
        let deadline = self.server.stop_deadline.load(Ordering::SeqCst);
        (deadline != 0).then(|| Duration::from_millis(deadline.saturating_sub(millis())))
    }

    /// A stop of this process begins while so many requests wait to be accepted.
    pub(crate) fn begin_drain(&self, queued: usize) {
        self.server.left_to_drain.fetch_max(queued, Ordering::SeqCst);
    }

    /// Whether this process may accept one of them. If it then finds none, it
    /// [gives back](Processes::put_back_queued) what it has taken.
    pub(crate) fn take_queued(&self) -> bool {
        let left = &self.server.left_to_drain;
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    pub(crate) fn put_back_queued(&self) {
        self.server.left_to_drain.fetch_add(1, Ordering::SeqCst);
    }

    /// In a child that was just forked: it is the process with this index from now on, and these
    /// signals take the place of its parent's.
    pub(super) fn become_child(
        &self,
        index: usize,
        inherited: &ProcessSignals,
        own: &ProcessSignals,
    ) -> io::Result<()> {
        let waker = inherited.waker.replace_inherited(&own.waker)?;
        let shutdown = inherited.shutdown.replace_inherited(&own.shutdown)?;
        let _ = self.parent.set(Parent { waker, shutdown, pid: getppid() });
        self.own.store(index, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn is_child(&self) -> bool {
        self.parent.get().is_some()
    }

    /// Whether this process serves notably more requests than another one that accepts.
    pub(crate) fn has_more_than_others(&self) -> bool {
        if !self.is_child() {
            return false;
        }
        let own = self.own().active();
        self.accepting().map(Process::active).any(|other| own > other + MAX_IMBALANCE)
    }

    fn accepting(&self) -> impl Iterator<Item = &Process> {
        self.all.iter().filter(|process| process.accepts())
    }

    /// How many children accept, and how many of them serve no request.
    pub(crate) fn count_accepting_and_idle(&self) -> (usize, usize) {
        let accepting = self.accepting();
        accepting.fold((0, 0), |(all, idle), process| {
            (all + 1, idle + usize::from(process.active() == 0))
        })
    }

    /// In a child: has the other processes look at the listener, because the wake-up for a request may
    /// have been this one's, which does not accept it.
    pub(crate) fn pass_on(&self) {
        self.server.passed_on.store(true, Ordering::SeqCst);
        self.wake_parent();
    }

    /// In the parent: whether a child has [passed on](Processes::pass_on) a wake-up since the last call.
    pub(crate) fn take_passed_on(&self) -> bool {
        self.server.passed_on.swap(false, Ordering::SeqCst)
    }

    fn wake_parent(&self) {
        self.parent.get().inspect(|parent| parent.waker.wake());
    }

    /// This process accepts no more; another one may take its place. Calls after the first do nothing.
    fn retire_own(&self) {
        if self.own().accepts.swap(false, Ordering::SeqCst) {
            self.wake_parent();
        }
    }

    /// In the parent, before it forks: children [report](Processes::report_load) what they are doing.
    pub(crate) fn want_load(&self) {
        self.reports_load.store(true, Ordering::Relaxed);
    }

    pub(super) fn reports_load(&self) -> bool {
        self.reports_load.load(Ordering::Relaxed) && self.is_child()
    }

    /// In the parent: when it is to be woken. After this it looks once more at what it waits for, which
    /// may have happened before. `max_idle` is `None` for never.
    pub(crate) fn want(&self, min_idle: usize, max_idle: Option<usize>, first_request: bool) {
        let wanted = &self.server.wanted;
        wanted.min_idle.store(min_idle, Ordering::SeqCst);
        wanted.max_idle.store(max_idle.unwrap_or(0), Ordering::SeqCst);
        wanted.first_request.store(first_request, Ordering::SeqCst);
    }

    /// In a child whose number of requests has changed: wakes the parent if it wants that.
    pub(super) fn report_load(&self) {
        let wanted = &self.server.wanted;
        let limit = |limit: &AtomicUsize| limit.load(Ordering::SeqCst);
        let (min_idle, max_idle) = (limit(&wanted.min_idle), limit(&wanted.max_idle));
        let idle = match (min_idle, max_idle) {
            (0, 0) => None,
            _ => Some(self.count_accepting_and_idle().1),
        };
        if idle.is_some_and(|idle| idle < min_idle || (max_idle > 0 && idle > max_idle))
            || (self.own().oldest.load(Ordering::SeqCst) != 0
                && wanted.first_request.load(Ordering::SeqCst)
                && wanted.first_request.swap(false, Ordering::SeqCst))
        {
            self.wake_parent();
        }
    }
}

impl Process {
    /// For a child that is about to be forked, and accepts so many requests. The counters go on.
    pub(crate) fn reset(&self, quota: Option<u64>) {
        self.set_stopping(false);
        self.accepts.store(true, Ordering::SeqCst);
        self.quota.store(quota.unwrap_or(0), Ordering::SeqCst);
        self.retires.store(false, Ordering::SeqCst);
        self.oldest.store(0, Ordering::SeqCst);
        self.drained.store(0, Ordering::Relaxed);
        self.forced.store(0, Ordering::Relaxed);
    }

    pub(super) fn set_stopping(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn accepts(&self) -> bool {
        self.accepts.load(Ordering::SeqCst)
    }

    /// Whether it accepts no more.
    pub(crate) fn retires(&self) -> bool {
        self.retires.load(Ordering::SeqCst)
    }

    /// A request was accepted; called by one thread at a time. Returns whether it was the last one.
    pub(crate) fn use_quota(&self) -> bool {
        let left = self.quota.load(Ordering::Relaxed);
        if left > 1 {
            self.quota.store(left - 1, Ordering::Relaxed);
        }
        if left == 1 {
            self.retires.store(true, Ordering::SeqCst);
        }
        left == 1
    }

    /// In the parent, for a child that is to accept no more. It has to be woken.
    pub(crate) fn retire(&self) {
        self.accepts.store(false, Ordering::SeqCst);
        self.retires.store(true, Ordering::SeqCst);
    }

    pub(super) fn set_oldest(&self, since: Option<Instant>) {
        let millis = since.map_or(0, |since| {
            // Rounded up: not zero, and no request gets older than it is.
            1 + millis().saturating_sub(since.elapsed().as_millis() as u64)
        });
        self.oldest.store(millis, Ordering::SeqCst);
    }

    /// The age of its oldest request, to a millisecond.
    pub(crate) fn oldest_age(&self) -> Option<Duration> {
        let since = self.oldest.load(Ordering::SeqCst);
        (since != 0).then(|| Duration::from_millis(millis().saturating_sub(since)))
    }

    /// In a child that ends by a stop.
    pub(crate) fn report_stop(&self, drained: usize, forced: usize) {
        self.drained.store(drained, Ordering::Relaxed);
        self.forced.store(forced, Ordering::Relaxed);
    }

    /// This process has ended. Counts the requests that it was serving as failed, and returns how many
    /// there were.
    pub(crate) fn end(&self) -> u64 {
        self.accepts.store(false, Ordering::SeqCst);
        self.oldest.store(0, Ordering::SeqCst);
        let lost = self.active();
        self.stats.failed.add(lost);
        self.stats.finished.add(lost);
        lost
    }

    /// During a stop, after [`end`](Process::end).
    pub(crate) fn count_forced(&self, lost: u64) {
        self.forced.fetch_add(lost as usize, Ordering::Relaxed);
    }

    pub(crate) fn active(&self) -> u64 {
        let count = |counter: &Counter| counter.value();
        let finished = count(&self.stats.finished);
        count(&self.stats.accepted).saturating_sub(finished)
    }
}
