//! [`Condvar`].

use std::fmt;
use std::time::{Duration, Instant};

use super::wait_queue::{WaitQueue, Waiter};
use super::{Activity, Current, Interrupted, MutexGuard};
use crate::error::Result;

/// A condition variable for the [`Mutex`](super::Mutex) of this module, as
/// [`parking_lot::Condvar`](https://docs.rs/parking_lot/latest/parking_lot/struct.Condvar.html), but
/// with waits that a stop of the server ends.
///
/// Each wait releases the mutex while it waits, and has locked it again when it returns, also if it
/// returns an error. Waiters are notified in the order in which they came. A wait ends without
/// a notification only at its deadline, and when a stop is out of time. Unlike `parking_lot`'s, a
/// condition variable may be used with several mutexes.
///
/// ```
/// use std::io::Write;
/// use socketserver::sync::{Condvar, Mutex};
/// use socketserver::{Connection, HandlerResult, StreamRequestHandler};
///
/// /// Each client waits until the next one is there.
/// #[derive(Default)]
/// struct Pairs {
///     clients: Mutex<u64>,
///     arrived: Condvar,
/// }
///
/// impl StreamRequestHandler for Pairs {
///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
///         let mut clients = self.clients.lock();
///         *clients += 1;
///         let number = *clients;
///         self.arrived.notify_all();
///         self.arrived.wait_while(&mut clients, |clients| *clients == number)?;
///         Ok(writeln!(connection, "after you, number {}", number + 1)?)
///     }
/// }
/// ```
#[derive(Default)]
pub struct Condvar {
    queue: WaitQueue,
}

/// Whether a wait has ended because its time was over.
///
/// ```
/// use std::time::Duration;
/// use socketserver::sync::{Condvar, Mutex};
///
/// let mutex = Mutex::new(());
/// let result = Condvar::new().wait_for(&mut mutex.lock(), Duration::from_millis(1))?;
/// assert!(result.timed_out());
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult {
    timed_out: bool,
}

impl WaitTimeoutResult {
    /// Whether it was not notified, or its condition not met, by the deadline.
    pub fn timed_out(&self) -> bool {
        self.timed_out
    }
}

impl Condvar {
    /// A condition variable for which nothing waits.
    pub const fn new() -> Condvar {
        Condvar { queue: WaitQueue::new() }
    }

    /// Ends the wait of the first waiter. Returns whether there was one; a notification without a
    /// waiter is lost.
    pub fn notify_one(&self) -> bool {
        self.queue.grant_one()
    }

    /// Ends the waits of all waiters. Returns how many there were.
    pub fn notify_all(&self) -> usize {
        self.queue.grant_all()
    }

    /// Waits until it is notified.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) if a stop of the server is out of time.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) -> Result<()> {
        self.wait_deadline(guard, None).map(drop)
    }

    /// As [`wait`](Condvar::wait), at most for `timeout`.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn wait_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        timeout: Duration,
    ) -> Result<WaitTimeoutResult> {
        self.wait_deadline(guard, Instant::now().checked_add(timeout))
    }

    /// As [`wait`](Condvar::wait), at most until `deadline`.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn wait_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> Result<WaitTimeoutResult> {
        self.wait_deadline(guard, Some(deadline))
    }

    /// Waits as long as `condition` is true of what the mutex protects: not at all if it is false
    /// at first.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn wait_while<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> Result<()> {
        self.wait_while_deadline(guard, condition, None).map(drop)
    }

    /// As [`wait_while`](Condvar::wait_while), at most for `timeout`.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn wait_while_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
        timeout: Duration,
    ) -> Result<WaitTimeoutResult> {
        self.wait_while_deadline(guard, condition, Instant::now().checked_add(timeout))
    }

    /// As [`wait_while`](Condvar::wait_while), at most until `deadline`.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn wait_while_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: impl FnMut(&mut T) -> bool,
        deadline: Instant,
    ) -> Result<WaitTimeoutResult> {
        self.wait_while_deadline(guard, condition, Some(deadline))
    }

    fn wait_while_deadline<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        deadline: Option<Instant>,
    ) -> Result<WaitTimeoutResult> {
        let mut result = WaitTimeoutResult { timed_out: false };
        while condition(guard) {
            if result.timed_out {
                return Ok(result);
            }
            result = self.wait_deadline(guard, deadline)?;
        }
        Ok(WaitTimeoutResult { timed_out: false })
    }

    fn wait_deadline<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Option<Instant>,
    ) -> Result<WaitTimeoutResult> {
        let current = Current::get();
        let waiter = Waiter::new(&current);
        // It is in the queue before the mutex is released: no lost wake-up.
        self.queue.push_back(waiter.clone());
        let waited = MutexGuard::unlocked(guard, || {
            let waited = current.doing(Activity::Waiting, || waiter.wait(deadline));
            // Notified at the same time: a notification is for one wait, and must not be lost.
            waited.or_else(|error| if self.queue.remove(&waiter) { Err(error) } else { Ok(()) })
        });
        match waited {
            Ok(()) => Ok(WaitTimeoutResult { timed_out: false }),
            Err(Interrupted::TimedOut) => Ok(WaitTimeoutResult { timed_out: true }),
            Err(stopped) => Err(stopped.into()),
        }
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

#[cfg(all(test, shuttle))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::primitive::model::{YEAR, check};
    use crate::primitive::thread;
    use crate::sync::Mutex;

    type Shared = Arc<(Mutex<usize>, Condvar)>;

    /// Takes one of what there is; waits for it.
    fn take(shared: &Shared, deadline: Option<Instant>) -> bool {
        let mut count = shared.0.lock();
        let waited = match deadline {
            Some(deadline) => shared.1.wait_while_until(&mut count, |count| *count == 0, deadline),
            None => {
                shared.1.wait_while(&mut count, |count| *count == 0).unwrap();
                Ok(WaitTimeoutResult { timed_out: false })
            }
        };
        let in_time = !waited.unwrap().timed_out();
        *count -= usize::from(in_time);
        in_time
    }

    fn give(shared: &Shared) {
        *shared.0.lock() += 1;
        shared.1.notify_one();
    }

    #[test]
    fn no_notification_is_lost() {
        check(|| {
            let shared = Shared::default();
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || assert!(take(&shared, None)))
                })
                .collect();
            give(&shared);
            give(&shared);
            takers.into_iter().for_each(|taker| taker.join().unwrap());
        });
    }

    #[test]
    fn no_notification_is_lost_to_a_waiter_that_times_out() {
        check(|| {
            let shared = Shared::default();
            let (other, another) = (shared.clone(), shared.clone());
            let patient = thread::spawn(move || assert!(take(&other, None)));
            let hasty = thread::spawn(move || take(&another, Some(Instant::now() + YEAR / 2)));
            give(&shared);
            // If it was the other one's, there is another.
            if hasty.join().unwrap() {
                give(&shared);
            }
            patient.join().unwrap();
        });
    }

    #[test]
    fn all_are_notified() {
        check(|| {
            let shared = Shared::default();
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        shared.1.wait_while(&mut shared.0.lock(), |count| *count == 0).unwrap();
                    })
                })
                .collect();
            *shared.0.lock() = 1;
            shared.1.notify_all();
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
    }

    #[test]
    fn an_interrupted_wait_fails_with_the_mutex_locked_and_takes_no_notification() {
        check(|| {
            let shared = Shared::default();
            let interrupted = Arc::<Current>::default();
            let (other, another, current) = (shared.clone(), shared.clone(), interrupted.clone());
            let first = thread::spawn(move || {
                current.run(|| {
                    let mut count = other.0.lock();
                    let waited = other.1.wait_while(&mut count, |count| *count == 0);
                    *count -= usize::from(waited.is_ok());
                    waited.is_ok()
                })
            });
            let second = thread::spawn(move || assert!(take(&another, None)));
            interrupted.interrupt();
            give(&shared);
            if first.join().unwrap() {
                give(&shared);
            }
            second.join().unwrap();
        });
    }
}
