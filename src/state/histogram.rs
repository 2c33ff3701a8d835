//! How many values of which size: [`Histogram`].

use std::fmt;
use std::time::Duration;

use super::counter::Counter;
use crate::net::Traffic;

/// How many bounds a histogram has.
const BOUNDS: usize = 15;

/// For times, in nanoseconds: from 100 us to a day.
static TIMES: Bounds = {
    const SECOND: u64 = 1_000_000_000;
    Bounds::new([
        SECOND / 10_000,
        SECOND / 2_000,
        SECOND / 1_000,
        SECOND / 200,
        SECOND / 100,
        SECOND / 20,
        SECOND / 10,
        SECOND / 2,
        SECOND,
        5 * SECOND,
        10 * SECOND,
        60 * SECOND,
        600 * SECOND,
        3_600 * SECOND,
        86_400 * SECOND,
    ])
};

/// For sizes, in bytes: from 64 to 16 GiB, each four times the one before.
static SIZES: Bounds = {
    let mut bounds = [64; BOUNDS];
    let mut index = 1;
    while index < BOUNDS {
        bounds[index] = 4 * bounds[index - 1];
        index += 1;
    }
    Bounds::new(bounds)
};

/// The bounds of a histogram, each at least twice as large as the one before.
#[derive(Debug, PartialEq, Eq)]
struct Bounds {
    bounds: [u64; BOUNDS],
    /// For each length in bits, the bucket of the smallest number of this length.
    first_buckets: [u8; 65],
}

impl Bounds {
    const fn new(bounds: [u64; BOUNDS]) -> Bounds {
        let mut first_buckets = [0; 65];
        let (mut length, mut bucket) = (1, 0);
        while length <= 64 {
            while bucket < BOUNDS && bounds[bucket] < 1 << (length - 1) {
                bucket += 1;
                assert!(bucket == BOUNDS || bounds[bucket] >= 2 * bounds[bucket - 1]);
            }
            first_buckets[length] = bucket as u8;
            length += 1;
        }
        Bounds { bounds, first_buckets }
    }

    /// The bucket of a value. Among the numbers of one length in bits there is one bound at most, so that
    /// no search is needed.
    #[inline(always)]
    fn bucket(&self, value: u64) -> usize {
        let first = usize::from(self.first_buckets[(64 - value.leading_zeros()) as usize]);
        first + usize::from(self.bounds.get(first).is_some_and(|bound| *bound < value))
    }
}

/// How large the values of some kind were: how many of them, their sum, and how many were at most so
/// large, for each of fifteen bounds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// How many are at most as large as each bound, but larger than the one before it; then those above
    /// all bounds.
    counts: [u64; BOUNDS + 1],
    sum: u64,
}

impl Histogram {
    fn new(bounds: &'static Bounds) -> Histogram {
        Histogram { bounds, counts: [0; BOUNDS + 1], sum: 0 }
    }

    /// Without values, for times.
    pub(super) fn of_times() -> Histogram {
        Histogram::new(&TIMES)
    }

    /// Without values, for sizes.
    pub(super) fn of_sizes() -> Histogram {
        Histogram::new(&SIZES)
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all values, in the unit of the histogram.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Each bound, smallest first, in the unit of the histogram, with the number of values that are not
    /// larger. [`count`](Histogram::count) includes those above the last bound.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        self.bounds.bounds.iter().zip(self.counts).map(move |(bound, count)| {
            total += count;
            (*bound, total)
        })
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} values, sum {}]", self.count(), self.sum)
    }
}

/// The counters of the histograms of a server.
#[derive(Debug, Default)]
pub(crate) struct Histograms {
    pub(super) durations: HistogramCounters,
    pub(super) received: HistogramCounters,
    pub(super) sent: HistogramCounters,
}

/// In a cache line of its own: the sum, and the counters of the lower bounds.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct HistogramCounters {
    sum: Counter,
    counts: [Counter; BOUNDS + 1],
}

impl Histograms {
    /// Counts a request that has ended. `add` adds to a counter.
    #[inline(always)]
    pub(super) fn record(
        &self,
        duration: Duration,
        Traffic { received, sent }: Traffic,
        add: impl Fn(&Counter, u64) + Copy,
    ) {
        let nanoseconds = duration.as_secs().saturating_mul(1_000_000_000);
        let nanoseconds = nanoseconds.saturating_add(duration.subsec_nanos().into());
        self.durations.record(&TIMES, nanoseconds, add);
        self.received.record(&SIZES, received, add);
        self.sent.record(&SIZES, sent, add);
    }
}

impl HistogramCounters {
    #[inline(always)]
    fn record(&self, bounds: &Bounds, value: u64, add: impl Fn(&Counter, u64)) {
        add(&self.counts[bounds.bucket(value)], 1);
        add(&self.sum, value);
    }

    pub(super) fn add_to(&self, histogram: &mut Histogram) {
        histogram.sum += self.sum.value();
        for (count, counter) in histogram.counts.iter_mut().zip(&self.counts) {
            *count += counter.value();
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_of_the_first_bound_that_is_not_smaller() {
        for bounds in [&TIMES, &SIZES] {
            let near = bounds.bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            let powers = (0..64).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]);
            for value in near.chain(powers).chain([u64::MAX]) {
                let expected = bounds.bounds.iter().filter(|bound| **bound < value).count();
                assert_eq!(bounds.bucket(value), expected, "{value}");
            }
        }
    }
}
