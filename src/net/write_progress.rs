//! [`WriteProgress`]: whether the peer takes what is written to it, in time.

use std::io;
use std::time::{Duration, Instant};

use super::Stream;
use crate::config::MinRate;
use crate::sync::TimeLimit;

/// The limits of one write, and what the peer has taken since it began.
///
/// Progress is what the peer has acknowledged, or read from a Unix socket
/// ([`Stream::unacknowledged`]), not what the kernel has room for: that wakes a writer only when a
/// third of the send buffer is free, and the buffer may be megabytes. So a blocked write waits in
/// slices, and looks at the end of each. A write that does not block makes no call for this.
pub(crate) struct WriteProgress {
    timeout: Option<Duration>,
    rate: Option<(MinRate, Instant)>,
    total: WriteTotal,
    stall: Option<Stall>,
    within: Option<TimeLimit>,
    exceeded: WriteLimit,
}

/// The limit that a blocked write has exceeded.
#[derive(Clone, Copy)]
pub(crate) enum WriteLimit {
    Timeout,
    Rate,
    /// The [`TimeLimit`].
    Within,
}

/// What the peer of a connection has taken of all writes, as far as blocked writes have looked.
///
/// Acknowledgements come in jumps, of megabytes if the peer has a large receive buffer and reads
/// slowly. What one brings counts for the writes after it too.
#[derive(Clone, Copy, Default)]
pub(crate) struct WriteTotal {
    written: u64,
    acknowledged: u64,
    /// With a rate: for how long what was acknowledged is enough.
    enough_until: Option<Instant>,
}

/// A time in which nothing could be written.
struct Stall {
    /// When the peer was last found to have acknowledged something, at first when it began.
    last_progress: Instant,
    unacknowledged: usize,
}

impl WriteProgress {
    pub(crate) fn new(
        timeout: Option<Duration>,
        rate: Option<MinRate>,
        total: WriteTotal,
    ) -> WriteProgress {
        let rate = rate.map(|rate| (rate, Instant::now()));
        let exceeded = WriteLimit::Timeout;
        WriteProgress { timeout, rate, total, stall: None, within: None, exceeded }
    }

    /// The same with one more limit.
    pub(crate) fn within(self, limit: Option<TimeLimit>) -> WriteProgress {
        WriteProgress { within: limit, ..self }
    }

    pub(crate) fn total(&self) -> WriteTotal {
        self.total
    }

    /// How long one attempt of a blocked write waits: an eighth of the timeout, which is so exceeded
    /// by a quarter at most.
    pub(crate) fn slice(timeout: Duration) -> Duration {
        (timeout / 8).max(Duration::from_millis(1))
    }

    /// Whether the stream itself may block in a write, for one slice (`SO_SNDTIMEO`).
    pub(super) fn may_block(&self) -> bool {
        self.rate.is_none() && self.within.is_none()
    }

    pub(crate) fn add_written(&mut self, length: usize) {
        self.total.written += length as u64;
        self.stall = None;
    }

    /// To be called after an attempt that found no room. Returns until when to wait for some; `None`:
    /// for ever.
    ///
    /// # Errors
    /// `TimedOut` if a limit is exceeded.
    pub(crate) fn blocked(&mut self, stream: &dyn Stream) -> io::Result<Option<Instant>> {
        if self.timeout.is_none() && self.rate.is_none() && self.within.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let unacknowledged = stream.unacknowledged().unwrap_or(0);
        let last_progress = match &self.stall {
            Some(stall) if unacknowledged >= stall.unacknowledged => stall.last_progress,
            _ => now,
        };
        self.stall = Some(Stall { last_progress, unacknowledged });

        let write = self.timeout.map(|timeout| after(last_progress, timeout));
        let rate = self.rate.map(|(rate, started)| {
            let enough_until = self.total.look(unacknowledged, rate, started);
            after(enough_until, rate.grace)
        });
        let within = self.within.map(|limit| limit.deadline);
        let deadline = [rate, write, within].into_iter().flatten().min();
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.exceeded = if rate == deadline {
                WriteLimit::Rate
            } else if within == deadline {
                WriteLimit::Within
            } else {
                WriteLimit::Timeout
            };
            return Err(io::ErrorKind::TimedOut.into());
        }
        let slice = self.timeout.map(|timeout| after(now, WriteProgress::slice(timeout)));
        Ok([deadline, slice].into_iter().flatten().min())
    }

    /// Which limit `blocked` found exceeded.
    pub(crate) fn exceeded(&self) -> WriteLimit {
        self.exceeded
    }
}

impl WriteTotal {
    /// Counts what was acknowledged since the last look, in a write that began at `started`. Returns
    /// until when that is enough, without the grace.
    fn look(&mut self, unacknowledged: usize, rate: MinRate, started: Instant) -> Instant {
        // A broadcast may have written too, so that this is the least.
        let acknowledged = self.written.saturating_sub(unacknowledged as u64);
        let news = acknowledged.saturating_sub(self.acknowledged);
        self.acknowledged += news;
        let since = self.enough_until.map_or(started, |until| until.max(started));
        let until = after(since, rate.transfer_time(news));
        self.enough_until = Some(until);
        until
    }
}

/// A timeout beyond the range of the clock ends in about 30 years.
fn after(start: Instant, timeout: Duration) -> Instant {
    start + timeout.min(Duration::from_secs(1_000_000_000))
}
