//! What stands in for `parking_lot` and `std::thread` in a model: `shuttle`'s, under which one
//! thread runs at a time, and a scheduler chooses before each step which.
//!
//! There is no clock: a wait with a time limit times out whenever the scheduler likes, and one of
//! more than a [`YEAR`] never does. A model gives that long to a wait that has to be ended by
//! somebody: if nobody does, no thread can go on, and this is reported as a deadlock.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread;

pub(crate) const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Runs the model in tens of thousands of random orders: with any thread's step next, with all
/// orders alike, and with few turns between threads, which is all that most mistakes need.
pub(crate) fn check(model: fn()) {
    shuttle::check_random(model, 10_000);
    shuttle::check_urw(model, 10_000);
    for turns in 1..=4 {
        shuttle::check_pct(model, 5_000, turns + 1);
    }
}

/// Runs a small model in every order there is.
pub(crate) fn check_all(model: fn()) {
    shuttle::check_dfs(model, None);
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
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
    /// `None` while a condition variable is waited for.
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

/// A wait that never times out is `shuttle`'s; any other is over at the waiter's next turn,
/// whether or not it has been notified by then.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    patient: shuttle::sync::Condvar,
    /// Whether each of the others has been notified. Nobody else runs while it is locked.
    others: parking_lot::Mutex<Vec<Arc<AtomicBool>>>,
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar::default()
    }

    pub(crate) fn notify_one(&self) {
        // It takes no time, but lets others run first.
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

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) {
        self.wait_for(guard, until.saturating_duration_since(Instant::now()));
    }

    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        time: Duration,
    ) {
        while condition(guard) && self.wait_for(guard, time) {}
    }

    /// Whether it was notified in time.
    fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: Duration) -> bool {
        let inner = guard.inner.take().unwrap();
        if time > YEAR {
            guard.inner = Some(self.patient.wait(inner).unwrap());
            return true;
        }
        // Others may run before the lock is released, but not between that and the wait.
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

/// Stands in for `crossbeam_channel`.
pub(crate) mod channel {
    use std::sync::mpsc::RecvTimeoutError;
    use std::time::Duration;

    use shuttle::sync::mpsc::{self, RecvError, TryRecvError};

    pub(crate) use mpsc::SyncSender as Sender;

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

    pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        (sender, Receiver(receiver))
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            self.0.recv()
        }

        /// Times out at the receiver's next turn, or never if `timeout` is more than a year.
        pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            if timeout > super::YEAR {
                return self.0.recv().map_err(RecvTimeoutError::from);
            }
            self.0.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        }
    }
}
