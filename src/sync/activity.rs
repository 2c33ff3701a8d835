//! [`Activity`]: what a request is doing now.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::clock;

/// What the handler of a request is doing now, as far as this crate sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// It runs: it computes, or waits for something that this crate does not know, such as a file.
    #[default]
    Running,
    /// It waits for input of its client, or of an upstream.
    Reading,
    /// It waits for room for output to one of them.
    Writing,
    /// It connects to an upstream.
    Connecting,
    /// It [sleeps](crate::Fibers::sleep).
    Sleeping,
    /// It waits for a lock of [`sync`](crate::sync).
    Locking,
    /// It waits for a [condition variable](crate::sync), a message in a channel, a semaphore, or to be
    /// [unparked](crate::sync::Parker).
    Waiting,
    /// It waits for a job that it has [offloaded](crate::Fibers::offload).
    Offloading,
}

impl Activity {
    const ALL: [Activity; 8] = [
        Activity::Running,
        Activity::Reading,
        Activity::Writing,
        Activity::Connecting,
        Activity::Sleeping,
        Activity::Locking,
        Activity::Waiting,
        Activity::Offloading,
    ];
}

/// The verb, as in "the handler reads".
impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activity::Running => "runs",
            Activity::Reading => "reads",
            Activity::Writing => "writes",
            Activity::Connecting => "connects",
            Activity::Sleeping => "sleeps",
            Activity::Locking => "waits for a lock",
            Activity::Waiting => "waits for other requests or threads",
            Activity::Offloading => "waits for an offloaded job",
        })
    }
}

/// An activity, and since when: written by the thread or fiber that does it, read by others.
#[derive(Debug, Default)]
pub(crate) struct ActivityCell(AtomicU64);

impl ActivityCell {
    /// Returns the time, by [`clock::coarse_millis`].
    #[inline(always)]
    pub(crate) fn set(&self, activity: Activity) -> u64 {
        let now = clock::coarse_millis();
        // Milliseconds are 61 bits.
        self.0.store(now << 3 | activity as u64, Ordering::Relaxed);
        now
    }

    /// What it is, and for how long. Both are zero before the first [`set`](ActivityCell::set).
    pub(crate) fn load(&self) -> (Activity, Duration) {
        let word = self.0.load(Ordering::Relaxed);
        if word == 0 {
            return (Activity::Running, Duration::ZERO);
        }
        let time = clock::coarse_millis().saturating_sub(word >> 3);
        (Activity::ALL[(word & 7) as usize], Duration::from_millis(time))
    }
}
