//! The listener as all those see it who take requests from it: [`Listener`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::accept::{AcceptError, Backoff};
use crate::admission;
use crate::control::Control;
use crate::request::{Request, RequestHandler, sealed};
use crate::run::{Work, panic_message};
use crate::transport::Transport;
use crate::watch::{Seat, Watch};

/// Takes one request at a time, without waiting, and keeps the contracts of accepting: which
/// errors wait, and who may come in.
pub(crate) struct Listener {
    source: Box<dyn Source>,
    pub(crate) control: Arc<Control>,
    mixin_limit: usize,
    accepting: Mutex<Accepting>,
    /// Whether somebody may have come while nobody was let in. Whoever watched was woken for it, and
    /// will not be again.
    left_outside: AtomicBool,
    pub(crate) watch: Watch,
}

struct Accepting {
    backoff: Backoff,
    /// The listener is left alone until then.
    pause: Option<Instant>,
    failures_in_a_row: u32,
    /// How many more to take once the server is stopping: no more than can have been in the
    /// backlog when it began.
    from_backlog: u32,
}

/// A transport with its handler, whichever their kind.
trait Source: AsFd + Send + Sync {
    fn is_cheap_to_try(&self) -> bool;
    fn accept(&self, control: &Arc<Control>) -> io::Result<Option<Box<dyn Work>>>;
    fn handler(&self) -> Box<dyn Send + Sync>;
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
    fn is_cheap_to_try(&self) -> bool {
        <T::Handler as sealed::RequestHandler>::IS_CHEAP_TO_TRY
    }

    fn accept(&self, control: &Arc<Control>) -> io::Result<Option<Box<dyn Work>>> {
        let incoming = self.transport.accept(&control.settings.transport)?;
        Ok(<T::Handler as sealed::RequestHandler>::work(&self.handler, incoming, control))
    }

    fn handler(&self) -> Box<dyn Send + Sync> {
        Box::new(self.handler.clone())
    }
}

/// What one accept gave.
pub(crate) enum Accepted {
    Request(Request),
    /// Nothing for the mixin, but there may be more.
    Another,
    Nobody,
    /// Nobody is let in now.
    Closed,
}

/// Failures of single connections in a row after which the listener itself is suspected.
const SUSPICIOUS: u32 = 100;

impl Listener {
    pub(crate) fn new<T: Transport>(
        transport: T,
        handler: Arc<T::Handler>,
        control: Arc<Control>,
        mixin_limit: usize,
    ) -> Listener
    where
        T::Handler: RequestHandler,
    {
        let accepting = Accepting {
            backoff: Backoff::default(),
            pause: None,
            failures_in_a_row: 0,
            from_backlog: control.settings.transport.backlog,
        };
        Listener {
            source: Box::new(Served { transport, handler }),
            control,
            mixin_limit: mixin_limit.max(1),
            accepting: Mutex::new(accepting),
            left_outside: AtomicBool::new(false),
            watch: Watch::default(),
        }
    }

    /// Keeps the handler as long as this is held.
    pub(crate) fn handler(&self) -> Box<dyn Send + Sync> {
        self.source.handler()
    }

    /// Whether taking a request that is not there costs less than waiting for it.
    pub(crate) fn is_cheap_to_try(&self) -> bool {
        self.source.is_cheap_to_try()
    }

    /// Whether there is room for one more. If not, the bell rings when there may be.
    pub(crate) fn has_room(&self) -> bool {
        admission::has_room(&self.control, self.mixin_limit)
    }

    /// Until when the listener is left alone, for want of something.
    pub(crate) fn pause(&self) -> Option<Instant> {
        self.accepting.lock().pause
    }

    /// Ends the pause: whatever was lacking, there may be some now.
    pub(crate) fn end_pause(&self) {
        self.accepting.lock().pause = None;
    }

    /// Ends the pause if its time is over.
    pub(crate) fn end_pause_by(&self, now: Instant) {
        let mut accepting = self.accepting.lock();
        accepting.pause = accepting.pause.filter(|pause| *pause > now);
    }

    /// Begins one.
    pub(crate) fn pause_after(&self, error: &io::Error) {
        self.accepting.lock().pause_after(error, &self.control);
    }

    /// Takes a request, if one may come in now.
    pub(crate) fn accept(&self) -> Accepted {
        let mut accepting = self.accepting.lock();
        let control = &self.control;
        let closed = control.is_stopping() || control.gate.is_suspended();
        // One thread at a time, so that there is still room when the request is there.
        let accepted = if closed || accepting.pause.is_some() || !self.has_room() {
            Accepted::Closed
        } else {
            self.accept_by(&mut accepting)
        };
        drop(accepting);
        if matches!(accepted, Accepted::Closed) {
            self.leave_outside();
        }
        accepted
    }

    /// Somebody may be waiting: to be looked for once newcomers are let in again.
    pub(crate) fn leave_outside(&self) {
        self.left_outside.store(true, Ordering::SeqCst);
    }

    /// Whether somebody has to be looked for.
    pub(crate) fn take_left_outside(&self) -> bool {
        self.left_outside.swap(false, Ordering::SeqCst)
    }

    /// During a stop: takes one that had come before.
    pub(crate) fn accept_from_backlog(&self) -> Accepted {
        let mut accepting = self.accepting.lock();
        if accepting.from_backlog == 0 {
            return Accepted::Nobody;
        }
        let accepted = self.accept_by(&mut accepting);
        if !matches!(accepted, Accepted::Closed) {
            accepting.from_backlog -= 1;
        }
        accepted
    }

    fn accept_by(&self, accepting: &mut Accepting) -> Accepted {
        // A transport of the user's may panic too.
        let accepted = catch_unwind(AssertUnwindSafe(|| self.source.accept(&self.control)));
        let accepted = accepted.unwrap_or_else(|panic| {
            Err(io::Error::other(format!("the transport panicked: {}", panic_message(&*panic))))
        });
        let error = match accepted {
            Ok(work) => {
                accepting.backoff.after_success();
                accepting.failures_in_a_row = 0;
                let request = work.and_then(|work| admission::admit(work, &self.control));
                return request.map_or(Accepted::Another, Accepted::Request);
            }
            Err(error) => error,
        };
        match AcceptError::of(&error) {
            AcceptError::Nobody => return Accepted::Nobody,
            AcceptError::OneConnection if accepting.failures_in_a_row < SUSPICIOUS => {
                log::debug!("accept: {error}");
                accepting.failures_in_a_row += 1;
                return Accepted::Another;
            }
            AcceptError::OneConnection | AcceptError::System => {}
        }
        accepting.pause_after(&error, &self.control);
        Accepted::Closed
    }

    /// Somebody watches the listener from now on.
    pub(crate) fn begin_watch(&self) {
        self.watch.come();
    }

    /// Somebody does so no longer; if nobody does, the thread whose turn it is has to.
    pub(crate) fn end_watch(&self) {
        if self.watch.go() {
            self.control.reconsider();
        }
    }

    /// Waits for a request beside the thread whose turn it is, which leaves the listener to those
    /// who watch it; `None` when there are enough of them, nobody is let in now, or nobody came
    /// for the idle time.
    pub(crate) fn watch(&self, idle_time: Duration) -> Option<Request> {
        let (listener, stop) = (self.source.as_fd(), self.control.stop_signal());
        let seat = self.watch.take_seat(listener, stop, idle_time);
        seat.is_some().then(|| self.begin_watch());
        let mut watching = Watching { listener: self, seat };
        while watching.seat.as_mut()?.wait() {
            match self.accept() {
                Accepted::Request(request) => return Some(request),
                // It may have been turned away, and be looked after until it has read why.
                Accepted::Another => self.control.reconsider(),
                Accepted::Nobody => {}
                Accepted::Closed => {
                    // Whoever has the turn waits for the end of that.
                    self.control.reconsider();
                    return None;
                }
            }
        }
        None
    }
}

/// Somebody who watches; however that ends, the last one is missed.
struct Watching<'a> {
    listener: &'a Listener,
    seat: Option<Seat>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.listener.watch.leave_seat(seat);
            self.listener.end_watch();
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

impl Accepting {
    fn pause_after(&mut self, error: &io::Error, control: &Control) {
        control.stats().accept_errors.add_one();
        if !self.backoff.is_in_episode() {
            log::error!("{}: accept: {error}; trying again", control.local_addr);
        }
        // None for a time so far off that the clock cannot express it.
        self.pause = Instant::now().checked_add(self.backoff.after_failure());
        // Whoever leaves gives back a descriptor.
        control.farewells.cut_short();
        control.want_room();
    }
}
