//! [`Parker`]: the primitive on which all waits of this module are built.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Activity, Current, Interrupted, ParkToken};
use crate::error::Result;

/// Parks the thread or fiber that calls it until another one unparks it, as
/// [`crossbeam::sync::Parker`](https://docs.rs/crossbeam/latest/crossbeam/sync/struct.Parker.html)
/// does for threads.
///
/// A parker has a token, which is absent at first. [`park`](Parker::park) waits for it and takes it
/// away; [`unpark`](Unparker::unpark) makes it available.
///
/// Within a handler, every wait fails with [`Error::Stopped`](crate::Error::Stopped) when a stop of the
/// server is out of time, or nearly so, and with [`Error::Timeout`](crate::Error::Timeout) at the end of
/// a [`Connection::within`](crate::Connection::within).
///
/// ```
/// use socketserver::sync::Parker;
///
/// let parker = Parker::new();
/// let unparker = parker.unparker().clone();
/// let thread = std::thread::spawn(move || unparker.unpark());
/// parker.park()?;
/// # thread.join().unwrap();
/// # Ok::<(), socketserver::Error>(())
/// ```
pub struct Parker {
    unparker: Unparker,
    /// One thread or fiber at a time parks: not `Sync`.
    not_sync: PhantomData<Cell<()>>,
}

/// Unparks a [`Parker`], from any thread. Clones unpark the same one.
#[derive(Clone)]
pub struct Unparker(Arc<ParkToken>);

impl Default for Parker {
    fn default() -> Parker {
        Parker::new()
    }
}

impl Parker {
    /// A parker without its token.
    pub fn new() -> Parker {
        Parker { unparker: Unparker(Arc::default()), not_sync: PhantomData }
    }

    /// Waits for the token, and takes it.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped), [`Error::Timeout`](crate::Error::Timeout).
    pub fn park(&self) -> Result<()> {
        self.wait(None).map(drop)
    }

    /// As [`park`](Parker::park), at most for `timeout`. Returns whether there was a token.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped), [`Error::Timeout`](crate::Error::Timeout).
    pub fn park_timeout(&self, timeout: Duration) -> Result<bool> {
        self.wait(Instant::now().checked_add(timeout))
    }

    /// As [`park`](Parker::park), at most until `deadline`. Returns whether there was a token.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped), [`Error::Timeout`](crate::Error::Timeout).
    pub fn park_deadline(&self, deadline: Instant) -> Result<bool> {
        self.wait(Some(deadline))
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<bool> {
        let current = Current::get();
        let token = &self.unparker.0;
        match current.doing(Activity::Waiting, || current.park_on(token, deadline)) {
            Ok(()) => Ok(true),
            Err(Interrupted::TimedOut) => Ok(false),
            Err(interrupted) => Err(interrupted.into()),
        }
    }

    /// What unparks it.
    pub fn unparker(&self) -> &Unparker {
        &self.unparker
    }
}

impl Unparker {
    /// Makes the token available: the next [`park`](Parker::park), or the one that goes on now,
    /// returns.
    pub fn unpark(&self) {
        self.0.unpark();
    }
}

impl fmt::Debug for Parker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parker")
    }
}

impl fmt::Debug for Unparker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unparker")
    }
}
