//! A child process, as [`Forking`](super::Forking) and [`Prefork`](super::Prefork) make it.

use std::io::{self, Write};
use std::time::Duration;

use super::ForkDespiteThreads;
use crate::connection::prepare_thread;
use crate::error::{Error, Result};
use crate::sys::children;
use crate::sys::fork::{self, Fork, ForkPermit};

/// The exit status of a child that has failed: that cannot start, or with its request, or before all of
/// its requests have ended.
pub(super) const FAILED: i32 = 1;

/// The exit status of a child that has panicked.
pub(super) const PANICKED: i32 = 101;

/// How long a killed child may take to exit; the kernel needs well under a millisecond.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(1);

/// Before the first fork.
///
/// # Errors
/// If this process must not fork, or the system cannot watch children.
pub(super) fn prepare_to_fork(despite_threads: Option<ForkDespiteThreads>) -> Result<()> {
    prepare_thread();
    permit(despite_threads)?;
    probe()
}

/// Whether the system can watch children.
pub(super) fn probe() -> Result<()> {
    children::probe().map_err(Error::system(children::NEEDS))
}

pub(super) fn fork(despite_threads: Option<ForkDespiteThreads>) -> Result<Fork> {
    let permit = permit(despite_threads)?;
    if despite_threads.is_none() {
        // A child would write the parent's output again. (Another thread could hold the lock.)
        let _ = io::stdout().flush();
    }
    fork::fork(permit).map_err(Error::system("fork"))
}

fn permit(despite_threads: Option<ForkDespiteThreads>) -> Result<ForkPermit> {
    match ForkPermit::obtain(despite_threads) {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(count)) => Err(Error::OtherThreads { count }),
        Err(error) => Err(Error::system("count the threads of this process")(error)),
    }
}
