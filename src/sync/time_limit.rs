//! [`TimeLimit`]: until when the code that runs now may wait
//! ([`Connection::within`](crate::Connection::within)).

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::Current;
use crate::error::Error;

thread_local! {
    /// How many limits have begun on this thread, on all of its fibers, and not ended. While it is 0,
    /// that there is no limit takes one load.
    static ACTIVE: Cell<u32> = const { Cell::new(0) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    pub(crate) deadline: Instant,
    /// How long it was when it began.
    pub(crate) timeout: Duration,
}

impl TimeLimit {
    /// `timeout` must be in the range of the clock.
    pub(crate) fn after(timeout: Duration) -> TimeLimit {
        TimeLimit { deadline: Instant::now() + timeout, timeout }
    }

    /// That of the code that calls this.
    #[inline(always)]
    pub(crate) fn current() -> Option<TimeLimit> {
        if ACTIVE.get() == 0 { None } else { TimeLimit::find() }
    }

    #[cold]
    #[inline(never)]
    fn find() -> Option<TimeLimit> {
        Current::get().time_limit()
    }

    /// The earlier of this and one that began before; the latter if both are equal.
    fn or_earlier(self, before: Option<TimeLimit>) -> TimeLimit {
        before.filter(|before| before.deadline <= self.deadline).unwrap_or(self)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.deadline <= Instant::now()
    }

    pub(crate) fn error(&self) -> Error {
        Error::Timeout { limit: self.timeout }
    }

    /// Runs `call` with this limit, or the one that there is if that is earlier.
    pub(crate) fn run<R>(self, call: impl FnOnce() -> R) -> R {
        struct Restore<'a>(&'a Current, Option<TimeLimit>);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                self.0.set_time_limit(self.1);
            }
        }
        let _active = Active::begin();
        let current = Current::get();
        let before = current.time_limit();
        current.set_time_limit(Some(self.or_earlier(before)));
        let _restore = Restore(&current, before);
        call()
    }
}

/// A limit that has begun on this thread; it ends when this is dropped.
pub(super) struct Active(());

impl Active {
    pub(super) fn begin() -> Active {
        ACTIVE.set(ACTIVE.get() + 1);
        Active(())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.set(ACTIVE.get() - 1);
    }
}

/// Whether a limit has begun on this thread.
pub(super) fn may_be_limited() -> bool {
    ACTIVE.get() > 0
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn of_nested_limits_the_earlier_deadline_wins_and_the_outer_one_returns() {
        let current = || TimeLimit::current().map(|limit| limit.timeout);
        assert_eq!(current(), None);
        TimeLimit::after(HOUR).run(|| {
            TimeLimit::after(2 * HOUR).run(|| assert_eq!(current(), Some(HOUR)));
            TimeLimit::after(HOUR / 2).run(|| assert_eq!(current(), Some(HOUR / 2)));
            let panics = || TimeLimit::after(HOUR / 2).run(|| panic!("as it should"));
            catch_unwind(panics).unwrap_err();
            assert_eq!(current(), Some(HOUR));
        });
        assert_eq!((current(), may_be_limited()), (None, false));
    }

    #[test]
    fn a_part_on_another_thread_has_the_limit_of_the_whole() {
        let current = || TimeLimit::current().map(|limit| limit.timeout);
        TimeLimit::after(HOUR).run(|| {
            let part = Current::get().new_part();
            std::thread::spawn(move || {
                assert_eq!(part.run(current), Some(HOUR));
                assert_eq!((current(), may_be_limited()), (None, false));
            })
            .join()
            .unwrap();
        });
    }
}
