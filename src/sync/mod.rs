//! Waiting for other requests, and for other threads of the program: what std and `crossbeam` have for
//! threads, for handlers under every mixin. Each of these blocks a thread and suspends a fiber, and
//! ends when a stop is out of time.
//!
//! | | waits for | its API is that of | at the end of a stop |
//! | --- | --- | --- | --- |
//! | [`Mutex`], [`RwLock`] | a lock | `parking_lot` | `lock` goes on, `try_lock_for` returns `None` |
//! | [`Condvar`] | a notification | `parking_lot` | [`Error::Stopped`](crate::Error::Stopped) |
//! | [`Semaphore`] | a permit | | [`Error::Stopped`](crate::Error::Stopped) |
//! | [`channel`] | a message, or room for it | `crossbeam-channel` | an error, as if disconnected |
//! | [`Parker`] | to be unparked | `crossbeam` | [`Error::Stopped`](crate::Error::Stopped) |
//!
//! All of them may be used by handlers and by other threads at the same time. Only a wait within
//! a handler is ended by a stop: that of the handler's own server. A wait of another thread is not.

mod activity;
pub mod channel;
mod condvar;
mod current;
mod inputs;
mod lock_queue;
mod locks;
mod park_token;
mod parker;
mod scope;
mod semaphore;
mod time_limit;
mod wait_queue;
mod waitable;

pub use activity::Activity;
pub(crate) use activity::ActivityCell;
pub use condvar::{Condvar, WaitTimeoutResult};
#[cfg(feature = "fibers")]
pub(crate) use current::sleep;
pub(crate) use current::{Current, Interrupted, Resume, Resumer, Suspend, suspends};
pub(crate) use inputs::{Input, InputKind, Inputs, poll_inputs};
pub use locks::{
    MappedMutexGuard, MappedRwLockReadGuard, MappedRwLockWriteGuard, Mutex, MutexGuard, RawMutex,
    RawRwLock, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub(crate) use park_token::ParkToken;
pub use parker::{Parker, Unparker};
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use semaphore::{Permit, Semaphore};
pub(crate) use time_limit::TimeLimit;
pub(crate) use waitable::Waitable;
