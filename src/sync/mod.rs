//! Locks, condition variables, channels, atomics and threads for the files that have a model.
//! Ordinarily they are `parking_lot`'s, `crossbeam_channel`'s and std's; in a model the scheduler
//! chooses the order in which threads take their steps.

mod sleep_flag;

#[cfg(not(all(test, shuttle)))]
pub(crate) use crossbeam_channel as channel;
#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Condvar, Mutex};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::{sync::atomic, thread};

#[cfg(all(test, shuttle))]
pub(crate) mod model;
#[cfg(all(test, shuttle))]
pub(crate) use model::{Condvar, Mutex, atomic, channel, thread};

pub(crate) use sleep_flag::SleepFlag;
