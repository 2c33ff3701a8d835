//! [`Sizing`]: how many children there should be.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How long there have to be too many idle children before one of them ends.
const SURPLUS_TIME: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Sizing {
    /// How many there are, if `spare` is not set.
    pub(super) children: usize,
    /// How many of them are idle.
    pub(super) spare: Option<RangeInclusive<usize>>,
    /// How many there may be, with `spare`.
    pub(super) max_children: usize,
    /// How many requests a child accepts.
    pub(super) max_requests: Option<u64>,
}

impl Sizing {
    /// How many children accept, at most.
    pub(super) fn max(&self) -> usize {
        match &self.spare {
            None => self.children,
            Some(spare) => self.max_children.max(*spare.end()),
        }
    }

    /// How many children there may be: those that serve their last requests do not count among those
    /// that accept.
    pub(super) fn slots(&self) -> usize {
        2 * self.max()
    }

    /// How many children are to be forked, of those that accept, and serve nothing.
    pub(super) fn missing(&self, accepting: usize, idle: usize) -> usize {
        let wanted = match &self.spare {
            None => self.children,
            Some(spare) => accepting + spare.start().saturating_sub(idle),
        };
        wanted.min(self.max()).saturating_sub(accepting)
    }

    /// Whether a child is to end.
    pub(super) fn has_surplus(&self, idle: usize) -> bool {
        self.spare.as_ref().is_some_and(|spare| idle > *spare.end())
    }

    /// How many idle children must be left, or the parent is to know: none, if it cannot fork more.
    pub(super) fn min_idle(&self, accepting: usize) -> usize {
        match &self.spare {
            Some(spare) if accepting < self.max() => *spare.start(),
            _ => 0,
        }
    }

    /// How many requests a new child accepts: not the same number as the others, which would end at the
    /// same time.
    pub(super) fn quota(&self) -> Option<u64> {
        let random = RandomState::new().build_hasher().finish();
        self.max_requests.map(|max| with_jitter(max, random))
    }
}

/// Up to a tenth more or less.
fn with_jitter(number: u64, random: u64) -> u64 {
    let tenth = number / 10;
    (number - tenth).saturating_add(random % (2 * tenth + 1)).max(1)
}

/// When a child ends because too many are idle: one each second that this lasts.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    /// There is one, and it is acted on then.
    pub(super) deadline: Option<Instant>,
}

impl Surplus {
    /// Whether a child is to end now.
    pub(super) fn update(&mut self, has_surplus: bool, now: Instant) -> bool {
        let is_due = has_surplus && self.deadline.is_some_and(|deadline| now >= deadline);
        if !has_surplus {
            self.deadline = None;
        } else if is_due || self.deadline.is_none() {
            self.deadline = Some(now + SURPLUS_TIME);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizing(spare: Option<RangeInclusive<usize>>) -> Sizing {
        Sizing { children: 3, spare, max_children: 8, max_requests: None }
    }

    #[test]
    fn a_fixed_number_is_kept() {
        let fixed = sizing(None);
        assert_eq!([0, 2, 3, 4].map(|accepting| fixed.missing(accepting, 0)), [3, 1, 0, 0]);
        assert!(!fixed.has_surplus(3));
        assert_eq!((fixed.max(), fixed.min_idle(1)), (3, 0));
    }

    #[test]
    fn as_many_are_idle_as_there_should_be_up_to_the_maximum() {
        let spare = sizing(Some(2..=4));
        let missing = |accepting, idle| spare.missing(accepting, idle);
        assert_eq!([missing(0, 0), missing(2, 1), missing(5, 2), missing(7, 0)], [2, 1, 0, 1]);
        assert_eq!(missing(8, 0), 0);
        assert_eq!([4, 5].map(|idle| spare.has_surplus(idle)), [false, true]);
        assert_eq!([7, 8].map(|accepting| spare.min_idle(accepting)), [2, 0]);
    }

    #[test]
    fn quotas_differ_by_a_tenth() {
        let all: Vec<_> = (0..1000).map(|random| with_jitter(1000, random)).collect();
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&900), Some(&1100)));
        assert_eq!(
            [1, 9, u64::MAX].map(|max| with_jitter(max, 0)),
            [1, 9, u64::MAX - u64::MAX / 10]
        );
        assert_eq!(with_jitter(u64::MAX, u64::MAX / 10 * 2), u64::MAX);
    }

    #[test]
    fn one_idle_child_too_many_ends_each_second() {
        let (mut surplus, now) = (Surplus::default(), Instant::now());
        let second = SURPLUS_TIME;
        assert!(!surplus.update(true, now));
        assert!(!surplus.update(true, now + second / 2));
        assert!(surplus.update(true, now + second));
        assert!(!surplus.update(true, now + second));
        assert!(!surplus.update(false, now + 2 * second));
        assert!(!surplus.update(true, now + 3 * second));
        assert_eq!(surplus.deadline, Some(now + 4 * second));
    }
}
