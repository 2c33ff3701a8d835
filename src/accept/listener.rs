//! [`Listener`]: takes one request at a time from its sources, without waiting.
//!
//! Every accept is here: the acceptor's ([`accept`](Listener::accept), and during a stop
//! [`accept_from_backlog`](Listener::accept_from_backlog)), the workers of fibers
//! ([`accept_each`](Listener::accept_each)) and idle threads
//! ([`accept_idle`](Listener::accept_idle)). Sources are added and closed in `listening.rs`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::admission;
use super::episode::{Change, Episode};
use super::error::{AcceptError, Backoff};
use super::idle::{IdleAcceptor, IdleAcceptors};
use super::source::{Source, catch_panic};
use super::sources::Sources;
use super::untold::Untold;
use crate::address::Address;
use crate::request::{AnyHandler, Request, RequestHandler, sealed};
use crate::state::ServerState;
use crate::sys::poller::{ExclusiveWaiter, ListenerWaiter, ReadySet};
use crate::transport::Transport;

pub(crate) struct Listener {
    pub(super) handler: AnyHandler,
    pub(crate) state: Arc<ServerState>,
    mixin_limit: usize,
    /// One thread at a time accepts, so that a request that was admitted still has its place.
    pub(super) accepting: Mutex<AcceptState>,
    /// Not set as long as there is one source, and nothing outside waits for it.
    pub(super) ready: OnceLock<ReadySet>,
    /// The source whose descriptor was lent out, as there could be no ready set.
    pub(super) lent: OnceLock<Arc<Source>>,
    /// A source is being closed.
    pub(super) has_closing: AtomicBool,
    /// A connection may be pending whose wake-up was consumed while the server did not accept.
    backlog_pending: AtomicBool,
    pub(super) idle: IdleAcceptors,
}

pub(super) struct AcceptState {
    pub(super) sources: Sources,
    backoff: Backoff,
    /// The listener is left alone until then.
    backoff_deadline: Option<Instant>,
    /// How many requests had ended when that was set.
    finished_before_backoff: u64,
    consecutive_failures: u32,
    /// A limit is reached.
    full: Episode,
    /// accept(2) fails for want of something that the system has not.
    failing: Episode,
    pub(super) untold: Vec<Untold>,
}

/// The result of one accept.
pub(super) enum Accept {
    Request(Request),
    /// There was a request, but none for the mixin. There may be more.
    Rejected,
    WouldBlock,
    /// The server is full, suspended, backing off or stopping.
    NotAccepting,
}

/// After so many failures of single connections the listener itself is taken to be broken.
const MAX_CONSECUTIVE_FAILURES: u32 = 100;

impl Listener {
    pub(crate) fn new<T: Transport>(
        transport: T,
        handler: &Arc<T::Handler>,
        state: Arc<ServerState>,
        mixin_limit: usize,
    ) -> Listener
    where
        T::Handler: RequestHandler,
    {
        let first = Source::new(state.first_listener.clone(), transport, handler.clone());
        let accepting = AcceptState {
            sources: Sources::new(first),
            backoff: Backoff::default(),
            backoff_deadline: None,
            finished_before_backoff: 0,
            consecutive_failures: 0,
            full: Episode::default(),
            failing: Episode::default(),
            untold: Vec::new(),
        };
        Listener {
            handler: <T::Handler as sealed::RequestHandler>::into_any(handler.clone()),
            state,
            mixin_limit: mixin_limit.max(1),
            accepting: Mutex::new(accepting),
            ready: OnceLock::new(),
            lent: OnceLock::new(),
            has_closing: AtomicBool::new(false),
            backlog_pending: AtomicBool::new(false),
            idle: IdleAcceptors::default(),
        }
    }

    /// Keeps the handler alive while it is held.
    pub(crate) fn handler(&self) -> AnyHandler {
        self.handler.clone()
    }

    /// Whether an accept that finds nothing costs less than a poll(2).
    pub(super) fn is_cheap_to_try(&self) -> bool {
        self.handler.is_cheap_to_try()
    }

    /// Whether one more request may be accepted. If not, the acceptor is woken when that may have
    /// changed.
    pub(super) fn has_capacity(&self) -> bool {
        admission::has_capacity(&self.state, self.mixin_limit)
    }

    /// Until when the sources are left alone after an error of the system.
    pub(super) fn backoff_deadline(&self) -> Option<Instant> {
        self.accepting.lock().backoff_deadline
    }

    /// The same, and the source to wait for if it is one.
    pub(super) fn waits_for(&self) -> (Option<Instant>, Option<Arc<Source>>) {
        let accepting = self.accepting.lock();
        (accepting.backoff_deadline, accepting.sources.only().cloned())
    }

    /// Says in the log when a limit is no longer reached, and when accept works again. Returns when
    /// to look at it next.
    pub(super) fn log_episodes(&self, has_capacity: bool) -> Option<Instant> {
        self.accepting(|accepting| {
            let is_full = !has_capacity || admission::refuses(&self.state);
            self.log_limit(accepting, is_full);
            if let Some(Change::Ended(time)) = accepting.failing.update(false, Instant::now) {
                log::warn!("{}: accept works again, after {time:.1?}", self.state.local_addr());
                accepting.note(&self.state, || Untold::AcceptWorks { after: time });
            }
            [accepting.full.deadline(), accepting.failing.deadline()].into_iter().flatten().min()
        })
    }

    fn log_limit(&self, accepting: &mut AcceptState, is_full: bool) {
        let (state, address) = (&self.state, self.state.local_addr());
        match accepting.full.update(is_full, Instant::now) {
            None => {}
            Some(Change::Began) => {
                let (limit, text) = admission::limit(state, self.mixin_limit);
                log::warn!("{address}: {text}");
                accepting.note(state, || Untold::AtLimit { limit });
            }
            Some(Change::Ended(time)) => {
                log::warn!("{address}: below the limit again, after {time:.1?}");
                accepting.note(state, || Untold::BelowLimit { after: time });
            }
        }
    }

    /// Ends the back-off if a request has ended since: something that the system was short of may
    /// have been freed.
    pub(super) fn end_backoff_after_release(&self) {
        let mut accepting = self.accepting.lock();
        if accepting.finished_before_backoff != self.state.stats().finished.value() {
            accepting.backoff_deadline = None;
        }
    }

    /// Ends a back-off whose time is over.
    pub(super) fn end_backoff_in_time(&self) {
        let mut accepting = self.accepting.lock();
        let is_over = |deadline| Instant::now() >= deadline;
        if accepting.backoff_deadline.is_some_and(is_over) {
            accepting.backoff_deadline = None;
        }
    }

    pub(super) fn back_off(&self, error: &io::Error) {
        self.accepting(|accepting| accepting.back_off(error, self.state.local_addr(), &self.state));
    }

    /// Takes a request, if the server accepts now.
    pub(super) fn accept(&self) -> Accept {
        let (state, mut is_last) = (&self.state, false);
        let accept = self.accept_with(|accepting| {
            let accept = self.accept_if_open(accepting);
            // Under the lock, so that it is exact.
            is_last = matches!(accept, Accept::Request(_)) && state.processes.own().use_quota();
            accept
        });
        if is_last {
            state.wake_acceptor();
        }
        if matches!(accept, Accept::NotAccepting) {
            self.set_backlog_pending();
            state.processes.pass_on();
        }
        accept
    }

    fn accept_if_open(&self, accepting: &mut AcceptState) -> Accept {
        let state = &self.state;
        let is_closed =
            state.is_stopping() || state.limits.is_suspended() || state.processes.own().retires();
        if is_closed || accepting.backoff_deadline.is_some() {
            return Accept::NotAccepting;
        }
        let has_capacity = self.has_capacity();
        if !has_capacity || admission::refuses(state) {
            self.log_limit(accepting, true);
        }
        if has_capacity { self.accept_ready(accepting) } else { Accept::NotAccepting }
    }

    /// Takes up to `max` requests, for a thread beside the acceptor. Returns whether the server still
    /// accepts. If not, the acceptor has been woken and waits until it does.
    pub(crate) fn accept_each(&self, max: usize, mut serve: impl FnMut(Request)) -> bool {
        for _ in 0..max {
            match self.accept() {
                Accept::Request(request) => serve(request),
                Accept::Rejected => {}
                Accept::WouldBlock => return true,
                Accept::NotAccepting => {
                    self.state.wake_acceptor();
                    return false;
                }
            }
        }
        true
    }

    /// A stop begins: requests that are queued now are taken, later ones are not, because a stream of
    /// clients without end would keep the server from stopping. Calls after the first do nothing.
    pub(super) fn begin_drain(&self) {
        if let Some(queued) = self.accepting.lock().sources.begin_drain() {
            self.state.processes.begin_drain(queued);
        }
    }

    /// During a stop: takes a request that was in a backlog. Queues are FIFO, so that those that
    /// were there when the stop began come first.
    pub(super) fn accept_from_backlog(&self) -> Accept {
        self.accept_with(|accepting| {
            if !self.state.processes.take_queued() {
                return Accept::WouldBlock;
            }
            let mut accept = Accept::WouldBlock;
            while let Some(index) = accepting.sources.next_to_drain() {
                accept = self.accept_locked(accepting, index);
                match accept {
                    Accept::WouldBlock => accepting.sources.note_drained(index),
                    _ => break,
                }
            }
            if matches!(accept, Accept::WouldBlock | Accept::NotAccepting) {
                self.state.processes.put_back_queued();
            }
            accept
        })
    }

    fn accept_ready(&self, accepting: &mut AcceptState) -> Accept {
        match accepting.sources.next_ready(&self.ready) {
            Some(index) => self.accept_locked(accepting, index),
            None => Accept::WouldBlock,
        }
    }

    /// Accepts from the source of this index.
    pub(super) fn accept_locked(&self, accepting: &mut AcceptState, index: usize) -> Accept {
        let source = accepting.sources.source(index);
        let accepted = catch_panic(|| {
            let _reserved = self.reserve_descriptors(source)?;
            source.accept(&self.state)
        });
        let error = match accepted {
            Ok(task) => {
                accepting.backoff.after_success();
                accepting.consecutive_failures = 0;
                accepting.sources.note_taken(index);
                return match task.map(|task| admission::admit(task, &self.state)) {
                    Some(Ok(request)) => Accept::Request(request),
                    Some(Err((task, why))) => {
                        accepting.note(&self.state, || Untold::refused(&*task, why));
                        Accept::Rejected
                    }
                    None => Accept::Rejected,
                };
            }
            Err(error) => error,
        };
        match AcceptError::of(&error) {
            AcceptError::WouldBlock => return Accept::WouldBlock,
            AcceptError::OneConnection
                if accepting.consecutive_failures < MAX_CONSECUTIVE_FAILURES =>
            {
                log::debug!("accept: {error}");
                accepting.consecutive_failures += 1;
                return Accept::Rejected;
            }
            AcceptError::NotListening if accepting.sources.only().is_none() => {
                self.state.stats().accept_errors.add_one();
                let broken = accepting.sources.remove(index, &self.ready);
                log::error!("{}: accept: {error}; closed", broken.info.local_addr);
                return Accept::Rejected;
            }
            AcceptError::OneConnection | AcceptError::NotListening | AcceptError::System => {}
        }
        let info = source.info.clone();
        accepting.back_off(&error, &info.local_addr, &self.state);
        Accept::NotAccepting
    }

    /// Descriptors in place of those that the mixin takes for a request besides its connection: if
    /// there are none, the request stays in the backlog.
    fn reserve_descriptors(&self, source: &Source) -> io::Result<Vec<OwnedFd>> {
        let others = 1..self.state.settings.descriptors_per_request;
        others.map(|_| source.as_fd().try_clone_to_owned()).collect()
    }

    pub(super) fn set_backlog_pending(&self) {
        self.backlog_pending.store(true, Ordering::SeqCst);
    }

    pub(super) fn take_backlog_pending(&self) -> bool {
        self.backlog_pending.swap(false, Ordering::SeqCst)
    }

    /// Waits for a request on an idle thread. `None` when there are enough idle acceptors, the
    /// server stops or does not accept now, or no request came for the idle time.
    pub(crate) fn accept_idle(&self, idle_time: Duration) -> Option<Request> {
        let acceptor = self.idle.take(|| self.idle_waiter(idle_time))?;
        self.idle.register();
        let mut waiting = WaitGuard { listener: self, acceptor: Some(acceptor) };
        while waiting.acceptor.as_mut()?.wait() {
            let mut accepted = None;
            let accepting = self.accept_each(1, |request| accepted = Some(request));
            if let Some(request) = &accepted {
                self.pass_on_wake_up(request);
                if self.state.processes.has_more_than_others() {
                    self.requeue(&waiting.acceptor.as_ref()?.listener_waiter());
                }
            }
            if accepted.is_some() || !accepting {
                return accepted;
            }
        }
        None
    }

    /// No thread of this process is woken for a request any more.
    pub(super) fn stop_waiting(&self) {
        self.accepting.lock().sources.remove_waiters();
    }

    /// A thread that has taken a request, and is about to serve it, may have been woken for one of
    /// another source, which has woken no other thread then. Has them look.
    pub(super) fn pass_on_wake_up(&self, taken: &Request) {
        let source = taken.listener_id().into();
        if self.ready.get().is_some_and(|ready| ready.has_other(source)) {
            self.set_backlog_pending();
            self.state.wake_acceptor();
            self.state.processes.pass_on();
        }
    }

    /// Has the threads of other processes be woken before this one, which must not rely on it any more
    /// if that fails.
    pub(crate) fn requeue(&self, waiter: &ListenerWaiter) -> bool {
        self.accepting.lock().sources.requeue(waiter).is_ok()
    }

    /// Has a thread woken by the sources.
    pub(super) fn add_waiter(&self, waiter: &ListenerWaiter) -> io::Result<()> {
        self.accepting.lock().sources.add_waiter(waiter)
    }

    fn idle_waiter(&self, idle_time: Duration) -> io::Result<ExclusiveWaiter> {
        let waiter = ExclusiveWaiter::new(self.state.shutdown_signal(), idle_time)?;
        self.add_waiter(&waiter.listener_waiter())?;
        Ok(waiter)
    }

    /// The calling thread waits for the sources from now on.
    #[cfg(feature = "fibers")]
    pub(crate) fn register_waiter(&self, waiter: &ListenerWaiter) -> io::Result<()> {
        self.add_waiter(waiter)?;
        self.idle.register();
        Ok(())
    }

    /// The calling thread no longer waits for them.
    #[cfg(feature = "fibers")]
    pub(crate) fn unregister_waiter(&self, waiter: &ListenerWaiter) {
        self.accepting.lock().sources.remove_waiter(waiter);
        self.note_waiter_has_left();
    }

    /// If it was the last one that the acceptor relied on, the acceptor is woken to take over.
    fn note_waiter_has_left(&self) {
        if self.idle.unregister() {
            self.state.wake_acceptor();
        }
    }
}

/// Unregisters the waiter when it is dropped, also by a panic.
struct WaitGuard<'a> {
    listener: &'a Listener,
    acceptor: Option<IdleAcceptor>,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            self.listener.idle.put_back(acceptor);
            self.listener.note_waiter_has_left();
        }
    }
}

impl AcceptState {
    fn back_off(&mut self, error: &io::Error, address: &Address, state: &ServerState) {
        state.stats().accept_errors.add_one();
        if let Some(Change::Began) = self.failing.update(true, Instant::now) {
            log::error!("{address}: accept: {error}; trying again");
            self.note(state, || Untold::accept_fails(error));
        }
        self.finished_before_backoff = state.stats().finished.value();
        // None for a time that the clock cannot express.
        self.backoff_deadline = Instant::now().checked_add(self.backoff.after_failure());
        // Frees descriptors, as does the end of a request.
        state.rejected.clear();
        state.notify_on_release();
    }
}
