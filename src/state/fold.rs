//! [`Fold`]: how many events of a kind are told in a second.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many events of a kind are told one by one in each second.
pub(super) const MAX_TOLD: u32 = 1000;

/// Counts the events of a kind in the current second: the second in the high 32 bits, the number in the
/// low ones.
#[derive(Debug, Default)]
pub(super) struct Fold(AtomicU64);

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) is_told: bool,
    /// It is the first in its second that is not told.
    pub(super) begins: bool,
    /// How many were not told in an earlier second, of which nothing was said yet.
    pub(super) folded: u64,
}

fn pack(second: u32, count: u32) -> u64 {
    u64::from(second) << 32 | u64::from(count)
}

fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl Fold {
    /// Counts an event.
    pub(super) fn note(&self, now: u32) -> Noted {
        let mut noted = Noted { is_told: true, begins: false, folded: 0 };
        self.update(|second, count| {
            let is_same = second == now;
            let count = if is_same { count.saturating_add(1) } else { 1 };
            noted = Noted { is_told: count <= MAX_TOLD, begins: count == MAX_TOLD + 1, folded: 0 };
            Some((now, count))
        })
        .filter(|(second, _)| *second != now)
        .inspect(|(_, count)| noted.folded = count.saturating_sub(MAX_TOLD).into());
        noted
    }

    /// How many were not told, of which nothing was said yet: in earlier seconds, and with `all` in this
    /// one too.
    pub(super) fn take(&self, now: u32, all: bool) -> u64 {
        let taken = self.update(|second, count| {
            (count > MAX_TOLD && (all || second != now)).then_some((second, MAX_TOLD))
        });
        taken.map_or(0, |(_, count)| (count - MAX_TOLD).into())
    }

    /// Whether there are some in the second that it is at.
    pub(super) fn is_folding(&self) -> bool {
        unpack(self.0.load(Ordering::Relaxed)).1 > MAX_TOLD
    }

    /// Replaces second and count, and returns the old ones; `None` if `change` returns that.
    fn update(&self, mut change: impl FnMut(u32, u32) -> Option<(u32, u32)>) -> Option<(u32, u32)> {
        let change = |word| {
            let (second, count) = unpack(word);
            change(second, count).map(|(second, count)| pack(second, count))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).ok().map(unpack)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn told(folded: u64) -> Noted {
        Noted { is_told: true, begins: false, folded }
    }

    #[test]
    fn a_thousand_in_a_second_are_told_and_the_others_counted() {
        let fold = Fold::default();
        for _ in 0..1000 {
            assert_eq!(fold.note(7), told(0));
        }
        assert_eq!(fold.note(7), Noted { is_told: false, begins: true, folded: 0 });
        assert_eq!(fold.note(7), Noted { is_told: false, begins: false, folded: 0 });
        assert_eq!(fold.take(7, false), 0, "the second is not over");
        assert_eq!(fold.note(8), told(2));
        assert_eq!(fold.note(9), told(0), "the last second had one");
    }

    #[test]
    fn what_a_flood_has_folded_at_its_end_is_taken_once() {
        let fold = Fold::default();
        (0..1005).for_each(|_| _ = fold.note(7));
        assert_eq!(fold.take(8, false), 5);
        assert_eq!(fold.take(9, true), 0);
        assert_eq!(fold.note(9), told(0));
        (0..1010).for_each(|_| _ = fold.note(10));
        assert_eq!(fold.take(10, true), 10, "a stop does not wait for the second's end");
        assert!(!fold.note(10).is_told, "that does not begin the second anew");
        assert_eq!(fold.take(10, true), 1);
    }
}
