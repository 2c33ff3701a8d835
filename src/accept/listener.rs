//! The listener as all those see it who take requests from it: [`Listener`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::admission;
use super::error::{AcceptError, Backoff};
use super::idle::{IdleAcceptor, IdleAcceptors};
use crate::request::lifecycle::{RequestTask, panic_message};
use crate::request::{Request, RequestHandler, sealed};
use crate::state::ServerState;
use crate::transport::Transport;

/// Takes one request at a time, without waiting, and keeps the contracts of accepting: which
/// errors wait, and who may come in.
pub(crate) struct Listener {
    source: Box<dyn TaskSource>,
    pub(crate) state: Arc<ServerState>,
    mixin_limit: usize,
    accepting: Mutex<AcceptState>,
    /// Whether somebody may have come while nobody was let in. Whoever watched was woken for it, and
    /// will not be again.
    backlog_pending: AtomicBool,
    pub(crate) idle: IdleAcceptors,
}

struct AcceptState {
    backoff: Backoff,
    /// The listener is left alone until then.
    pause: Option<Instant>,
    consecutive_failures: u32,
    /// How many more to take once the server is stopping: no more than can have been in the
    /// backlog when it began.
    from_backlog: u32,
}

/// A transport with its handler, whichever their kind.
trait TaskSource: AsFd + Send + Sync {
    fn is_cheap_to_try(&self) -> bool;
    fn accept(&self, state: &Arc<ServerState>) -> io::Result<Option<Box<dyn RequestTask>>>;
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

    fn handler(&self) -> Box<dyn Send + Sync> {
        Box::new(self.handler.clone())
    }
}

/// What one accept gave.
pub(crate) enum Accept {
    Request(Request),
    /// Nothing for the mixin, but there may be more.
    Rejected,
    WouldBlock,
    /// Nobody is let in now.
    NotAccepting,
}

/// Failures of single connections in a row after which the listener itself is suspected.
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
            pause: None,
            consecutive_failures: 0,
            from_backlog: state.settings.transport.backlog,
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

    /// Keeps the handler as long as this is held.
    pub(crate) fn handler(&self) -> Box<dyn Send + Sync> {
        self.source.handler()
    }

    /// Whether taking a request that is not there costs less than waiting for it.
    pub(crate) fn is_cheap_to_try(&self) -> bool {
        self.source.is_cheap_to_try()
    }

    /// Whether there is room for one more. If not, the bell rings when there may be.
    pub(crate) fn has_capacity(&self) -> bool {
        admission::has_capacity(&self.state, self.mixin_limit)
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
    pub(crate) fn back_off(&self, error: &io::Error) {
        self.accepting.lock().back_off(error, &self.state);
    }

    /// Takes a request, if one may come in now.
    pub(crate) fn accept(&self) -> Accept {
        let mut accepting = self.accepting.lock();
        let state = &self.state;
        let closed = state.is_stopping() || state.limits.is_suspended();
        // One thread at a time, so that there is still room when the request is there.
        let accepted = if closed || accepting.pause.is_some() || !self.has_capacity() {
            Accept::NotAccepting
        } else {
            self.accept_locked(&mut accepting)
        };
        drop(accepting);
        if matches!(accepted, Accept::NotAccepting) {
            self.set_backlog_pending();
        }
        accepted
    }

    /// Somebody may be waiting: to be looked for once newcomers are let in again.
    pub(crate) fn set_backlog_pending(&self) {
        self.backlog_pending.store(true, Ordering::SeqCst);
    }

    /// Whether somebody has to be looked for.
    pub(crate) fn take_backlog_pending(&self) -> bool {
        self.backlog_pending.swap(false, Ordering::SeqCst)
    }

    /// During a stop: takes one that had come before.
    pub(crate) fn accept_from_backlog(&self) -> Accept {
        let mut accepting = self.accepting.lock();
        if accepting.from_backlog == 0 {
            return Accept::WouldBlock;
        }
        let accepted = self.accept_locked(&mut accepting);
        if !matches!(accepted, Accept::NotAccepting) {
            accepting.from_backlog -= 1;
        }
        accepted
    }

    fn accept_locked(&self, accepting: &mut AcceptState) -> Accept {
        // A transport of the user's may panic too.
        let accepted = catch_unwind(AssertUnwindSafe(|| self.source.accept(&self.state)));
        let accepted = accepted.unwrap_or_else(|panic| {
            Err(io::Error::other(format!("the transport panicked: {}", panic_message(&*panic))))
        });
        let error = match accepted {
            Ok(task) => {
                accepting.backoff.after_success();
                accepting.consecutive_failures = 0;
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

    /// Somebody watches the listener from now on.
    pub(crate) fn register_waiter(&self) {
        self.idle.register();
    }

    /// Somebody does so no longer; if nobody does, the thread whose turn it is has to.
    pub(crate) fn unregister_waiter(&self) {
        if self.idle.unregister() {
            self.state.wake_acceptor();
        }
    }

    /// Waits for a request beside the thread whose turn it is, which leaves the listener to those
    /// who watch it; `None` when there are enough of them, nobody is let in now, or nobody came
    /// for the idle time.
    pub(crate) fn accept_idle(&self, idle_time: Duration) -> Option<Request> {
        let (listener, stop) = (self.source.as_fd(), self.state.shutdown_signal());
        let acceptor = self.idle.take(listener, stop, idle_time);
        acceptor.is_some().then(|| self.register_waiter());
        let mut waiting = IdleWait { listener: self, acceptor };
        while waiting.acceptor.as_mut()?.wait() {
            match self.accept() {
                Accept::Request(request) => return Some(request),
                // It may have been turned away, and be looked after until it has read why.
                Accept::Rejected => self.state.wake_acceptor(),
                Accept::WouldBlock => {}
                Accept::NotAccepting => {
                    // Whoever has the turn waits for the end of that.
                    self.state.wake_acceptor();
                    return None;
                }
            }
        }
        None
    }
}

/// Somebody who watches; however that ends, the last one is missed.
struct IdleWait<'a> {
    listener: &'a Listener,
    acceptor: Option<IdleAcceptor>,
}

impl Drop for IdleWait<'_> {
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
        if !self.backoff.is_failing() {
            log::error!("{}: accept: {error}; trying again", state.local_addr);
        }
        // None for a time so far off that the clock cannot express it.
        self.pause = Instant::now().checked_add(self.backoff.after_failure());
        // Whoever leaves gives back a descriptor.
        state.rejected.clear();
        state.notify_on_release();
    }
}
