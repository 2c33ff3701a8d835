//! A histogram of latencies with an error below 1 %.

use std::time::Duration;

/// The number of buckets between a power of two and the next.
const SUB_BUCKETS: u64 = 128;

pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies { counts: vec![0; bucket(u64::MAX) + 1], total: 0 }
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        self.counts[bucket(latency.as_nanos() as u64)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Latencies) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// The latency in microseconds that this fraction of all does not exceed.
    pub(crate) fn quantile(&self, fraction: f64) -> Option<f64> {
        let rank = ((self.total as f64 * fraction).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(lower_bound(bucket) as f64 / 1000.0)
    }
}

/// Each number below `SUB_BUCKETS` has a bucket; above, each power of two has `SUB_BUCKETS`.
fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < SUB_BUCKETS {
        return nanoseconds as usize;
    }
    let shift = u64::from(nanoseconds.ilog2() - SUB_BUCKETS.ilog2());
    (shift * SUB_BUCKETS + (nanoseconds >> shift)) as usize
}

fn lower_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / SUB_BUCKETS).saturating_sub(1);
    (bucket - shift * SUB_BUCKETS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_bucket_is_at_most_one_percent() {
        for exact in (0..64).map(|bit| (1 << bit) + (1 << bit) / 3).chain([0, u64::MAX]) {
            let (low, error) = (lower_bound(bucket(exact)), exact / 100);
            assert!(low <= exact && exact - low <= error, "{exact}: {low}");
        }
    }

    #[test]
    fn half_of_the_latencies_are_below_the_median() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantile(0.5), None);
        (1..=99).for_each(|microseconds| latencies.add(Duration::from_micros(microseconds)));
        let median = latencies.quantile(0.5).unwrap();
        assert!((49.5..=50.0).contains(&median), "{median}");
        assert!(latencies.quantile(0.99).unwrap() > 98.0);
    }
}
