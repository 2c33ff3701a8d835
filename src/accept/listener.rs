//! [`Listener`]: takes one request at a time from the transport, without waiting.
//!
//! Every accept is here: the acceptor's ([`accept`](Listener::accept), and during a stop
//! [`accept_from_backlog`](Listener::accept_from_backlog)), the workers of fibers
//! ([`accept_each`](Listener::accept_each)) and idle threads
//! ([`accept_idle`](Listener::accept_idle)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::admission;
use super::episode::{Change, Episode};
use super::error::{AcceptError, Backoff};
use super::idle::{IdleAcceptor, IdleAcceptors};
use crate::request::{Request, RequestHandler, RequestTask, panic_message, sealed};
use crate::state::ServerState;
use crate::transport::Transport;

pub(crate) struct Listener {
    source: Box<dyn TaskSource>,
    pub(crate) state: Arc<ServerState>,
    mixin_limit: usize,
    /// One thread at a time accepts, so that a request that was admitted still has its place.
    accepting: Mutex<AcceptState>,
    /// A connection may be pending whose wake-up was consumed while the server did not accept.
    backlog_pending: AtomicBool,
    pub(super) idle: IdleAcceptors,
}

struct AcceptState {
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
    /// During a stop: how many requests are left to take, of those that waited when it began. `None`
    /// before that.
    left_to_drain: Option<usize>,
}

/// A transport with its handler, of either kind.
trait TaskSource: AsFd + Send + Sync {
    fn is_cheap_to_try(&self) -> bool;
    fn accept(&self, state: &Arc<ServerState>) -> io::Result<Option<Box<dyn RequestTask>>>;
    fn max_queued(&self) -> Option<usize>;
    fn handler(&self) -> Box<dyn Send + Sync>;
}

struct TransportWithHandler<T: Transport> {
    transport: T,
    handler: Arc<T::Handler>,
}

impl<T: Transport> AsFd for TransportWithHandler<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl<T: Transport> TaskSource for TransportWithHandler<T> {
    fn is_cheap_to_try(&self) -> bool {
        <T::Handler as sealed::RequestHandler>::IS_CHEAP_TO_TRY
    }

    fn accept(&self, state: &Arc<ServerState>) -> io::Result<Option<Box<dyn RequestTask>>> {
        let incoming = self.transport.accept(&state.settings.transport)?;
        Ok(<T::Handler as sealed::RequestHandler>::task(&self.handler, incoming, state))
    }

    fn max_queued(&self) -> Option<usize> {
        self.transport.max_queued()
    }

    fn handler(&self) -> Box<dyn Send + Sync> {
        Box::new(self.handler.clone())
    }
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
        handler: Arc<T::Handler>,
        state: Arc<ServerState>,
        mixin_limit: usize,
    ) -> Listener
    where
        T::Handler: RequestHandler,
    {
        let accepting = AcceptState {
            backoff: Backoff::default(),
            backoff_deadline: None,
            finished_before_backoff: 0,
            consecutive_failures: 0,
            full: Episode::default(),
            failing: Episode::default(),
            left_to_drain: None,
        };
        Listener {
            source: Box::new(TransportWithHandler { transport, handler }),
            state,
            mixin_limit: mixin_limit.max(1),
            accepting: Mutex::new(accepting),
            backlog_pending: AtomicBool::new(false),
            idle: IdleAcceptors::default(),
        }
    }

    /// Keeps the handler alive while it is held.
    pub(crate) fn handler(&self) -> Box<dyn Send + Sync> {
        self.source.handler()
    }

    /// Whether an accept that finds nothing costs less than a poll(2).
    pub(super) fn is_cheap_to_try(&self) -> bool {
        self.source.is_cheap_to_try()
    }

    /// Whether one more request may be accepted. If not, the acceptor is woken when that may have
    /// changed.
    pub(super) fn has_capacity(&self) -> bool {
        admission::has_capacity(&self.state, self.mixin_limit)
    }

    /// Until when the listener is left alone after an error of the system.
    pub(super) fn backoff_deadline(&self) -> Option<Instant> {
        self.accepting.lock().backoff_deadline
    }

    /// Says in the log when a limit is no longer reached, and when accept works again. Returns when
    /// to look at it next.
    pub(super) fn log_episodes(&self, has_capacity: bool) -> Option<Instant> {
        let mut accepting = self.accepting.lock();
        let is_full = !has_capacity || admission::refuses(&self.state);
        self.log_limit(&mut accepting.full, is_full);
        if let Some(Change::Ended(time)) = accepting.failing.update(false, Instant::now) {
            log::warn!("{}: accept works again, after {time:.1?}", self.state.local_addr);
        }
        [accepting.full.deadline(), accepting.failing.deadline()].into_iter().flatten().min()
    }

    fn log_limit(&self, full: &mut Episode, is_full: bool) {
        let address = &self.state.local_addr;
        match full.update(is_full, Instant::now) {
            None => {}
            Some(Change::Began) => {
                log::warn!("{address}: {}", admission::limit(&self.state, self.mixin_limit));
            }
            Some(Change::Ended(time)) => {
                log::warn!("{address}: below the limit again, after {time:.1?}");
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

    pub(super) fn end_backoff_by(&self, now: Instant) {
        let mut accepting = self.accepting.lock();
        accepting.backoff_deadline = accepting.backoff_deadline.filter(|deadline| *deadline > now);
    }

    pub(super) fn back_off(&self, error: &io::Error) {
        self.accepting.lock().back_off(error, &self.state);
    }

    /// Takes a request, if the server accepts now.
    pub(super) fn accept(&self) -> Accept {
        let mut accepting = self.accepting.lock();
        let state = &self.state;
        let is_closed = state.is_stopping() || state.limits.is_suspended();
        let accept = if is_closed || accepting.backoff_deadline.is_some() {
            Accept::NotAccepting
        } else {
            let has_capacity = self.has_capacity();
            if !has_capacity || admission::refuses(state) {
                self.log_limit(&mut accepting.full, true);
            }
            if has_capacity { self.accept_locked(&mut accepting) } else { Accept::NotAccepting }
        };
        drop(accepting);
        if matches!(accept, Accept::NotAccepting) {
            self.set_backlog_pending();
        }
        accept
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
        let mut accepting = self.accepting.lock();
        if accepting.left_to_drain.is_none() {
            // A user's transport may panic.
            let max_queued = catch_unwind(AssertUnwindSafe(|| self.source.max_queued()));
            accepting.left_to_drain = Some(max_queued.ok().flatten().unwrap_or(usize::MAX));
        }
    }

    /// During a stop: takes a request that was in the backlog. Queues are FIFO, so that those that
    /// were there when the stop began come first.
    pub(super) fn accept_from_backlog(&self) -> Accept {
        let mut accepting = self.accepting.lock();
        match accepting.left_to_drain {
            Some(0) => Accept::WouldBlock,
            _ => self.accept_locked(&mut accepting),
        }
    }

    fn accept_locked(&self, accepting: &mut AcceptState) -> Accept {
        // A user's transport may panic.
        let accepted = catch_unwind(AssertUnwindSafe(|| {
            let _reserved = self.reserve_descriptors()?;
            self.source.accept(&self.state)
        }));
        let accepted = accepted.unwrap_or_else(|panic| {
            Err(io::Error::other(format!("the transport panicked: {}", panic_message(&*panic))))
        });
        let error = match accepted {
            Ok(task) => {
                accepting.backoff.after_success();
                accepting.consecutive_failures = 0;
                if let Some(left) = &mut accepting.left_to_drain {
                    *left = left.saturating_sub(1);
                }
                let request = task.and_then(|task| admission::admit(task, &self.state));
                return request.map_or(Accept::Rejected, Accept::Request);
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
            AcceptError::OneConnection | AcceptError::System => {}
        }
        accepting.back_off(&error, &self.state);
        Accept::NotAccepting
    }

    /// Descriptors in place of those that the mixin takes for a request besides its connection: if
    /// there are none, the request stays in the backlog.
    fn reserve_descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let others = 1..self.state.settings.descriptors_per_request;
        others.map(|_| self.as_fd().try_clone_to_owned()).collect()
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
        let acceptor = self.idle.take(self.as_fd(), self.state.shutdown_signal(), idle_time)?;
        self.register_waiter();
        let mut waiting = WaitGuard { listener: self, acceptor: Some(acceptor) };
        while waiting.acceptor.as_mut()?.wait() {
            let mut accepted = None;
            let accepting = self.accept_each(1, |request| accepted = Some(request));
            if accepted.is_some() || !accepting {
                return accepted;
            }
        }
        None
    }

    /// The calling thread waits for the listener from now on.
    pub(crate) fn register_waiter(&self) {
        self.idle.register();
    }

    /// The calling thread no longer waits for the listener. If it was the last one that the acceptor
    /// relied on, the acceptor is woken to take over.
    pub(crate) fn unregister_waiter(&self) {
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
            self.listener.unregister_waiter();
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl AcceptState {
    fn back_off(&mut self, error: &io::Error, state: &ServerState) {
        state.stats().accept_errors.add_one();
        if let Some(Change::Began) = self.failing.update(true, Instant::now) {
            log::error!("{}: accept: {error}; trying again", state.local_addr);
        }
        self.finished_before_backoff = state.stats().finished.value();
        // None for a time that the clock cannot express.
        self.backoff_deadline = Instant::now().checked_add(self.backoff.after_failure());
        // Frees descriptors, as does the end of a request.
        state.rejected.clear();
        state.notify_on_release();
    }
}
