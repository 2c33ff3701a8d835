//! Locks, condition variables, atomics and threads for models: those of `shuttle`, which runs one
//! thread at a time and chooses before each step which one.
//!
//! Models have no clock. A wait with a timeout of at most a [`YEAR`] may time out at any step. A
//! longer one never does: a model uses it for a wait that a notification must end. If the
//! notification is lost, no thread can run, which shuttle reports as a deadlock.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shuttle::rand::Rng;
pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::{thread, thread_local};

pub(crate) mod queue;

pub(crate) const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Runs the model in tens of thousands of random orders. Three schedulers choose them: each step at
/// random, each order with the same probability, and orders with at most four preemptions,
/// which are enough to show most races. `MODEL_TIMES=25` makes it a million.
pub(crate) fn check(model: impl Fn() + Copy + Send + Sync + 'static) {
    let times = std::env::var("MODEL_TIMES").map_or(1, |times| times.parse().expect("a number"));
    shuttle::check_random(model, 10_000 * times);
    shuttle::check_urw(model, 10_000 * times);
    for turns in 1..=4 {
        shuttle::check_pct(model, 5_000 * times, turns + 1);
    }
}

/// Runs a small model in every possible order.
pub(crate) fn check_all(model: fn()) {
    shuttle::check_dfs(model, None);
}

/// Either may be true. Not for models that are run in every order.
pub(crate) fn has_passed(_time: Duration, _since: Instant) -> bool {
    shuttle::rand::thread_rng().gen_bool(0.5)
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, inner: Some(self.0.lock().unwrap()) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|inner| MutexGuard { mutex: self, inner: Some(inner) })
    }
}

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` during a wait for a condition variable.
    inner: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().unwrap()
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().unwrap()
    }
}

pub(crate) struct WaitTimeoutResult {
    timed_out: bool,
}

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.timed_out
    }
}

/// A condition variable. A wait that never times out is `shuttle`'s own. A wait with a timeout lets
/// other threads run, and ends when the waiter is scheduled next, notified or not.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    patient: shuttle::sync::Condvar,
    /// A flag for each waiter with a timeout: whether it was notified. No other thread is scheduled
    /// while this is locked, since its mutex is not one of `shuttle`'s.
    others: parking_lot::Mutex<Vec<Arc<AtomicBool>>>,
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn notify_one(&self) {
        // A scheduling point: other threads may run first.
        thread::sleep(Duration::ZERO);
        let other = self.others.lock().pop();
        match other {
            Some(notified) => notified.store(true, Ordering::SeqCst),
            None => self.patient.notify_one(),
        }
    }

    pub(crate) fn notify_all(&self) {
        self.patient.notify_all();
        for notified in self.others.lock().drain(..) {
            notified.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_for(guard, 2 * YEAR);
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        let time = deadline.saturating_duration_since(Instant::now());
        WaitTimeoutResult { timed_out: !self.wait_for(guard, time) }
    }

    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        time: Duration,
    ) {
        while condition(guard) && self.wait_for(guard, time) {}
    }

    /// Returns whether it was notified before the timeout.
    fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) -> bool {
        let inner = guard.inner.take().unwrap();
        if time > YEAR {
            guard.inner = Some(self.patient.wait(inner).unwrap());
            return true;
        }
        // Another thread may run before the lock is released, but none between the release and the
        // start of the wait: a condition variable does both in one step.
        drop(inner);
        let notified = Arc::new(AtomicBool::new(false));
        self.others.lock().push(notified.clone());
        thread::yield_now();
        self.others.lock().retain(|other| !Arc::ptr_eq(other, &notified));
        let in_time = notified.load(Ordering::SeqCst);
        guard.inner = Some(guard.mutex.0.lock().unwrap());
        in_time
    }
}

/// Channels as those of `crossbeam_channel`, for one message each.
pub(crate) mod channel {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TrySendError};
    use shuttle::sync::mpsc;

    use crate::primitive::thread;

    /// A channel with a capacity of zero, a rendezvous channel, is open while its receiver waits.
    pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let is_open = Arc::new(AtomicBool::new(capacity > 0));
        let (sender, receiver) = mpsc::channel();
        (Sender { is_open: is_open.clone(), sender }, Receiver { is_open, receiver })
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T> {
        is_open: Arc<AtomicBool>,
        sender: mpsc::Sender<T>,
    }

    impl<T> Sender<T> {
        /// Fails where it would have to block, which no model needs.
        pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
            self.try_send(message).map_err(|error| SendError(error.into_inner()))
        }

        pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
            if !self.is_open.swap(false, Ordering::SeqCst) {
                return Err(TrySendError::Full(message));
            }
            self.sender.send(message).map_err(|error| TrySendError::Disconnected(error.0))
        }

        pub(crate) fn receiver_waits(&self) -> bool {
            self.is_open.load(Ordering::SeqCst)
        }
    }

    #[derive(Debug)]
    pub(crate) struct Receiver<T> {
        is_open: Arc<AtomicBool>,
        receiver: mpsc::Receiver<T>,
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            self.receiver.recv().map_err(|_| RecvError)
        }

        pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            // A scheduling point: a rendezvous channel is not open yet.
            thread::sleep(Duration::ZERO);
            self.is_open.store(true, Ordering::SeqCst);
            if timeout <= super::YEAR {
                thread::yield_now();
                if self.is_open.swap(false, Ordering::SeqCst) {
                    return Err(RecvTimeoutError::Timeout);
                }
            }
            // It never times out, or the sender has closed the channel and is about to send.
            self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }
}
