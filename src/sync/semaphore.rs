//! [`Semaphore`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wait_queue::{Waiter, take};
use super::{Activity, Current, Interrupted};
use crate::error::Result;
use crate::primitive::Mutex;

/// A number of permits: a bound on how many requests do the same at a time.
///
/// Those that wait for a permit get one in the order in which they came. A permit that is returned
/// goes to the first of them, and not to one that came later.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use socketserver::sync::Semaphore;
/// use socketserver::{Connection, HandlerResult, StreamRequestHandler};
///
/// /// At most four clients use the database at a time.
/// struct Lookup {
///     queries: Semaphore,
/// }
///
/// impl StreamRequestHandler for Lookup {
///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
///         let Some(_permit) = self.queries.acquire_timeout(Duration::from_secs(5))? else {
///             return Ok(connection.write_all(b"busy, try again later\n")?);
///         };
///         // The query.
///         Ok(())
///     }
/// }
///
/// let lookup = Lookup { queries: Semaphore::new(4) };
/// assert_eq!(lookup.queries.available(), 4);
/// ```
pub struct Semaphore {
    state: Mutex<State>,
}

struct State {
    /// None while others wait for one.
    permits: usize,
    waiters: VecDeque<Arc<Waiter>>,
}

/// A permit of a [`Semaphore`], returned when it is dropped, on any thread.
///
/// ```
/// use socketserver::sync::Semaphore;
///
/// let semaphore = Semaphore::new(1);
/// let permit = semaphore.acquire()?;
/// assert!(semaphore.try_acquire().is_none());
/// drop(permit);
/// assert!(semaphore.try_acquire().is_some());
/// # Ok::<(), socketserver::Error>(())
/// ```
#[must_use = "the permit is returned when this is dropped"]
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Semaphore {
    /// A semaphore with this many permits. With zero no `acquire` succeeds.
    pub const fn new(permits: usize) -> Semaphore {
        Semaphore { state: Mutex::new(State { permits, waiters: VecDeque::new() }) }
    }

    /// Takes a permit; waits for it if there is none.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) if a stop of the server is out of time.
    pub fn acquire(&self) -> Result<Permit<'_>> {
        match self.acquire_until(None) {
            Ok(()) => Ok(Permit { semaphore: self }),
            Err(interrupted) => Err(interrupted.into()),
        }
    }

    /// Takes a permit if there is one.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        let taken = self.state.lock().take();
        taken.then(|| Permit { semaphore: self })
    }

    /// As [`acquire`](Semaphore::acquire), but waits at most for `timeout`. `None`: there was no
    /// permit in time.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Permit<'_>>> {
        self.permit_until(Instant::now().checked_add(timeout))
    }

    /// As [`acquire`](Semaphore::acquire), but waits at most until `deadline`. `None`: there was no
    /// permit in time.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn acquire_deadline(&self, deadline: Instant) -> Result<Option<Permit<'_>>> {
        self.permit_until(Some(deadline))
    }

    /// How many permits there are now.
    pub fn available(&self) -> usize {
        self.state.lock().permits
    }

    fn permit_until(&self, deadline: Option<Instant>) -> Result<Option<Permit<'_>>> {
        match self.acquire_until(deadline) {
            Ok(()) => Ok(Some(Permit { semaphore: self })),
            Err(Interrupted::TimedOut) => Ok(None),
            Err(stopped) => Err(stopped.into()),
        }
    }

    fn acquire_until(&self, deadline: Option<Instant>) -> std::result::Result<(), Interrupted> {
        let mut state = self.state.lock();
        if state.take() {
            return Ok(());
        }
        let current = Current::get();
        let waiter = Waiter::new(&current);
        state.waiters.push_back(waiter.clone());
        drop(state);
        let waited = current.doing(Activity::Waiting, || waiter.wait(deadline));
        waited.or_else(|interrupted| match take(&mut self.state.lock().waiters, &waiter) {
            true => Err(interrupted),
            // A permit was given to it at the same time.
            false => Ok(()),
        })
    }

    fn release(&self) {
        let mut state = self.state.lock();
        let next = state.waiters.pop_front();
        if next.is_none() {
            state.permits += 1;
        }
        drop(state);
        next.inspect(|waiter| waiter.grant());
    }
}

impl State {
    fn take(&mut self) -> bool {
        let left = self.permits.checked_sub(1);
        left.inspect(|left| self.permits = *left).is_some()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available", &self.available()).finish()
    }
}

#[cfg(all(test, shuttle))]
mod model {
    use super::*;
    use crate::primitive::atomic::{AtomicUsize, Ordering};
    use crate::primitive::model::{YEAR, check};
    use crate::primitive::thread;

    /// Each of three threads does this twice; at most as many at a time as there are permits.
    fn acquires(permits: usize, acquire: fn(usize, &Semaphore) -> Option<Permit<'_>>) {
        let state = Arc::new((Semaphore::new(permits), AtomicUsize::new(0)));
        let spawn = |index| {
            let state = state.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    let Some(_permit) = acquire(index, &state.0) else { continue };
                    assert!(state.1.fetch_add(1, Ordering::SeqCst) < permits);
                    state.1.fetch_sub(1, Ordering::SeqCst);
                }
            })
        };
        let threads: Vec<_> = (0..3).map(spawn).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(state.0.available(), permits);
    }

    #[test]
    fn no_permit_is_lost() {
        check(|| acquires(1, |_, semaphore| semaphore.acquire().ok()));
        check(|| acquires(2, |_, semaphore| semaphore.acquire().ok()));
    }

    #[test]
    fn none_is_lost_to_a_waiter_that_times_out() {
        check(|| {
            acquires(1, |index, semaphore| match index {
                0 => semaphore.acquire_timeout(YEAR / 2).unwrap(),
                _ => semaphore.acquire().ok(),
            });
        });
    }

    #[test]
    fn none_is_lost_to_a_waiter_that_is_interrupted() {
        check(|| {
            let semaphore = Arc::new(Semaphore::new(1));
            let current = Arc::<Current>::default();
            let (other, interrupted) = (semaphore.clone(), current.clone());
            let thread = thread::spawn(move || interrupted.run(|| drop(other.acquire())));
            let permit = semaphore.acquire();
            current.interrupt();
            drop(permit);
            thread.join().unwrap();
            assert_eq!(semaphore.available(), 1);
        });
    }
}
