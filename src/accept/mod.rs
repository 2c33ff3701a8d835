//! Accepting: [`BaseServer`], which every mixin drives.
//!
//! ```text
//! next_request:     wait -> listener.rs: Transport::accept -> error.rs (which errors back off)
//!                   -> admission.rs (who may come in) -> state/registry.rs
//! Request::finish:  setup -> handle -> finish -> lingering close -> state/registry.rs
//! ```
//!
//! One thread at a time is the acceptor: it waits for the listeners, for a shutdown, for requests
//! that end, and for rejected connections. Idle threads of the pool and workers of fibers may
//! accept beside it (`idle.rs`); while they do, the acceptor leaves the listeners to them. It closes
//! those that are closed while the server goes on (`listening.rs`).

mod admission;
mod episode;
mod error;
mod idle;
mod listener;
mod listening;
mod source;
mod sources;
mod untold;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Result;
use crate::hand_over::TakenOver;
use crate::id::ListenerId;
use crate::request::{Request, panic_message};
use crate::state::{Listening, ProcessSignals, ServerHandle, ServerState};
use crate::sys::poll::{Interest, poll};
use crate::sys::poller::{ExclusivePoller, ReadySet};
use listener::Accept;

pub(crate) use listener::Listener;
pub(crate) use source::prepare;

/// The listening half of a server, for a [`Mixin`](crate::extend::Mixin) to ask for requests.
///
/// [`next_request`](BaseServer::next_request) waits for a request, keeps every contract of accepting
/// (errors, limits, stopping), and returns it as a [`Request`], whose
/// [`finish`](Request::finish) keeps every contract of serving and closing. On which thread, process
/// or fiber each of the two happens is the mixin's choice.
pub struct BaseServer {
    listener: Arc<Listener>,
    /// Locked by the thread that is the acceptor.
    acceptor: Mutex<Acceptor>,
    /// The listeners are still those of a predecessor.
    taken_over: Mutex<Option<TakenOver>>,
}

/// What [`BaseServer::next_request`] returned for.
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub enum NextRequest {
    /// A request was admitted.
    Request(Request),
    /// The mixin's own descriptor is readable.
    Ready,
    /// The deadline has passed.
    TimedOut,
    /// The server is stopping, and its backlog is empty; or this process, one of several, is to end.
    ShutDown,
}

impl BaseServer {
    pub(crate) fn new(
        listener: Listener,
        actions: Vec<ServiceActions>,
        taken_over: Option<TakenOver>,
    ) -> BaseServer {
        let acceptor = Acceptor { spin_until: None, actions, exclusive: None };
        let listener = Arc::new(listener);
        let listening: Arc<dyn Listening> = listener.clone();
        listener.state.set_listening(Arc::downgrade(&listening));
        let (acceptor, taken_over) = (Mutex::new(acceptor), Mutex::new(taken_over));
        BaseServer { listener, acceptor, taken_over }
    }

    /// A handle on this server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.state().clone())
    }

    pub(crate) fn state(&self) -> &Arc<ServerState> {
        &self.listener.state
    }

    /// Has a predecessor stop, if there is one: this server serves from now on. Calls after the first
    /// do nothing.
    ///
    /// # Errors
    /// [`Error::HandOver`](crate::Error::HandOver): the predecessor goes on.
    pub(crate) fn take_over(&self) -> Result<()> {
        let Some(taken_over) = self.taken_over.lock().take() else { return Ok(()) };
        taken_over.ready()?;
        self.listener.set_owner(true);
        Ok(())
    }

    /// For threads that accept beside the acceptor.
    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Waits for the next request: [`NextRequest::Request`] or [`NextRequest::ShutDown`].
    ///
    /// Any number of threads may call this at a time. One of them is the acceptor, and the others
    /// wait to be.
    pub fn next_request(&self) -> NextRequest {
        self.next_request_or_ready(None, None)
    }

    /// Waits for the next request until `deadline`, or until `fd` is readable. If a request and `fd`
    /// are both ready, [`NextRequest::Ready`] is returned first. `None`: no deadline, no descriptor.
    pub fn next_request_or_ready(
        &self,
        deadline: Option<Instant>,
        fd: Option<BorrowedFd<'_>>,
    ) -> NextRequest {
        let acceptor = match deadline {
            None => Some(self.acceptor.lock()),
            Some(deadline) => self.acceptor.try_lock_until(deadline),
        };
        let Some(mut acceptor) = acceptor else { return NextRequest::TimedOut };
        loop {
            acceptor.run_service_actions();
            // Read once: a stop that is asked for from here on wakes the poll(2).
            let stopping = self.state().is_stopping();
            let next = match stopping {
                false if self.state().processes.own().retires() => self.retire(&mut acceptor),
                false => acceptor.try_again(&self.listener).or_else(|| self.close_listeners()),
                true if self.leaves_backlog() => Some(NextRequest::ShutDown),
                true => self.drain_backlog(),
            };
            if let Some(next) = next {
                return next;
            }
            if let Some(next) = self.wait_and_accept(&mut acceptor, stopping, deadline, fd) {
                return next;
            }
        }
    }

    /// Whether what is in the backlog is another process's to serve.
    fn leaves_backlog(&self) -> bool {
        let processes = &self.state().processes;
        processes.is_handed_over() || processes.leaves_backlog()
    }

    /// One step of a stop: takes a request that was in the backlog when the stop began. `None`: it
    /// can be taken later, when a request has ended.
    fn drain_backlog(&self) -> Option<NextRequest> {
        let (listener, state) = (&*self.listener, self.state());
        state.begin_stop();
        state.tell_stop();
        listener.begin_drain();
        if Instant::now() >= state.schedule().force {
            return Some(NextRequest::ShutDown);
        }
        while listener.has_capacity() && listener.backoff_deadline().is_none() {
            // Asked before the attempt: what is freed in between lets the attempt succeed.
            let can_recover = state.registry.may_free_descriptors();
            match listener.accept_from_backlog() {
                Accept::Request(request) => return Some(NextRequest::Request(request)),
                Accept::Rejected => {}
                Accept::NotAccepting if can_recover => break,
                Accept::WouldBlock | Accept::NotAccepting => return Some(NextRequest::ShutDown),
            }
        }
        None
    }

    /// This process accepts no more requests, and ends when those that it serves have ended. Another
    /// process takes its place.
    fn retire(&self, acceptor: &mut Acceptor) -> Option<NextRequest> {
        let state = self.state();
        acceptor.exclusive = None;
        self.listener.stop_waiting();
        if !state.processes.leaves_backlog() {
            state.begin_stop();
            return None;
        }
        state.notify_on_release();
        let is_idle = state.registry.len() == 0 && state.rejected.streams().is_empty();
        is_idle.then_some(NextRequest::ShutDown)
    }

    /// Closes the listeners that are to be closed. Returns a request that was in the backlog of one.
    fn close_listeners(&self) -> Option<NextRequest> {
        let listener = &*self.listener;
        while listener.has_closing.load(Ordering::SeqCst)
            && listener.has_capacity()
            && listener.backoff_deadline().is_none()
        {
            if let Accept::Request(request) = listener.accept_from_closing() {
                return Some(NextRequest::Request(request));
            }
        }
        None
    }

    /// Sleeps until there is something to do, and does it. `None`: there is no result yet.
    fn wait_and_accept(
        &self,
        acceptor: &mut Acceptor,
        stopping: bool,
        deadline: Option<Instant>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Option<NextRequest> {
        let (listener, state) = (&*self.listener, self.state());
        let wakeups = self.poll(acceptor, stopping, deadline, fd)?;
        if wakeups.shutdown {
            state.begin_stop();
            return None;
        }
        if wakeups.waker {
            state.acceptor_waker().clear();
            listener.end_backoff_after_release();
            if state.processes.is_child() {
                // Another process may have passed a connection on.
                listener.set_backlog_pending();
            }
        }
        state.rejected.poll();
        state.tell_folded(false);
        if wakeups.fd {
            return Some(NextRequest::Ready);
        }
        // The clock is read where it is needed: for most requests it is not.
        listener.end_backoff_in_time();
        if wakeups.listener
            && let Accept::Request(request) = listener.accept()
        {
            acceptor.spin_until = listener.is_cheap_to_try().then(|| Instant::now() + SPIN_WINDOW);
            if let Some(poller) = &acceptor.exclusive {
                listener.pass_on_wake_up(&request);
                if state.processes.has_more_than_others()
                    && !listener.requeue(&poller.listener_waiter())
                {
                    acceptor.exclusive = None;
                }
            }
            return Some(NextRequest::Request(request));
        }
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        is_over.then_some(NextRequest::TimedOut)
    }

    /// `None` when poll(2) itself has failed.
    fn poll(
        &self,
        acceptor: &mut Acceptor,
        stopping: bool,
        deadline: Option<Instant>,
        fd: Option<BorrowedFd<'_>>,
    ) -> Option<Wakeups> {
        let (listener, state) = (&*self.listener, self.state());
        let (backoff, only_source) = listener.waits_for();
        let has_capacity = listener.has_capacity();
        let is_open = has_capacity
            && backoff.is_none()
            && !state.limits.is_suspended()
            && (stopping || !state.processes.own().retires());
        let episode_deadline = if stopping { None } else { listener.log_episodes(has_capacity) };
        // The wake-up for a connection may have been consumed while the server did not accept: then
        // this call only looks, without sleeping.
        let look = is_open && listener.take_backlog_pending();
        let listens = is_open && (stopping || look || !listener.idle.has_waiters());
        let rejected = state.rejected.streams();
        let wake_up = [
            deadline,
            backoff,
            acceptor.actions.iter().filter_map(|actions| actions.next).min(),
            episode_deadline,
            stopping.then(|| state.schedule().force),
            state.rejected.next_deadline(),
            state.folded_deadline(),
            look.then(Instant::now),
        ];
        let wake_up = wake_up.into_iter().flatten().min();
        let listens_only = listens && !stopping && !look && fd.is_none() && rejected.is_empty();
        let exclusive = if listens_only { acceptor.exclusive(listener) } else { None };
        let several = if listens && only_source.is_none() { listener.ready.get() } else { None };
        // Without a descriptor for all of them.
        let each = several.map(ReadySet::listeners).unwrap_or_default();
        let ready = match exclusive {
            Some(poller) => {
                let [pending, shutdown, waker] = poller.wait_until(wake_up);
                Ok([shutdown, waker, false, pending])
            }
            None => poll(
                [
                    (!stopping).then(|| state.shutdown_signal()),
                    Some(state.acceptor_waker().as_fd()),
                    fd,
                    match &only_source {
                        Some(only) if listens => Some(only.as_fd()),
                        _ => several.and_then(ReadySet::descriptor),
                    },
                ]
                .map(|fd| fd.map(|fd| (fd, Interest::Read))),
                rejected
                    .iter()
                    .filter_map(|stream| stream.inner().as_fd())
                    .chain(each.iter().map(|listener| listener.as_fd())),
                wake_up,
            )
            .map(|[shutdown, waker, fd, pending]| {
                let pending =
                    pending || !each.is_empty() && several.is_some_and(ReadySet::is_ready);
                [shutdown, waker, fd, pending]
            }),
        };
        match ready {
            Ok([shutdown, waker, fd, pending]) => {
                if look && pending {
                    // Not the last one, perhaps, and the caller may return before it accepts.
                    listener.set_backlog_pending();
                }
                Some(Wakeups { shutdown, waker, fd, listener: pending })
            }
            Err(error) => {
                // Out of memory: there is no event to wait for.
                listener.set_backlog_pending();
                listener.back_off(&error);
                std::thread::sleep(Duration::from_millis(10));
                None
            }
        }
    }

    /// In a child that was just forked, which accepts beside its parent; see
    /// [`ServerState::become_child`].
    pub(crate) fn become_child(&self, index: usize, signals: &ProcessSignals) -> io::Result<()> {
        self.state().become_child(index, signals)?;
        self.listener.become_child()
    }

    /// Calls `release` with the descriptors that a forked child must not hold. `kept` is the listener
    /// whose socket its request needs.
    pub(crate) fn release_inherited(
        &self,
        kept: Option<ListenerId>,
        release: impl FnMut(BorrowedFd<'_>),
    ) {
        self.listener.release_inherited(kept, release);
    }
}

/// What [`BaseServer::poll`] returned for.
struct Wakeups {
    shutdown: bool,
    waker: bool,
    fd: bool,
    listener: bool,
}

/// What the acceptor keeps from one request to the next.
struct Acceptor {
    /// Until then the listener is tried without a poll(2) before it.
    spin_until: Option<Instant>,
    actions: Vec<ServiceActions>,
    /// In a process that accepts beside others.
    exclusive: Option<ExclusivePoller>,
}

/// For how long datagrams are taken without a poll(2) before each. A signal is noticed only by a
/// poll, and so at most this late.
const SPIN_WINDOW: Duration = Duration::from_millis(1);

impl Acceptor {
    /// Takes another request within the spin window.
    fn try_again(&mut self, listener: &Listener) -> Option<NextRequest> {
        let spin_until = self.spin_until.take()?;
        if Instant::now() < spin_until
            && let Accept::Request(request) = listener.accept()
        {
            self.spin_until = Some(spin_until);
            return Some(NextRequest::Request(request));
        }
        None
    }

    /// How to wait for the listener if other processes wait for it too: so that a connection wakes one
    /// of them. `None` if there are no others, and without a descriptor for it.
    fn exclusive(&mut self, listener: &Listener) -> Option<&ExclusivePoller> {
        let state = &listener.state;
        if self.exclusive.is_none() && state.processes.is_child() {
            let others = [state.shutdown_signal(), state.acceptor_waker().as_fd()];
            self.exclusive = ExclusivePoller::new(others)
                .and_then(|poller| listener.add_waiter(&poller.listener_waiter()).map(|()| poller))
                .ok();
        }
        self.exclusive.as_ref()
    }

    fn run_service_actions(&mut self) {
        for actions in &mut self.actions {
            if actions.next.is_none_or(|next| Instant::now() < next) {
                continue;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (actions.call)())) {
                log::error!("service_actions panicked: {}", panic_message(&*panic));
            }
            actions.next = after(actions.interval);
        }
    }
}

/// [`Builder::service_actions`](crate::Builder::service_actions): a call at every interval.
pub(crate) struct ServiceActions {
    interval: Duration,
    call: Box<dyn FnMut() + Send>,
    next: Option<Instant>,
}

impl ServiceActions {
    pub(crate) fn new(interval: Duration, call: impl FnMut() + Send + 'static) -> ServiceActions {
        ServiceActions { interval, call: Box::new(call), next: after(interval) }
    }
}

/// `None` for a time that the clock cannot express.
fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

impl AsFd for BaseServer {
    /// Readable when a listener has something. It stays the same descriptor while listeners come and
    /// go.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl std::fmt::Debug for BaseServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseServer({})", self.state().local_addr())
    }
}
