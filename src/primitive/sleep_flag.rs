//! [`SleepFlag`]: a sleeper that is woken only when it asked for it.

use super::atomic::{AtomicBool, Ordering};

/// Says that a thread is about to sleep until something changes. The thread that makes the change
/// has to wake it then, and only then.
///
/// The sleeper arms the flag, looks once more whether there is something to do, and sleeps. The
/// other thread makes its change, and then wakes the sleeper if [`take`](SleepFlag::take) says so.
/// The order of the two steps on both sides prevents a lost wake-up: either the sleeper's second look
/// sees the change, or the other thread sees the flag.
#[derive(Debug, Default)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// To be called before the last look.
    pub(crate) fn arm(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// To be called after the change: whether the sleeper has to be woken. Disarms the flag.
    #[must_use]
    pub(crate) fn take(&self) -> bool {
        // The load alone costs next to nothing, and most often no thread sleeps.
        self.0.load(Ordering::SeqCst) && self.0.swap(false, Ordering::SeqCst)
    }
}

#[cfg(all(test, shuttle))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::primitive::model::{check, check_all};
    use crate::primitive::{Condvar, Mutex, thread};

    /// One thread sleeps until each of the others has made a change; each of them wakes it if the
    /// flag says so. A lost wake-up would leave it asleep, which shuttle reports as a deadlock.
    fn sees_every_change(others: usize) {
        let flag = Arc::new(SleepFlag::default());
        let (changes, alarm) =
            (Arc::new(Mutex::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let threads: Vec<_> = (0..others)
            .map(|_| {
                let (flag, changes, alarm) = (flag.clone(), changes.clone(), alarm.clone());
                thread::spawn(move || {
                    *changes.lock() += 1;
                    if flag.take() {
                        *alarm.0.lock() = true;
                        alarm.1.notify_one();
                    }
                })
            })
            .collect();
        loop {
            flag.arm();
            if *changes.lock() == others {
                break;
            }
            let mut rings = alarm.0.lock();
            alarm.1.wait_while_for(&mut rings, |rings| !*rings, crate::primitive::model::YEAR * 2);
            *rings = false;
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn no_wake_up_is_lost_by_one() {
        check_all(|| sees_every_change(1));
    }

    #[test]
    fn no_wake_up_is_lost_by_two() {
        check(|| sees_every_change(2));
    }
}
