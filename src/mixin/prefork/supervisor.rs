//! [`Supervisor`]: the parent of the children. It forks, watches, replaces and ends them.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::new_child::NewChild;
use super::restarts::{Restarts, START_TIME};
use super::sizing::{Sizing, Surplus};
use crate::accept::BaseServer;
use crate::error::{Error, Result};
use crate::mixin::ForkDespiteThreads;
use crate::mixin::child_process::{self, KILL_GRACE, prepare_to_fork};
use crate::state::{ProcessSignals, ServerState};
use crate::sys::children::Children;
use crate::sys::exit::Exit;
use crate::sys::fork::Fork;
use crate::sys::poll::{Interest, poll};

/// How long children whose requests do not end may take to log them and exit before they are killed.
const EXIT_GRACE: Duration = Duration::from_millis(30);

pub(super) struct Supervisor {
    children: Children<Child>,
    sizing: Sizing,
    longest_request: Option<Duration>,
    /// The indices of [`Processes`](crate::state::Processes) that no child has. There are twice as many
    /// as children that accept, because a child that ends may still serve requests.
    free: Vec<usize>,
    /// For a child that serves what is queued when a stop begins, while all others serve their last
    /// requests in the other places.
    place_for_stop: Option<usize>,
    restarts: Restarts,
    surplus: Surplus,
    despite_threads: Option<ForkDespiteThreads>,
}

struct Child {
    index: usize,
    signals: ProcessSignals,
    started: Instant,
    /// How many requests its predecessors of the same index had accepted.
    accepted_before: u64,
    /// When this process has seen that it accepts no more.
    retired: Cell<Option<Instant>>,
    ending: Cell<Ending>,
}

/// How long a child that accepts no more goes on before it is stopped for its place: what a client sends
/// that has just connected is answered.
const RETIREMENT: Duration = Duration::from_secs(1);

/// How far the parent has gone to end a child.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// It is to stop as a server does.
    Stop,
    /// A request takes too long. It was sent `SIGTERM`, and is killed then.
    KillAt(Instant),
    Killed,
}

/// What [`Supervisor::supervise`] returned for.
pub(super) enum Supervised {
    /// The server is to stop.
    ShutDown,
    /// This process is a new child.
    Child(NewChild),
}

impl Supervisor {
    pub(super) fn new(
        sizing: Sizing,
        longest_request: Option<Duration>,
        despite_threads: Option<ForkDespiteThreads>,
    ) -> Result<Supervisor> {
        prepare_to_fork(despite_threads)?;
        Ok(Supervisor {
            children: Children::new().map_err(Error::system("watch children"))?,
            free: (1..=sizing.slots()).rev().collect(),
            place_for_stop: Some(1 + sizing.slots()),
            sizing,
            longest_request,
            restarts: Restarts::default(),
            surplus: Surplus::default(),
            despite_threads,
        })
    }

    /// Keeps as many children as there should be until the server stops. Returns in each child too.
    pub(super) fn supervise(&mut self, server: &BaseServer) -> Supervised {
        let state = server.state();
        loop {
            self.reap(state);
            if state.is_stopping() {
                state.begin_stop();
                state.tell_stop();
                // The last one may just have ended: what is queued needs a child that serves it.
                if let Some(child) = self.fork_missing(state) {
                    return Supervised::Child(child);
                }
                self.stop();
                return Supervised::ShutDown;
            }
            // What happens from here on wakes this process; what has happened before is seen below.
            self.want_load(state, None);
            let overdue = self.end_overdue(state);
            self.end_surplus(state);
            if let Some(child) = self.fork_missing(state) {
                return Supervised::Child(child);
            }
            self.want_load(state, Some(overdue));
            let deadlines = [overdue, self.surplus.deadline, self.retry(state)];
            let waker = state.acceptor_waker();
            let wanted = [state.shutdown_signal(), waker.as_fd()];
            let wanted = wanted.map(|fd| Some((fd, Interest::Read)));
            let deadline = deadlines.into_iter().flatten().min();
            match poll(wanted, [self.children.as_fd()], deadline) {
                Ok([true, _]) => state.begin_stop(),
                Ok([_, true]) => {
                    waker.clear();
                    if state.processes.take_passed_on() {
                        self.wake_children();
                    }
                }
                Ok(_) => {}
                // Out of memory: there is no event to wait for.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn wake_children(&self) {
        self.children.for_each(|_, child| child.signals.waker.wake());
    }

    fn stop(&self) {
        self.children.for_each(|_, child| child.signals.shutdown.trigger());
    }

    /// Forks until there are enough children, unless it has to wait. `Some` in a child.
    fn fork_missing(&mut self, state: &Arc<ServerState>) -> Option<NewChild> {
        while self.is_missing_one(state) {
            let now = Instant::now();
            if self.restarts.deadline(now).is_some() {
                break;
            }
            let for_stop = self.place_for_stop.filter(|_| state.is_stopping());
            let Some(index) = self.free.last().copied().or(for_stop) else {
                self.stop_eldest_that_retires(state);
                break;
            };
            match self.fork(state, index) {
                Ok(child @ Some(_)) => return child,
                Ok(None) if self.free.pop().is_some() => {}
                Ok(None) => self.place_for_stop = None,
                Err(error) => {
                    state.processes.get(index).end();
                    if let Some(delay) = self.restarts.after_failure(now) {
                        let address = state.local_addr();
                        log::error!(
                            "{address}: no child: {error}; trying again, after {delay:?} at first"
                        );
                    }
                }
            }
        }
        None
    }

    fn is_missing_one(&self, state: &ServerState) -> bool {
        let (accepting, idle) = state.processes.count_accepting_and_idle();
        match state.is_stopping() {
            true => accepting == 0,
            false => self.sizing.missing(accepting, idle) > 0,
        }
    }

    /// When to fork again, if that has failed, or there is no place.
    fn retry(&self, state: &ServerState) -> Option<Instant> {
        if !self.is_missing_one(state) {
            return None;
        }
        let place = self.eldest_that_retires(state).filter(|_| self.free.is_empty());
        let place = place.map(|(retired, _)| retired + RETIREMENT);
        self.restarts.deadline(Instant::now()).or(place.filter(|place| *place > Instant::now()))
    }

    /// Notes since when children accept no more. Returns the one for which that is longest, and the time.
    fn eldest_that_retires(&self, state: &ServerState) -> Option<(Instant, i32)> {
        let (now, mut eldest) = (Instant::now(), None::<(Instant, i32)>);
        self.children.for_each(|pid, child| {
            if state.processes.get(child.index).accepts() {
                return;
            }
            let retired = child.retired.get().unwrap_or(now);
            child.retired.set(Some(retired));
            if eldest.is_none_or(|(earliest, _)| retired < earliest) {
                eldest = Some((retired, pid));
            }
        });
        eldest
    }

    /// All places are taken by children that serve their last requests, and one is needed.
    fn stop_eldest_that_retires(&self, state: &ServerState) {
        let eldest = self.eldest_that_retires(state);
        let eldest = eldest.filter(|(retired, _)| retired.elapsed() >= RETIREMENT);
        self.children.for_each(|pid, child| {
            let is_eldest = eldest.is_some_and(|(_, eldest)| pid == eldest);
            if is_eldest && child.ending.get() == Ending::No {
                child.ending.set(Ending::Stop);
                child.signals.shutdown.trigger();
            }
        });
    }

    /// What children are to wake this process for. `overdue`, once it is known, is the deadline of the
    /// oldest request.
    fn want_load(&self, state: &ServerState, overdue: Option<Option<Instant>>) {
        let max_idle = self.sizing.spare.as_ref().map(|spare| *spare.end());
        let first_request = self.longest_request.is_some();
        match overdue {
            None => {
                let min_idle = self.sizing.spare.as_ref().map_or(0, |spare| *spare.start());
                state.processes.want(min_idle, max_idle, first_request);
            }
            Some(overdue) => {
                let (accepting, _) = state.processes.count_accepting_and_idle();
                let max_idle = max_idle.filter(|_| self.surplus.deadline.is_none());
                let first_request = first_request && overdue.is_none();
                state.processes.want(self.sizing.min_idle(accepting), max_idle, first_request);
            }
        }
    }

    /// Ends an idle child if there have been too many for some time.
    fn end_surplus(&mut self, state: &ServerState) {
        let (_, idle) = state.processes.count_accepting_and_idle();
        if !self.surplus.update(self.sizing.has_surplus(idle), Instant::now()) {
            return;
        }
        let mut has_ended = false;
        self.children.for_each(|pid, child| {
            let process = state.processes.get(child.index);
            if !has_ended && process.accepts() && process.active() == 0 {
                has_ended = true;
                log::debug!("child {pid} is idle, and ends");
                process.retire();
                child.signals.waker.wake();
            }
        });
    }

    /// Ends the children that have served a request for too long. Returns when to look again.
    fn end_overdue(&self, state: &ServerState) -> Option<Instant> {
        let (limit, now) = (self.longest_request?, Instant::now());
        let mut next: Option<Instant> = None;
        let mut look_at = |deadline| {
            next = Some(next.map_or(deadline, |next| next.min(deadline)));
        };
        self.children.terminate_if(false, |pid, child| {
            let process = state.processes.get(child.index);
            if matches!(child.ending.get(), Ending::KillAt(_) | Ending::Killed) {
                return false;
            }
            let Some(age) = process.oldest_age() else { return false };
            if age < limit {
                look_at(now + (limit - age));
                return false;
            }
            log::error!("child {pid} has served a request for longer than {limit:?}; ending it");
            process.retire();
            let exited = now + state.settings.stop_timeout + EXIT_GRACE;
            child.ending.set(Ending::KillAt(exited));
            true
        });
        self.children.terminate_if(true, |_, child| {
            let Ending::KillAt(deadline) = child.ending.get() else { return false };
            if now < deadline {
                look_at(deadline);
                return false;
            }
            child.ending.set(Ending::Killed);
            true
        });
        next
    }

    /// `Some` in the child.
    fn fork(&self, state: &ServerState, index: usize) -> Result<Option<NewChild>> {
        let signals = ProcessSignals::new().map_err(Error::system("make a pipe"))?;
        let process = state.processes.get(index);
        process.reset(self.sizing.quota());
        let accepted_before = process.stats.accepted.value();
        match child_process::fork(self.despite_threads)? {
            Fork::Child { parent, signals: blocked } => {
                Ok(Some(NewChild { parent, index, signals, blocked }))
            }
            Fork::Parent(pid) => {
                let (started, retired) = (Instant::now(), Cell::new(None));
                let ending = Cell::new(Ending::No);
                let child = Child { index, signals, started, accepted_before, retired, ending };
                self.children.add(pid, child).map_err(Error::system("watch a child"))?;
                Ok(None)
            }
        }
    }

    fn reap(&mut self, state: &ServerState) {
        let reaped = self.children.reap();
        if reaped.is_empty() {
            return;
        }
        for (pid, exit, child) in reaped {
            self.on_exit(pid, exit, &child, state);
            self.free.push(child.index);
        }
        // It may have been woken for a connection that it has not accepted.
        self.wake_children();
    }

    fn on_exit(&mut self, pid: i32, exit: Option<Exit>, child: &Child, state: &ServerState) {
        let process = state.processes.get(child.index);
        let served = process.stats.accepted.value() > child.accepted_before;
        let lost = process.end();
        let (is_stopping, now) = (state.is_stopping(), Instant::now());
        match exit {
            None => log::debug!("child {pid} was reaped by another waiter"),
            Some(exit) if lost > 0 => log::warn!("child {pid} {exit}, with {lost} requests"),
            Some(exit) if exit.is_success() => log::debug!("child {pid} has ended"),
            Some(exit) if !served && !is_stopping && now < child.started + START_TIME => {
                match self.restarts.after_failure(now) {
                    Some(delay) => log::error!(
                        "child {pid} {exit} at its start; trying again, after {delay:?} at first"
                    ),
                    None => log::debug!("child {pid} {exit} at its start"),
                }
            }
            Some(exit) => log::warn!("child {pid} {exit}"),
        }
        match is_stopping {
            true => process.count_forced(lost),
            // Its own stop does not belong to that of the server.
            false => process.report_stop(0, 0),
        }
    }

    /// Waits until no child is left; `false` if one is at `deadline()`.
    pub(super) fn wait(&mut self, state: &ServerState, deadline: &dyn Fn() -> Instant) -> bool {
        // They know already, unless the server was dropped without a stop.
        self.stop();
        loop {
            self.reap(state);
            if self.children.is_empty() {
                return true;
            }
            // The deadline may become earlier meanwhile, which wakes the acceptor.
            state.acceptor_waker().clear();
            let deadline = deadline();
            let others = [self.children.as_fd(), state.acceptor_waker().as_fd()];
            let waited = poll([], others, Some(deadline));
            if Instant::now() >= deadline || waited.is_err() {
                self.reap(state);
                return self.children.is_empty();
            }
        }
    }

    pub(super) fn terminate(&self) {
        self.children.terminate(false);
    }

    /// Kills the children that are left.
    pub(super) fn close(&mut self, state: &ServerState) {
        let exited = Instant::now() + EXIT_GRACE;
        if !self.wait(state, &|| exited) {
            self.children.terminate(true);
            let killed = Instant::now() + KILL_GRACE;
            self.wait(state, &|| killed);
        }
    }
}
