//! The thread or fiber that runs now: how it is suspended ([`Suspend`]), and as which part of a request
//! it can be interrupted ([`Current`]).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::activity::ActivityCell;
use super::time_limit::{Active, may_be_limited};
use super::{Activity, Inputs, ParkToken, TimeLimit};
use crate::error::{Error, Result};
use crate::primitive::atomic::{AtomicBool, Ordering};
use crate::primitive::{Mutex, thread_local};
use crate::sys::job::Job;

thread_local! {
    /// Where there is something else to do while the code that runs now waits.
    static SUSPEND: RefCell<Option<Rc<dyn Suspend>>> = const { RefCell::new(None) };

    static CURRENT: RefCell<Option<Arc<Current>>> = const { RefCell::new(None) };
}

/// How a mixin suspends the code that runs on this thread now. Without one the thread blocks.
pub(crate) trait Suspend {
    /// What resumes the code that runs now; `None` if it must not be suspended, but block the thread.
    fn resumer(&self) -> Option<Resumer>;

    /// Suspends it until it is resumed, or until `deadline`. May return early.
    fn suspend(&self, deadline: Option<Instant>);

    /// Whether [`suspend_for`](Suspend::suspend_for) knows the stream of this
    /// [number](crate::extend::Wait::number).
    fn can_wait_for(&self, number: Option<u64>) -> bool;

    /// Says which of the inputs may be ready, without waiting.
    fn look_for(&self, inputs: &dyn Inputs) -> io::Result<()>;

    /// As [`suspend`](Suspend::suspend), but also until one of the inputs may be ready, and says which.
    fn suspend_for(&self, inputs: &dyn Inputs, deadline: Option<Instant>) -> io::Result<()>;

    /// Starts a part of the request at the side of the code that runs now. Gives it back if that is to
    /// be a thread.
    fn start(&self, part: Job) -> std::result::Result<io::Result<()>, Job> {
        Err(part)
    }

    /// From now on this thread suspends so. Returns what it did before.
    fn install(suspend: Option<Rc<dyn Suspend>>) -> Option<Rc<dyn Suspend>>
    where
        Self: Sized,
    {
        SUSPEND.with(|cell| cell.replace(suspend))
    }
}

/// Resumes suspended code, from any thread.
pub(crate) trait Resume: Send + Sync {
    fn resume(&self, number: u64);
}

/// A [`Resume`], and the number by which it knows the code to resume.
#[derive(Clone)]
pub(crate) struct Resumer {
    pub(crate) resume: Arc<dyn Resume>,
    pub(crate) number: u64,
}

impl Resumer {
    pub(super) fn resume(&self) {
        self.resume.resume(self.number);
    }
}

impl fmt::Debug for Resumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resumer({})", self.number)
    }
}

/// How the code that runs now is suspended; `None`: the thread blocks.
pub(crate) fn suspends() -> Option<(Rc<dyn Suspend>, Resumer)> {
    // It is gone while the thread drops its other thread-locals.
    let suspend = SUSPEND.try_with(|cell| cell.borrow().clone()).ok()??;
    let resumer = suspend.resumer()?;
    Some((suspend, resumer))
}

/// A thread or fiber that runs a request or a part of one. A thread outside of all requests has one too,
/// which nothing interrupts.
#[derive(Debug, Default)]
pub(crate) struct Current {
    token: ParkToken,
    activity: ActivityCell,
    interrupted: AtomicBool,
    /// The token of the [`Parker`](super::Parker) on which it is parked.
    parked_on: Mutex<Option<Arc<ParkToken>>>,
    /// Parts of the same request that run at the same time, and end first.
    parts: Mutex<Vec<Weak<Current>>>,
    time_limit: Mutex<Option<TimeLimit>>,
}

/// Why a wait did not bring what it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupted {
    TimedOut,
    /// A [time limit](TimeLimit) of this is over.
    Limit(Duration),
    /// The server's stop is out of time.
    Stopped,
}

impl From<Interrupted> for Error {
    fn from(interrupted: Interrupted) -> Error {
        match interrupted {
            Interrupted::TimedOut => Error::Io(io::ErrorKind::TimedOut.into()),
            Interrupted::Limit(limit) => Error::Timeout { limit },
            Interrupted::Stopped => Error::Stopped,
        }
    }
}

impl Current {
    /// That of the code that calls this.
    pub(crate) fn get() -> Arc<Current> {
        let current = CURRENT.try_with(|cell| cell.borrow_mut().get_or_insert_default().clone());
        // It is gone while the thread drops its other thread-locals.
        current.unwrap_or_default()
    }

    /// From now on the code on this thread runs as this one. Returns what it was before.
    pub(crate) fn replace(current: Option<Arc<Current>>) -> Option<Arc<Current>> {
        CURRENT.with(|cell| cell.replace(current))
    }

    /// Runs `call` as this one.
    pub(crate) fn run<R>(self: Arc<Self>, call: impl FnOnce() -> R) -> R {
        struct Restore(Option<Arc<Current>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                Current::replace(self.0.take());
            }
        }
        let _limited = self.time_limit().map(|_| Active::begin());
        let _restore = Restore(Current::replace(Some(self)));
        call()
    }

    /// A part of the same request, for another thread or fiber.
    pub(crate) fn new_part(&self) -> Arc<Current> {
        let part = Arc::new(Current::default());
        part.set_time_limit(self.time_limit());
        let mut parts = self.parts.lock();
        parts.retain(|part| part.strong_count() > 0);
        parts.push(Arc::downgrade(&part));
        drop(parts);
        // Interrupted before or after it was added: one of both sees the other.
        if self.is_interrupted() {
            part.interrupt();
        }
        part
    }

    /// From now on each wait fails with [`Interrupted::Stopped`], also the one that goes on now.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.token.unpark();
        if let Some(token) = &*self.parked_on.lock() {
            token.unpark();
        }
        for part in self.parts.lock().iter().filter_map(Weak::upgrade) {
            part.interrupt();
        }
    }

    pub(super) fn time_limit(&self) -> Option<TimeLimit> {
        *self.time_limit.lock()
    }

    pub(super) fn set_time_limit(&self, limit: Option<TimeLimit>) {
        *self.time_limit.lock() = limit;
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// What it does, and for how long; if it runs, perhaps a part of it waits.
    pub(crate) fn activity(&self) -> (Activity, Duration) {
        self.activity.load()
    }

    /// Calls `wait`, during which this is what the code that runs now is doing.
    pub(crate) fn doing<R>(&self, activity: Activity, wait: impl FnOnce() -> R) -> R {
        self.activity.set(activity);
        let result = wait();
        self.activity.set(Activity::Running);
        result
    }

    /// Ends the wait of the code that this is, or else its next one.
    pub(crate) fn unpark(&self) {
        self.token.unpark();
    }

    /// Waits until [`unpark`](Current::unpark), whatever happens. To be called by the code that this
    /// is. May return early.
    pub(crate) fn park_uninterrupted(&self, deadline: Option<Instant>) {
        self.token.park(deadline);
    }

    /// Calls `look` until it returns something. In between it calls `sleep`, which `resumer` ends when it
    /// is unparked: see [`ParkToken::wait_with`].
    pub(crate) fn wait_with<R, E>(
        &self,
        resumer: &Resumer,
        look: impl FnMut() -> Option<Result<R, E>>,
        sleep: impl FnMut() -> Result<(), E>,
    ) -> Result<R, E> {
        self.token.wait_with(resumer, look, sleep)
    }

    /// As [`park_uninterrupted`](Current::park_uninterrupted), but fails at the deadline, when it is
    /// interrupted, and when its [time limit](TimeLimit) is over.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> std::result::Result<(), Interrupted> {
        if self.is_interrupted() {
            return Err(Interrupted::Stopped);
        }
        let (deadline, error) = self.earlier(deadline);
        let was_unparked = self.token.park(deadline);
        self.result(was_unparked, error)
    }

    /// Parks on another token than its own.
    pub(super) fn park_on(
        &self,
        token: &Arc<ParkToken>,
        deadline: Option<Instant>,
    ) -> std::result::Result<(), Interrupted> {
        let (deadline, error) = self.earlier(deadline);
        *self.parked_on.lock() = Some(token.clone());
        // Interrupted before or after `parked_on` was set: one of both sees the other.
        let was_unparked = self.is_interrupted() || token.park(deadline);
        *self.parked_on.lock() = None;
        self.result(was_unparked, error)
    }

    /// The deadline or that of the time limit, and what it means when it is over.
    pub(crate) fn earlier(&self, deadline: Option<Instant>) -> (Option<Instant>, Interrupted) {
        let limit = if may_be_limited() { self.time_limit() } else { None };
        match limit {
            Some(limit) if deadline.is_none_or(|deadline| limit.deadline < deadline) => {
                (Some(limit.deadline), Interrupted::Limit(limit.timeout))
            }
            _ => (deadline, Interrupted::TimedOut),
        }
    }

    fn result(
        &self,
        was_unparked: bool,
        timed_out: Interrupted,
    ) -> std::result::Result<(), Interrupted> {
        match was_unparked {
            _ if self.is_interrupted() => Err(Interrupted::Stopped),
            true => Ok(()),
            false => Err(timed_out),
        }
    }
}

/// Waits for this long.
///
/// # Errors
/// [`Error::Stopped`] if a stop of the server is out of time, [`Error::Timeout`] at the end of a
/// [`TimeLimit`].
#[cfg(feature = "fibers")]
pub(crate) fn sleep(time: Duration) -> Result<()> {
    let current = Current::get();
    let deadline = Instant::now().checked_add(time);
    current.doing(Activity::Sleeping, || {
        loop {
            match current.park(deadline) {
                // It was unparked for something else, before.
                Ok(()) => {}
                Err(Interrupted::TimedOut) => return Ok(()),
                Err(interrupted) => return Err(interrupted.into()),
            }
        }
    })
}
