//! Locks, condition variables, channels, atomics and threads for the files that have a model.
//! Ordinarily they are `parking_lot`'s, `crossbeam_channel`'s and std's; in a model the scheduler
//! chooses the order in which threads take their steps.

mod sleep_flag;

#[cfg(not(all(test, shuttle)))]
pub(crate) use crossbeam_channel as channel;
/// Channels of which only the calls that do not wait are used.
#[cfg(not(all(test, shuttle)))]
pub(crate) use crossbeam_channel as queue;
#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Condvar, Mutex};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{sync::atomic, thread, thread_local};

#[cfg(all(test, shuttle))]
pub(crate) mod model;
#[cfg(all(test, shuttle))]
pub(crate) use model::{Condvar, Mutex, atomic, channel, has_passed, queue, thread, thread_local};

pub(crate) use sleep_flag::SleepFlag;

/// Whether this much time has passed since then.
#[cfg(not(all(test, shuttle)))]
pub(crate) fn has_passed(time: std::time::Duration, since: std::time::Instant) -> bool {
    since.elapsed() >= time
}
