//! The stop on a signal, and signals that are counted.

use std::error::Error;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

use super::Outcome;

/// Writes a byte to a pipe at the first `SIGINT` or `SIGTERM`, and exits at the second. There is no
/// thread for signals, since a forking server needs a process with one thread.
pub(crate) fn on_signals<P: Into<OwnedFd> + 'static>(
    pipe: impl Fn() -> Result<P, Box<dyn Error>>,
) -> Outcome {
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal, the flag is set after it was checked.
        flag::register_conditional_shutdown(signal, 128 + signal, signalled.clone())?;
        flag::register(signal, signalled.clone())?;
        pipe::register(signal, pipe()?)?;
    }
    Ok(())
}

/// A signal's arrivals, each of which one process or thread takes.
pub(super) struct Signals(PipeReader);

impl Signals {
    pub(super) fn of(signal: i32) -> io::Result<Signals> {
        let (reader, writer) = io::pipe()?;
        pipe::register(signal, writer)?;
        Ok(Signals(reader))
    }

    /// Waits for the next one. `false` if there is none any more.
    pub(super) fn wait(&self) -> bool {
        (&self.0).read_exact(&mut [0]).is_ok()
    }

    /// Takes one that has arrived.
    pub(super) fn take(&self) -> bool {
        let non_blocking = rustix::io::ioctl_fionbio(&self.0, true);
        non_blocking.is_ok() && (&self.0).read(&mut [0]).is_ok_and(|length| length == 1)
    }
}

/// How often this program has got a signal, in each of its processes the same.
///
/// The signal's handler writes a byte to a pipe, and nothing reads them: after 65,536 no more are counted.
#[derive(Clone)]
pub(super) struct SignalCount(Arc<PipeReader>);

impl SignalCount {
    pub(super) fn of(signal: i32) -> io::Result<SignalCount> {
        let (reader, writer) = io::pipe()?;
        pipe::register(signal, writer)?;
        Ok(SignalCount(Arc::new(reader)))
    }

    pub(super) fn total(&self) -> u64 {
        rustix::io::ioctl_fionread(&*self.0).unwrap_or(0)
    }
}
