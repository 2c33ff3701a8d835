//! [`BaseServer`]: what every mixin drives.
//!
//! ```text
//! next_request:  wait -> listener.rs: Transport::accept -> accept.rs (which errors wait)
//!                -> admission.rs (who may come in) -> registry.rs (who is here)
//! Request::finish:  setup -> handle -> finish -> lingering close -> registry.rs (place free)
//! ```

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::Control;
use crate::handle::ServerHandle;
use crate::listener::{Accepted, Listener};
use crate::request::Request;
use crate::run::panic_message;
use crate::sys::wait::{Interest, poll};

/// The listening half of a server, for a [`Mixin`](crate::Mixin) to ask for requests.
///
/// [`next_request`](BaseServer::next_request) waits for one, keeps every contract of accepting
/// (errors, limits, stopping), and hands it out as a [`Request`], whose
/// [`finish`](Request::finish) keeps every contract of serving and ending. On which thread, process
/// or fiber each of the two happens is the mixin's choice.
pub struct BaseServer {
    listener: Arc<Listener>,
    /// Held by the one thread that waits for a request.
    turn: Mutex<Turn>,
}

/// What [`BaseServer::next_request`] came back with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Next {
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
pub(crate) struct Actions {
    pub(crate) interval: Duration,
    pub(crate) call: Box<dyn FnMut() + Send>,
}

struct Turn {
    /// Until then the listener may be tried without waiting for it first.
    try_until: Option<Instant>,
    actions: Option<Actions>,
    next_actions: Option<Instant>,
}

/// For how long requests are taken without a look at anything else: a signal, which only shows when
/// it is waited for, is noticed that late.
const TRY_TIME: Duration = Duration::from_millis(1);

impl BaseServer {
    pub(crate) fn new(listener: Listener, actions: Option<Actions>) -> BaseServer {
        let next_actions = actions.as_ref().and_then(|actions| after(actions.interval));
        let turn = Turn { try_until: None, actions, next_actions };
        BaseServer { listener: Arc::new(listener), turn: Mutex::new(turn) }
    }

    /// A handle on this server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.control().clone())
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.listener.control
    }

    /// For threads that watch it beside the one that waits for a request.
    pub(crate) fn listener(&self) -> &Arc<Listener> {
        &self.listener
    }

    /// Waits for the next request: [`Next::Request`] or [`Next::ShutDown`].
    ///
    /// Any number of threads may call this at a time; one of them waits at the listener, the
    /// others for their turn.
    pub fn next_request(&self) -> Next {
        self.next_request_or(None, None)
    }

    /// Waits for the next request, but not longer than `until`, and no longer than until `also`
    /// is readable. A request that can be taken when `also` is readable comes after that.
    pub fn next_request_or(&self, until: Option<Instant>, also: Option<BorrowedFd<'_>>) -> Next {
        let turn = match until {
            None => Some(self.turn.lock()),
            Some(until) => self.turn.try_lock_until(until),
        };
        let Some(mut turn) = turn else { return Next::TimedOut };
        let (listener, control) = (&*self.listener, self.control());
        loop {
            turn.act();
            let stopping = control.is_stopping();
            if stopping {
                control.begin_stop();
            }
            if let Some(until) = turn.try_until.take()
                && !stopping
                && Instant::now() < until
                && let Accepted::Request(request) = listener.accept()
            {
                turn.try_until = Some(until);
                return Next::Request(request);
            }
            let (room, pause) = (listener.has_room(), listener.pause());
            if stopping && room && pause.is_none() {
                // Whoever is still here may give back what the system is short of.
                let is_hopeless = control.registry.len() == 0;
                match listener.accept_from_backlog() {
                    Accepted::Request(request) => return Next::Request(request),
                    Accepted::Another => continue,
                    Accepted::Closed if !is_hopeless => {}
                    Accepted::Nobody | Accepted::Closed => return Next::ShutDown,
                }
            }
            let forced = stopping.then(|| control.deadline().force);
            if forced.is_some_and(|force| Instant::now() >= force) {
                return Next::ShutDown;
            }

            let is_open = room && pause.is_none() && !control.gate.is_suspended();
            let looks = is_open && listener.take_left_outside();
            let listen = is_open && (stopping || looks || !listener.watch.can_be_relied_on());
            let at_once = looks.then(Instant::now);
            let farewells = &control.farewells;
            let wake_up =
                [until, listener.pause(), turn.next_actions, forced, farewells.until(), at_once];
            let leaving = farewells.links();
            let ready = poll(
                [
                    (!stopping).then(|| control.stop_signal()),
                    Some(control.bell().as_fd()),
                    also,
                    listen.then(|| listener.as_fd()),
                ]
                .map(|fd| fd.map(|fd| (fd, Interest::Read))),
                leaving.iter().filter_map(|link| link.stream().as_fd()),
                wake_up.into_iter().flatten().min(),
            );
            let [stop, bell, also, somebody] = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    listener.leave_outside();
                    // Waiting itself has failed, for want of memory: there is no event to await.
                    listener.pause_after(&error);
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            if looks && somebody {
                // There may be more of them, and something else may come first.
                listener.leave_outside();
            }
            if stop {
                control.begin_stop();
                continue;
            }
            if bell {
                // Somebody has left: there may be room now, and a descriptor.
                control.bell().silence();
                listener.end_pause();
            }
            if !leaving.is_empty() {
                farewells.tend();
            }
            if also {
                return Next::Ready;
            }
            let now = Instant::now();
            listener.end_pause_by(now);
            if somebody && let Accepted::Request(request) = listener.accept() {
                turn.try_until = listener.is_cheap_to_try().then(|| now + TRY_TIME);
                return Next::Request(request);
            }
            if until.is_some_and(|until| now >= until) {
                return Next::TimedOut;
            }
        }
    }

    /// The descriptors that a forked child has no business with.
    pub(crate) fn inherited(&self) -> [BorrowedFd<'_>; 2] {
        [self.listener.as_fd(), self.control().bell().as_fd()]
    }
}

impl Turn {
    fn act(&mut self) {
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
        write!(f, "BaseServer({})", self.control().local_addr)
    }
}
