//! [`BaseServer`]: what every mixin drives.
//!
//! ```text
//! next_request:  wait -> Transport::accept -> accept.rs (which errors wait)
//!                -> admission.rs (who may come in) -> registry.rs (who is here)
//! Request::finish:  setup -> handle -> finish -> lingering close -> registry.rs (place free)
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::accept::{AcceptError, Backoff};
use crate::admission;
use crate::control::Control;
use crate::handle::ServerHandle;
use crate::request::{Request, RequestHandler, sealed};
use crate::run::{Work, panic_message};
use crate::sys::wait::{Interest, poll};
use crate::transport::Transport;

/// The listening half of a server, for a [`Mixin`](crate::Mixin) to ask for requests.
///
/// [`next_request`](BaseServer::next_request) waits for one, keeps every contract of accepting
/// (errors, limits, stopping), and hands it out as a [`Request`], whose
/// [`finish`](Request::finish) keeps every contract of serving and ending. On which thread, process
/// or fiber each of the two happens is the mixin's choice.
pub struct BaseServer {
    source: Box<dyn Source>,
    control: Arc<Control>,
    mixin_limit: usize,
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
    backoff: Backoff,
    /// The listener is left alone until then.
    pause: Option<Instant>,
    failures_in_a_row: u32,
    actions: Option<Actions>,
    next_actions: Option<Instant>,
    /// How many more to take once the server is stopping: no more than can have been in the
    /// backlog when it began.
    from_backlog: u32,
}

/// A transport with its handler, whichever their kind.
trait Source: AsFd + Send + Sync {
    fn accept(&self, control: &Arc<Control>) -> io::Result<Option<Box<dyn Work>>>;
}

struct Served<T: Transport> {
    transport: T,
    handler: Arc<T::Handler>,
}

impl<T: Transport> AsFd for Served<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl<T: Transport> Source for Served<T> {
    fn accept(&self, control: &Arc<Control>) -> io::Result<Option<Box<dyn Work>>> {
        let incoming = self.transport.accept(&control.settings.transport)?;
        Ok(<T::Handler as sealed::RequestHandler>::work(&self.handler, incoming, control))
    }
}

/// What one accept gave.
enum Accepted {
    Request(Request),
    /// Nothing for the mixin, but there may be more.
    Another,
    Nobody,
    Pause,
}

/// Failures of single connections in a row after which the listener itself is suspected.
const SUSPICIOUS: u32 = 100;

impl BaseServer {
    pub(crate) fn new<T: Transport>(
        transport: T,
        handler: Arc<T::Handler>,
        control: Arc<Control>,
        mixin_limit: usize,
        actions: Option<Actions>,
    ) -> BaseServer
    where
        T::Handler: RequestHandler,
    {
        let next_actions = actions.as_ref().and_then(|actions| after(actions.interval));
        let from_backlog = control.settings.transport.backlog;
        let turn = Turn {
            backoff: Backoff::default(),
            pause: None,
            failures_in_a_row: 0,
            actions,
            next_actions,
            from_backlog,
        };
        let source = Box::new(Served { transport, handler });
        BaseServer { source, control, mixin_limit: mixin_limit.max(1), turn: Mutex::new(turn) }
    }

    /// A handle on this server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(self.control.clone())
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
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
        loop {
            turn.act();
            let stopping = self.control.is_stopping();
            if stopping {
                self.control.begin_stop();
            }
            let room = admission::has_room(&self.control, self.mixin_limit);
            if stopping && room && turn.pause.is_none() {
                // Whoever is still here may give back what the system is short of.
                let is_hopeless = self.control.registry.len() == 0;
                match self.accept_from_backlog(&mut turn) {
                    Accepted::Request(request) => return Next::Request(request),
                    Accepted::Another => continue,
                    Accepted::Pause if !is_hopeless => {}
                    Accepted::Nobody | Accepted::Pause => return Next::ShutDown,
                }
            }
            let forced = stopping.then(|| self.control.deadline().force);
            if forced.is_some_and(|force| Instant::now() >= force) {
                return Next::ShutDown;
            }

            let listen = room && turn.pause.is_none() && !self.control.gate.is_suspended();
            let farewells = &self.control.farewells;
            let wake_up = [until, turn.pause, turn.next_actions, forced, farewells.until()];
            let leaving = farewells.links();
            let ready = poll(
                [
                    (!stopping).then(|| self.control.stop_signal()),
                    Some(self.control.bell().as_fd()),
                    also,
                    listen.then(|| self.source.as_fd()),
                ]
                .map(|fd| fd.map(|fd| (fd, Interest::Read))),
                leaving.iter().filter_map(|link| link.stream().as_fd()),
                wake_up.into_iter().flatten().min(),
            );
            let [stop, bell, also, listener] = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    // Waiting itself has failed, for want of memory: there is no event to await.
                    turn.pause_after(&error, &self.control);
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            if stop {
                self.control.begin_stop();
                continue;
            }
            if bell {
                // Somebody has left: there may be room now, and a descriptor.
                self.control.bell().silence();
                turn.pause = None;
            }
            if !leaving.is_empty() {
                farewells.tend();
            }
            if also {
                return Next::Ready;
            }
            let now = Instant::now();
            turn.pause = turn.pause.filter(|pause| *pause > now);
            if listener
                && !self.control.gate.is_suspended()
                && let Accepted::Request(request) = self.accept(&mut turn)
            {
                return Next::Request(request);
            }
            if until.is_some_and(|until| now >= until) {
                return Next::TimedOut;
            }
        }
    }

    fn accept_from_backlog(&self, turn: &mut Turn) -> Accepted {
        if turn.from_backlog == 0 {
            return Accepted::Nobody;
        }
        let accepted = self.accept(turn);
        if !matches!(accepted, Accepted::Pause) {
            turn.from_backlog -= 1;
        }
        accepted
    }

    fn accept(&self, turn: &mut Turn) -> Accepted {
        // A transport of the user's may panic too.
        let accepted = catch_unwind(AssertUnwindSafe(|| self.source.accept(&self.control)));
        let accepted = accepted.unwrap_or_else(|panic| {
            Err(io::Error::other(format!("the transport panicked: {}", panic_message(&*panic))))
        });
        let error = match accepted {
            Ok(work) => {
                turn.backoff.after_success();
                turn.failures_in_a_row = 0;
                let request = work.and_then(|work| admission::admit(work, &self.control));
                return request.map_or(Accepted::Another, Accepted::Request);
            }
            Err(error) => error,
        };
        match AcceptError::of(&error) {
            AcceptError::Nobody => return Accepted::Nobody,
            AcceptError::OneConnection if turn.failures_in_a_row < SUSPICIOUS => {
                log::debug!("accept: {error}");
                turn.failures_in_a_row += 1;
                return Accepted::Another;
            }
            AcceptError::OneConnection | AcceptError::System => {}
        }
        turn.pause_after(&error, &self.control);
        Accepted::Pause
    }

    /// The descriptors that a forked child has no business with.
    pub(crate) fn inherited(&self) -> [BorrowedFd<'_>; 2] {
        [self.source.as_fd(), self.control.bell().as_fd()]
    }
}

impl Turn {
    fn pause_after(&mut self, error: &io::Error, control: &Control) {
        control.stats().accept_errors.add_one();
        if !self.backoff.is_in_episode() {
            log::error!("{}: accept: {error}; trying again", control.local_addr);
        }
        self.pause = after(self.backoff.after_failure());
        // Whoever leaves gives back a descriptor.
        control.farewells.cut_short();
        control.want_room();
    }

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
        self.source.as_fd()
    }
}

impl std::fmt::Debug for BaseServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseServer({})", self.control.local_addr)
    }
}
