//! [`WaitingLocks`]: the threads and fibers that wait for a lock, and who of them is next.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Activity, Current};
#[cfg(debug_assertions)]
use crate::primitive::atomic::{AtomicUsize, Ordering};
use crate::primitive::{Mutex, has_passed};
use crate::sys::raw_lock::{Access, Attempt, Held, LockQueue, Reserved};

/// A waiter that has waited for so long gets the lock next. Until then the lock is free when it is
/// released, and goes to the first that asks: most often one that runs already, which is faster for
/// all together than to resume another one for each turn.
const MAX_WAIT: Duration = Duration::from_micros(500);

/// A FIFO queue. A waiter stays in it until it has the lock, or gives up: one that was resumed, and
/// came too late, is still the first.
pub struct WaitingLocks {
    waiters: Mutex<VecDeque<Waiter>>,
    /// The address of the writer's [`Current`]; zero if there is no writer.
    #[cfg(debug_assertions)]
    writer: AtomicUsize,
}

struct Waiter {
    current: Arc<Current>,
    access: Access,
    since: Instant,
    /// It was unparked, and has not tried since then.
    is_unparked: bool,
}

impl LockQueue for WaitingLocks {
    const NEW: WaitingLocks = WaitingLocks {
        waiters: Mutex::new(VecDeque::new()),
        #[cfg(debug_assertions)]
        writer: AtomicUsize::new(0),
    };

    fn wait(&self, attempt: &mut Attempt<'_>, deadline: Option<Instant>) {
        let current = Current::get();
        #[cfg(debug_assertions)]
        assert!(
            deadline.is_some() || self.writer.load(Ordering::Relaxed) != address(&current),
            "deadlock: this thread or fiber waits for a lock that it holds itself"
        );
        current.doing(Activity::Locking, || self.wait_in_turn(&current, attempt, deadline));
    }

    fn release(&self, held: Held<'_>) {
        let mut waiters = self.waiters.lock();
        let is_overdue = |first: &Waiter| Reserved(has_passed(MAX_WAIT, first.since));
        let next = match held.release(waiters.front().map(is_overdue)) {
            true => next(&mut waiters),
            false => Vec::new(),
        };
        drop(waiters);
        unpark(next);
    }

    #[cfg(debug_assertions)]
    fn set_writer(&self, holds: bool) {
        let writer = if holds { address(&Current::get()) } else { 0 };
        self.writer.store(writer, Ordering::Relaxed);
    }
}

#[cfg(debug_assertions)]
fn address(current: &Arc<Current>) -> usize {
    Arc::as_ptr(current).addr()
}

impl WaitingLocks {
    fn wait_in_turn(
        &self,
        current: &Arc<Current>,
        attempt: &mut Attempt<'_>,
        deadline: Option<Instant>,
    ) {
        let mut waiters = self.waiters.lock();
        waiters.push_back(Waiter {
            current: current.clone(),
            access: attempt.access(),
            since: Instant::now(),
            is_unparked: false,
        });
        let mut interrupted = false;
        loop {
            let Some(position) = waiters.iter().position(|waiter| waiter.is(current)) else {
                return;
            };
            // No lost wake-up: `take_turn` notes in the lock's word that there is a queue, in one step
            // with finding it held. From then on it is released under this queue's lock.
            if is_turn(&waiters, position) && attempt.take_turn(waiters.len() > 1) {
                waiters.remove(position);
                return;
            }
            if interrupted {
                return self.give_up(waiters, position, attempt);
            }
            waiters[position].is_unparked = false;
            drop(waiters);
            match deadline {
                None => current.park_uninterrupted(None),
                Some(_) => interrupted = current.park(deadline).is_err(),
            }
            waiters = self.waiters.lock();
        }
    }

    fn give_up(
        &self,
        mut waiters: impl std::ops::DerefMut<Target = VecDeque<Waiter>>,
        position: usize,
        attempt: &Attempt<'_>,
    ) {
        waiters.remove(position);
        if waiters.is_empty() {
            attempt.clear_queued();
        }
        // The readers behind a writer need not wait any more, if readers hold the lock.
        let next = next(&mut waiters);
        drop(waiters);
        unpark(next);
    }
}

impl Waiter {
    fn is(&self, current: &Arc<Current>) -> bool {
        Arc::ptr_eq(&self.current, current)
    }
}

/// The first has its turn, and if that is a reader, the readers that follow.
fn is_turn(waiters: &VecDeque<Waiter>, position: usize) -> bool {
    position == 0 || waiters.range(..=position).all(|waiter| waiter.access == Access::Read)
}

/// Those whose turn it is, and that have not been unparked for it.
fn next(waiters: &mut VecDeque<Waiter>) -> Vec<Arc<Current>> {
    let first = waiters.front().map(|waiter| waiter.access);
    let count = match first {
        None => 0,
        Some(Access::Write) => 1,
        Some(Access::Read) => {
            waiters.iter().take_while(|waiter| waiter.access == Access::Read).count()
        }
    };
    let next = waiters.iter_mut().take(count).filter(|waiter| !waiter.is_unparked);
    next.map(|waiter| {
        waiter.is_unparked = true;
        waiter.current.clone()
    })
    .collect()
}

/// To be called without the queue's lock, which they take at once.
fn unpark(waiters: Vec<Arc<Current>>) {
    waiters.iter().for_each(|waiter| waiter.unpark());
}

impl fmt::Debug for WaitingLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitingLocks")
    }
}

#[cfg(all(test, shuttle))]
mod model {
    use super::*;
    use crate::primitive::atomic::{AtomicUsize, Ordering};
    use crate::primitive::model::{YEAR, check};
    use crate::primitive::thread;
    use crate::sync::{Mutex, RwLock};

    fn spawn_each(count: usize, run: impl Fn(usize) + Send + Sync + 'static) {
        let run = Arc::new(run);
        let spawn = |index| {
            let run = run.clone();
            thread::spawn(move || run(index))
        };
        let threads: Vec<_> = (0..count).map(spawn).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// How many readers and writers hold a lock.
    #[derive(Default)]
    struct Holders {
        readers: AtomicUsize,
        writers: AtomicUsize,
    }

    impl Holders {
        fn write(&self) {
            assert_eq!(self.writers.fetch_add(1, Ordering::SeqCst), 0);
            assert_eq!(self.readers.load(Ordering::SeqCst), 0);
            self.writers.fetch_sub(1, Ordering::SeqCst);
        }

        fn read(&self) {
            self.readers.fetch_add(1, Ordering::SeqCst);
            assert_eq!(self.writers.load(Ordering::SeqCst), 0);
            self.readers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A lost wake-up would leave a thread asleep, which shuttle reports as a deadlock.
    #[test]
    fn a_mutex_has_one_holder_and_no_wake_up_is_lost() {
        check(|| {
            let state = (Mutex::new(()), Holders::default());
            spawn_each(3, move |_| {
                for _ in 0..2 {
                    let _guard = state.0.lock();
                    state.1.write();
                }
            });
        });
    }

    #[test]
    fn a_mutex_is_not_lost_to_a_waiter_that_gives_up() {
        check(|| {
            let state = (Mutex::new(()), Holders::default());
            spawn_each(3, move |index| {
                for _ in 0..2 {
                    let guard = match index {
                        0 => state.0.try_lock_for(YEAR / 2),
                        _ => Some(state.0.lock()),
                    };
                    guard.inspect(|_| state.1.write());
                }
            });
        });
    }

    #[test]
    fn an_interrupted_waiter_gives_up_and_no_wake_up_is_lost() {
        check(|| {
            let mutex = Arc::new(Mutex::new(()));
            let guard = mutex.lock();
            let waiters = [Arc::<Current>::default(), Arc::default()];
            let [first, second] = waiters.clone();
            let (other, another) = (mutex.clone(), mutex.clone());
            let threads = [
                thread::spawn(move || {
                    first.run(|| assert!(other.try_lock_for(2 * YEAR).is_none()));
                }),
                // It is interrupted too, but does not give up.
                thread::spawn(move || second.run(|| drop(another.lock()))),
            ];
            waiters.iter().for_each(|waiter| waiter.interrupt());
            let [first, second] = threads;
            first.join().unwrap();
            drop(guard);
            second.join().unwrap();
        });
    }

    #[test]
    fn writers_exclude_all_others_and_no_wake_up_is_lost() {
        check(|| {
            let state = (RwLock::new(()), Holders::default());
            spawn_each(4, move |index| match index {
                0 => {
                    let _guard = state.0.write();
                    state.1.write();
                }
                _ => {
                    let guard = state.0.read();
                    state.1.read();
                    drop(guard);
                    if index == 1 {
                        let _guard = state.0.write();
                        state.1.write();
                    }
                }
            });
        });
    }

    /// The reader that waits behind the writer can come in at once, as the other reader is still
    /// there, and leaves only after it.
    #[test]
    fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
        check(|| {
            let lock = Arc::new(RwLock::new(()));
            let guard = lock.read();
            let (other, another) = (lock.clone(), lock.clone());
            let writer = thread::spawn(move || drop(other.try_write_for(YEAR / 2)));
            let reader = thread::spawn(move || drop(another.read()));
            reader.join().unwrap();
            drop(guard);
            writer.join().unwrap();
        });
    }
}
