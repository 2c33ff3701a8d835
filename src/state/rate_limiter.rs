//! [`RateLimiter`]: how often one peer may connect.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::peer_key::PeerKey;
use crate::config::ConnectionRate;

/// The generic cell rate algorithm: for each peer, its theoretical arrival time, which is when the
/// next connection would be due had the peer kept exactly to the rate
/// ([GCRA](https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm)).
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    arrival_times: HashMap<PeerKey, Instant>,
    /// Peers whose arrival time has passed are removed when there are so many entries.
    sweep_at: usize,
    /// No sweep before this, since one takes a while.
    sweep_after: Option<Instant>,
}

/// How many peers are remembered: a few megabytes. When more of them connect within the rate's
/// time, the rest is not limited.
const MAX_PEERS: usize = 65_536;

/// The longest interval of a rate: about thirty years, which cannot overflow the clock.
const MAX_PER: Duration = Duration::from_secs(1_000_000_000);

impl RateLimiter {
    /// Whether the peer may connect now. A connection that is not allowed is not counted.
    pub(super) fn allows(&mut self, peer: PeerKey, rate: ConnectionRate, now: Instant) -> bool {
        let per = rate.per.clamp(Duration::from_millis(1), MAX_PER);
        let interval = per / rate.connections.max(1);
        let arrival =
            self.arrival_times.get(&peer).map_or(now, |arrival| (*arrival).max(now)) + interval;
        if arrival.saturating_duration_since(now) > per {
            return false;
        }
        if self.arrival_times.len() >= self.sweep_at
            && self.sweep_after.is_none_or(|after| now > after)
        {
            self.arrival_times.retain(|_, arrival| *arrival > now);
            self.sweep_at = (2 * self.arrival_times.len()).clamp(1024, MAX_PEERS);
            self.sweep_after = now.checked_add(Duration::from_millis(100));
        }
        if self.arrival_times.len() < MAX_PEERS || self.arrival_times.contains_key(&peer) {
            self.arrival_times.insert(peer, arrival);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_may_connect_so_often_at_once_and_again_as_time_passes() {
        let rate = ConnectionRate { connections: 3, per: Duration::from_secs(3) };
        let mut limiter = RateLimiter::default();
        let start = Instant::now();
        let mut allows = |seconds: f64| {
            limiter.allows(PeerKey::Uid(1), rate, start + Duration::from_secs_f64(seconds))
        };
        assert_eq!([(); 4].map(|()| allows(0.0)), [true, true, true, false]);
        assert_eq!([allows(0.9), allows(1.1), allows(1.2)], [false, true, false]);
        assert_eq!([(); 4].map(|()| allows(60.0)), [true, true, true, false]);
        assert!(limiter.allows(PeerKey::Uid(2), rate, start), "another peer");
        let zero = ConnectionRate { connections: 0, per: Duration::ZERO };
        assert_eq!([(); 2].map(|()| limiter.allows(PeerKey::Uid(3), zero, start)), [true, false]);
        let once = ConnectionRate { connections: 1, per: Duration::MAX };
        assert_eq!([(); 2].map(|()| limiter.allows(PeerKey::Uid(4), once, start)), [true, false]);
    }

    #[test]
    fn peers_are_forgotten_and_their_number_is_bounded() {
        let rate = ConnectionRate { connections: 1, per: Duration::from_secs(1) };
        let mut limiter = RateLimiter::default();
        let start = Instant::now();
        for network in 0..100_000 {
            assert!(limiter.allows(PeerKey::V6(network), rate, start));
            assert!(limiter.arrival_times.len() <= MAX_PEERS);
        }
        assert!(!limiter.allows(PeerKey::V6(0), rate, start));
        assert!(limiter.allows(PeerKey::V6(7), rate, start + Duration::from_secs(2)));
        assert_eq!(limiter.arrival_times.len(), 1);
    }
}
