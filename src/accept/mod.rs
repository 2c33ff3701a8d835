//! [`BaseServer`]: what every mixin drives.
//!
//! ```text
//! next_request:  wait -> listener.rs: Transport::accept -> accept.rs (which errors wait)
//!                -> admission.rs (who may come in) -> registry.rs (who is here)
//! Request::finish:  setup -> handle -> finish -> lingering close -> registry.rs (place free)
//! ```

mod admission;
mod error;
mod idle;
pub(crate) mod listener;

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::request::Request;
use crate::request::lifecycle::panic_message;
use crate::state::ServerHandle;
use crate::state::ServerState;
use crate::sys::poll::{Interest, poll};
use listener::{Accept, Listener};

/// The listening half of a server, for a [`Mixin`](crate::Mixin) to ask for requests.
///
/// [`next_request`](BaseServer::next_request) waits for one, keeps every contract of accepting
/// (errors, limits, stopping), and hands it out as a [`Request`], whose
/// [`finish`](Request::finish) keeps every contract of serving and ending. On which thread, process
/// or fiber each of the two happens is the mixin's choice.
pub struct BaseServer {
    listener: Arc<Listener>,
    /// Held by the one thread that waits for a request.
    acceptor: Mutex<AcceptorState>,
}

/// What [`BaseServer::next_request`] came back with.
#[derive(Debug)]
#[non_exhaustive]
pub enum NextRequest {
    /// A request was admitted.
    Request(Request),
    /// The mixin's own descriptor is readable.
    Ready,
    /// None came in time.
    TimedOut,
    /// The server is stopping, and there is nothing left in the backlog.
    ShutDown,
}

/// Something to do now and then: `Builder::service_actions`.
pub(crate) struct ServiceActions {
    pub(crate) interval: Duration,
    pub(crate) call: Box<dyn FnMut() + Send>,
}

struct AcceptorState {
    /// Until then the listener may be tried without waiting for it first.
    spin_until: Option<Instant>,
    actions: Option<ServiceActions>,
    next_actions: Option<Instant>,
}

/// For how long requests are taken without a look at anything else: a signal, which only shows when
/// it is waited for, is noticed that late.
const SPIN_WINDOW: Duration = Duration::from_millis(1);

impl BaseServer {
    pub(crate) fn new(listener: Listener, actions: Option<ServiceActions>) -> BaseServer {
        let next_actions = actions.as_ref().and_then(|actions| after(actions.interval));
        let acceptor = AcceptorState { spin_until: None, actions, next_actions };
        BaseServer { listener: Arc::new(listener), acceptor: Mutex::new(acceptor) }
    }

    /// A handle on this server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.state().clone())
    }

    pub(crate) fn state(&self) -> &Arc<ServerState> {
        &self.listener.state
    }

    /// For threads that watch it beside the one that waits for a request.
    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Waits for the next request: [`NextRequest::Request`] or [`NextRequest::ShutDown`].
    ///
    /// Any number of threads may call this at a time; one of them waits at the listener, the
    /// others for their turn.
    pub fn next_request(&self) -> NextRequest {
        self.next_request_or_ready(None, None)
    }

    /// Waits for the next request, but not longer than `deadline`, and no longer than until `other`
    /// is readable. A request that can be taken when `other` is readable comes after that.
    pub fn next_request_or_ready(
        &self,
        deadline: Option<Instant>,
        other: Option<BorrowedFd<'_>>,
    ) -> NextRequest {
        let acceptor = match deadline {
            None => Some(self.acceptor.lock()),
            Some(deadline) => self.acceptor.try_lock_until(deadline),
        };
        let Some(mut acceptor) = acceptor else { return NextRequest::TimedOut };
        let (listener, state) = (&*self.listener, self.state());
        loop {
            acceptor.run_service_actions();
            let stopping = state.is_stopping();
            if stopping {
                state.begin_stop();
            }
            if let Some(deadline) = acceptor.spin_until.take()
                && !stopping
                && Instant::now() < deadline
                && let Accept::Request(request) = listener.accept()
            {
                acceptor.spin_until = Some(deadline);
                return NextRequest::Request(request);
            }
            let (room, pause) = (listener.has_capacity(), listener.pause());
            if stopping && room && pause.is_none() {
                // Whoever is still here may give back what the system is short of.
                let is_hopeless = state.registry.len() == 0;
                match listener.accept_from_backlog() {
                    Accept::Request(request) => return NextRequest::Request(request),
                    Accept::Rejected => continue,
                    Accept::NotAccepting if !is_hopeless => {}
                    Accept::WouldBlock | Accept::NotAccepting => return NextRequest::ShutDown,
                }
            }
            let force = stopping.then(|| state.schedule().force);
            if force.is_some_and(|force| Instant::now() >= force) {
                return NextRequest::ShutDown;
            }

            let is_open = room && pause.is_none() && !state.limits.is_suspended();
            let retry_pending = is_open && listener.take_backlog_pending();
            let listen = is_open && (stopping || retry_pending || !listener.idle.has_waiters());
            let at_once = retry_pending.then(Instant::now);
            let rejected = &state.rejected;
            let wake_up = [
                deadline,
                listener.pause(),
                acceptor.next_actions,
                force,
                rejected.deadline(),
                at_once,
            ];
            let rejected_streams = rejected.streams();
            let ready = poll(
                [
                    (!stopping).then(|| state.shutdown_signal()),
                    Some(state.waker().as_fd()),
                    other,
                    listen.then(|| listener.as_fd()),
                ]
                .map(|fd| fd.map(|fd| (fd, Interest::Read))),
                rejected_streams.iter().filter_map(|stream| stream.inner().as_fd()),
                wake_up.into_iter().flatten().min(),
            );
            let [stop, waker, other, connection_pending] = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    listener.set_backlog_pending();
                    // Waiting itself has failed, for want of memory: there is no event to await.
                    listener.back_off(&error);
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            if retry_pending && connection_pending {
                // There may be more of them, and something else may come first.
                listener.set_backlog_pending();
            }
            if stop {
                state.begin_stop();
                continue;
            }
            if waker {
                // Somebody has left: there may be room now, and a descriptor.
                state.waker().clear();
                listener.end_pause();
            }
            if !rejected_streams.is_empty() {
                rejected.poll();
            }
            if other {
                return NextRequest::Ready;
            }
            let now = Instant::now();
            listener.end_pause_by(now);
            if connection_pending && let Accept::Request(request) = listener.accept() {
                acceptor.spin_until = listener.is_cheap_to_try().then(|| now + SPIN_WINDOW);
                return NextRequest::Request(request);
            }
            if deadline.is_some_and(|deadline| now >= deadline) {
                return NextRequest::TimedOut;
            }
        }
    }

    /// The descriptors that a forked child has no business with.
    pub(crate) fn inherited(&self) -> [BorrowedFd<'_>; 2] {
        [self.listener.as_fd(), self.state().waker().as_fd()]
    }
}

impl AcceptorState {
    fn run_service_actions(&mut self) {
        let Some(actions) = &mut self.actions else { return };
        if self.next_actions.is_none_or(|next| Instant::now() < next) {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (actions.call)())) {
            log::error!("service_actions panicked: {}", panic_message(&*panic));
        }
        self.next_actions = after(actions.interval);
    }
}

/// `None` for a time so far off that the clock cannot express it.
fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

impl AsFd for BaseServer {
    /// The listener.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl std::fmt::Debug for BaseServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseServer({})", self.state().local_addr)
    }
}
