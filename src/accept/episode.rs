//! [`Episode`]: a condition that comes and goes, of which the log says when it begins and ends.

use std::time::{Duration, Instant};

/// A time in which a condition holds again and again, as at a limit, which is reached anew by each
/// request that takes the place of one that has ended.
#[derive(Debug, Default)]
pub(super) struct Episode {
    began: Option<Instant>,
    /// Since when the condition does not hold, in an episode.
    quiet_since: Option<Instant>,
}

/// For how long the condition must not hold for an episode to be over.
const QUIET: Duration = Duration::from_secs(5);

/// What is to be logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Began,
    /// With the length of the episode.
    Ended(Duration),
}

impl Episode {
    /// Notes whether the condition holds.
    pub(super) fn update(&mut self, holds: bool, now: impl FnOnce() -> Instant) -> Option<Change> {
        match (holds, self.began) {
            (false, None) => None,
            (true, None) => {
                self.began = Some(now());
                Some(Change::Began)
            }
            (true, Some(_)) => {
                self.quiet_since = None;
                None
            }
            (false, Some(began)) => {
                let now = now();
                let quiet_since = *self.quiet_since.get_or_insert(now);
                if now.saturating_duration_since(quiet_since) < QUIET {
                    return None;
                }
                *self = Episode::default();
                Some(Change::Ended(quiet_since.saturating_duration_since(began)))
            }
        }
    }

    /// When the episode is over, unless the condition holds again before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.quiet_since.map(|since| since + QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_ends_when_the_condition_has_not_held_for_a_while() {
        let (mut episode, start) = (Episode::default(), Instant::now());
        let mut update = |holds, seconds| {
            let change = episode.update(holds, || start + Duration::from_secs(seconds));
            let deadline = episode.deadline();
            (change, deadline.map(|deadline| deadline.duration_since(start).as_secs()))
        };
        assert_eq!(update(false, 0), (None, None));
        assert_eq!(update(true, 1), (Some(Change::Began), None));
        assert_eq!(update(true, 100), (None, None));
        assert_eq!(update(false, 101), (None, Some(106)));
        assert_eq!(update(true, 105), (None, None));
        assert_eq!(update(false, 111), (None, Some(116)));
        assert_eq!(update(false, 115), (None, Some(116)));
        let ended = Change::Ended(Duration::from_secs(110));
        assert_eq!(update(false, 116), (Some(ended), None));
        assert_eq!(update(true, 117), (Some(Change::Began), None));
    }
}
