//! [`ParkToken`]: what a thread or fiber parks on.

use std::rc::Rc;
use std::time::Instant;

use super::{Resumer, Suspend, suspends};
use crate::primitive::atomic::{AtomicU8, Ordering};
use crate::primitive::{Condvar, Mutex};

/// At most one token, and at most one thread or fiber that is parked until there is one.
#[derive(Debug, Default)]
pub(crate) struct ParkToken {
    state: AtomicU8,
    /// How to resume what is parked; `None` for a thread, which waits for `condvar`.
    sleeper: Mutex<Option<Resumer>>,
    condvar: Condvar,
}

const EMPTY: u8 = 0;
const PARKED: u8 = 1;
const NOTIFIED: u8 = 2;

impl ParkToken {
    /// Makes the token available, and resumes what is parked.
    pub(crate) fn unpark(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) != PARKED {
            return;
        }
        // A thread holds the lock from before it is `PARKED` until it waits for `condvar`: else the
        // notification could come before the wait (lost wake-up).
        let fiber = self.sleeper.lock().clone();
        match fiber {
            Some(fiber) => fiber.resume(),
            None => _ = self.condvar.notify_one(),
        }
    }

    /// Takes the token; waits for it until the deadline (`None`: for ever). Returns whether there was
    /// one.
    pub(crate) fn park(&self, deadline: Option<Instant>) -> bool {
        if self.take() {
            return true;
        }
        match suspends() {
            Some((suspend, resumer)) => self.park_fiber(&suspend, resumer, deadline),
            None => self.park_thread(deadline),
        }
    }

    /// Takes the token if there is one.
    pub(crate) fn take(&self) -> bool {
        self.replace(NOTIFIED, EMPTY)
    }

    /// Calls `look` until it returns something. In between it calls `sleep`, which has to return when
    /// `resumer` was called, but may return at any time.
    ///
    /// It is called if there was a token since before the look (no lost wake-up): what makes `look` find
    /// something is done first, and the token made available after it.
    pub(crate) fn wait_with<R, E>(
        &self,
        resumer: &Resumer,
        mut look: impl FnMut() -> Option<Result<R, E>>,
        mut sleep: impl FnMut() -> Result<(), E>,
    ) -> Result<R, E> {
        loop {
            let is_armed = self.arm(resumer);
            let _disarm = Disarm(self);
            if let Some(found) = look() {
                return found;
            }
            // Looking may have made it available on this thread, where no resumer ends a later sleep.
            if is_armed && self.state.load(Ordering::SeqCst) == PARKED {
                sleep()?;
            }
        }
    }

    /// From now on a token calls `resumer`. `false` if there is one already, which is taken.
    fn arm(&self, resumer: &Resumer) -> bool {
        *self.sleeper.lock() = Some(resumer.clone());
        self.replace(EMPTY, PARKED) || {
            self.take();
            false
        }
    }

    fn replace(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn park_fiber(
        &self,
        suspend: &Rc<dyn Suspend>,
        resumer: Resumer,
        deadline: Option<Instant>,
    ) -> bool {
        *self.sleeper.lock() = Some(resumer);
        if !self.replace(EMPTY, PARKED) {
            return self.take();
        }
        loop {
            suspend.suspend(deadline);
            if self.take() {
                return true;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return self.state.swap(EMPTY, Ordering::SeqCst) == NOTIFIED;
            }
        }
    }

    fn park_thread(&self, deadline: Option<Instant>) -> bool {
        let mut sleeper = self.sleeper.lock();
        *sleeper = None;
        if !self.replace(EMPTY, PARKED) {
            return self.take();
        }
        loop {
            let timed_out = match deadline {
                Some(deadline) => self.condvar.wait_until(&mut sleeper, deadline).timed_out(),
                None => {
                    self.condvar.wait(&mut sleeper);
                    false
                }
            };
            if self.take() {
                return true;
            }
            if timed_out {
                return self.state.swap(EMPTY, Ordering::SeqCst) == NOTIFIED;
            }
        }
    }
}

/// Takes the token, and ends an [`arm`](ParkToken::arm).
struct Disarm<'a>(&'a ParkToken);

impl Drop for Disarm<'_> {
    fn drop(&mut self) {
        self.0.state.swap(EMPTY, Ordering::SeqCst);
    }
}

#[cfg(all(test, shuttle))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::primitive::atomic::{AtomicBool, AtomicUsize};
    use crate::primitive::model::{YEAR, check};
    use crate::primitive::thread;
    use crate::sync::Resume;

    /// Each round of one thread is answered by the other: a lost token leaves both parked.
    fn passes_a_token_to_and_fro(deadline: fn() -> Option<Instant>) {
        let tokens = Arc::new([ParkToken::default(), ParkToken::default()]);
        let count = Arc::new(AtomicUsize::new(0));
        let other = {
            let (tokens, count) = (tokens.clone(), count.clone());
            thread::spawn(move || {
                for round in 1..=3 {
                    while count.load(Ordering::SeqCst) != round {
                        tokens[1].park(None);
                    }
                    count.store(round + 10, Ordering::SeqCst);
                    tokens[0].unpark();
                }
            })
        };
        for round in 1..=3 {
            count.store(round, Ordering::SeqCst);
            tokens[1].unpark();
            while count.load(Ordering::SeqCst) != round + 10 {
                tokens[0].park(deadline());
            }
        }
        other.join().unwrap();
    }

    /// In place of an eventfd, and the poll(2) that waits for it.
    #[derive(Default)]
    struct EventFd {
        is_readable: Mutex<bool>,
        written: Condvar,
    }

    impl Resume for EventFd {
        fn resume(&self, _number: u64) {
            *self.is_readable.lock() = true;
            self.written.notify_one();
        }
    }

    /// Each source is set once, before the token. A thread that looks at both finds both.
    fn finds_what_is_ready(timeout: std::time::Duration) {
        let token = Arc::new(ParkToken::default());
        let sources = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let threads = [0, 1].map(|index| {
            let (token, sources) = (token.clone(), sources.clone());
            thread::spawn(move || {
                sources[index].store(true, Ordering::SeqCst);
                token.unpark();
            })
        });
        let event_fd = Arc::new(EventFd::default());
        let resumer = Resumer { resume: event_fd.clone(), number: 0 };
        for _ in 0..2 {
            let look = || {
                let found = sources.iter().position(|source| source.swap(false, Ordering::SeqCst));
                found.map(Ok)
            };
            let sleep = || {
                let mut is_readable = event_fd.is_readable.lock();
                let deadline = Instant::now() + timeout;
                if !*is_readable {
                    event_fd.written.wait_until(&mut is_readable, deadline);
                }
                *is_readable = false;
                Ok(())
            };
            let found: Result<usize, ()> = token.wait_with(&resumer, look, sleep);
            found.unwrap();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // Parking in the other way after that loses none either.
        let unparker = token.clone();
        let thread = thread::spawn(move || unparker.unpark());
        assert!(token.park(None));
        thread.join().unwrap();
    }

    #[test]
    fn nothing_that_is_ready_is_missed() {
        check(|| finds_what_is_ready(2 * YEAR));
    }

    #[test]
    fn nothing_is_missed_when_sleeps_end_early() {
        check(|| finds_what_is_ready(YEAR / 2));
    }

    #[test]
    fn no_token_is_lost() {
        check(|| passes_a_token_to_and_fro(|| None));
    }

    #[test]
    fn none_is_lost_when_waits_time_out() {
        check(|| passes_a_token_to_and_fro(|| Some(Instant::now() + YEAR / 2)));
    }
}
