//! [`Restarts`]: how long the parent waits before it forks again.

use std::time::{Duration, Instant};

const FIRST_DELAY: Duration = Duration::from_millis(10);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// A child that ends within this time, and has served nothing, has failed to start.
pub(super) const START_TIME: Duration = Duration::from_secs(1);

/// The delay after children that have failed to start, so that a server which cannot work does not
/// fork without end.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    delay: Duration,
    /// Before this, no child is forked.
    not_before: Option<Instant>,
}

impl Restarts {
    /// A child has failed to start, or could not be forked. Returns the delay if this is the first
    /// failure of an episode, which is to be logged.
    pub(super) fn after_failure(&mut self, now: Instant) -> Option<Duration> {
        let is_new = self.not_before.is_none_or(|before| now > before + 2 * START_TIME);
        let is_waiting = self.not_before.is_some_and(|before| now < before);
        if is_new {
            self.delay = FIRST_DELAY;
        } else if !is_waiting {
            self.delay = (2 * self.delay).min(MAX_DELAY);
        }
        if !is_waiting {
            self.not_before = Some(now + self.delay);
        }
        is_new.then_some(self.delay)
    }

    /// Until when no child is forked; `None`: one may be forked now.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|before| now < *before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_to_five_seconds_and_starts_anew_after_a_quiet_time() {
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        let mut now = start;
        assert_eq!(restarts.deadline(now), None);
        assert_eq!(restarts.after_failure(now), Some(FIRST_DELAY));
        let mut delays = Vec::new();
        for _ in 0..12 {
            let until = restarts.deadline(now).unwrap();
            delays.push((until - now).as_millis());
            now = until;
            assert_eq!(restarts.deadline(now), None);
            assert_eq!(restarts.after_failure(now), None);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000, 5000]);
        now = restarts.deadline(now).unwrap() + 3 * START_TIME;
        assert_eq!(restarts.after_failure(now), Some(FIRST_DELAY));
    }

    #[test]
    fn children_that_fail_together_count_as_one() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        assert!(restarts.after_failure(now).is_some());
        for _ in 0..3 {
            assert_eq!(restarts.after_failure(now), None);
        }
        assert_eq!(restarts.deadline(now), Some(now + FIRST_DELAY));
    }
}
