//! What admission goes by: the limits and lists as they stand now, and what each peer has used of
//! them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::Access;
use crate::config::{ConnectionRate, Settings};

/// Whom the limits per peer take for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    /// An IPv4 address.
    V4(u32),
    /// An IPv6 network of 64 bits: what one household or machine is given.
    V6(u64),
    /// A user of this machine.
    Uid(u32),
}

impl PeerKey {
    /// `None` where nothing tells one peer from another.
    pub(crate) fn of(ip: Option<IpAddr>, uid: Option<u32>) -> Option<PeerKey> {
        match (ip.map(|ip| ip.to_canonical()), uid) {
            (Some(IpAddr::V4(v4)), _) => Some(PeerKey::V4(v4.to_bits())),
            (Some(IpAddr::V6(v6)), _) => Some(PeerKey::V6((v6.to_bits() >> 64) as u64)),
            (None, Some(uid)) => Some(PeerKey::Uid(uid)),
            (None, None) => None,
        }
    }
}

/// The limits, which may change while the server serves.
#[derive(Debug)]
pub(crate) struct Limits {
    max_connections: AtomicUsize,
    is_suspended: AtomicBool,
    /// Whether any of the rules is there; looked at for each request.
    checks_peers: AtomicBool,
    rules: Mutex<Rules>,
}

#[derive(Debug)]
struct Rules {
    access: Access,
    max_per_peer: Option<usize>,
    rate: Option<ConnectionRate>,
    rate_limiter: RateLimiter,
}

impl Rules {
    fn are_set(&self) -> bool {
        !self.access.is_open() || self.max_per_peer.is_some() || self.rate.is_some()
    }
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Limits {
        let rules = Rules {
            access: settings.access.clone(),
            max_per_peer: settings.max_connections_per_peer,
            rate: settings.connection_rate,
            rate_limiter: RateLimiter::default(),
        };
        Limits {
            max_connections: AtomicUsize::new(settings.max_connections),
            is_suspended: AtomicBool::new(false),
            checks_peers: AtomicBool::new(rules.are_set()),
            rules: Mutex::new(rules),
        }
    }

    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::SeqCst)
    }

    pub(crate) fn set_max_connections(&self, connections: usize) {
        self.max_connections.store(connections.max(1), Ordering::SeqCst);
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::SeqCst)
    }

    pub(crate) fn suspend(&self, suspended: bool) {
        self.is_suspended.store(suspended, Ordering::SeqCst);
    }

    pub(crate) fn set_access(&self, access: Access) {
        self.change(|rules| rules.access = access);
    }

    pub(crate) fn set_max_per_peer(&self, connections: Option<usize>) {
        self.change(|rules| rules.max_per_peer = connections);
    }

    pub(crate) fn set_rate(&self, rate: Option<ConnectionRate>) {
        self.change(|rules| {
            rules.rate = rate;
            rules.rate_limiter = RateLimiter::default();
        });
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.rules.lock();
        change(&mut rules);
        self.checks_peers.store(rules.are_set(), Ordering::SeqCst);
    }

    /// Whether it matters who a peer is.
    pub(crate) fn checks_peers(&self) -> bool {
        self.checks_peers.load(Ordering::SeqCst)
    }

    pub(crate) fn permits(&self, ip: Option<IpAddr>, uid: Option<u32>) -> bool {
        self.rules.lock().access.permits(ip, uid)
    }

    pub(crate) fn max_per_peer(&self) -> Option<usize> {
        self.rules.lock().max_per_peer
    }

    /// Whether it comes too often; it counts as having come only if it does not.
    pub(crate) fn exceeds_rate(&self, peer_key: PeerKey) -> bool {
        let mut rules = self.rules.lock();
        let Some(rate) = rules.rate else { return false };
        !rules.rate_limiter.allows(peer_key, rate, Instant::now())
    }
}

/// How often each peer has come lately, by the generic cell rate algorithm: for each, the time by
/// which it would have come that often, had it kept to its rate.
#[derive(Debug, Default)]
struct RateLimiter {
    arrival_times: HashMap<PeerKey, Instant>,
    /// Those who are no longer ahead of their rate are forgotten when there are so many peers,
    sweep_at: usize,
    /// but not again before then, since that takes a while.
    sweep_after: Option<Instant>,
}

/// The most peers that are kept in mind: a few megabytes. Should more of them come within the time
/// of the rate, the rest goes uncounted.
const MAX_PEERS: usize = 65_536;

impl RateLimiter {
    fn allows(&mut self, peer_key: PeerKey, rate: ConnectionRate, now: Instant) -> bool {
        let each = rate.per / rate.connections.max(1);
        let arrival_times = self
            .arrival_times
            .get(&peer_key)
            .map_or(now, |arrival_times| (*arrival_times).max(now))
            + each;
        if rate.connections == 0 || arrival_times.saturating_duration_since(now) > rate.per {
            return false;
        }
        if self.arrival_times.len() >= self.sweep_at
            && self.sweep_after.is_none_or(|after| now > after)
        {
            self.arrival_times.retain(|_, arrival_times| *arrival_times > now);
            self.sweep_at = (2 * self.arrival_times.len()).clamp(1024, MAX_PEERS);
            self.sweep_after = now.checked_add(Duration::from_millis(100));
        }
        if self.arrival_times.len() < MAX_PEERS || self.arrival_times.contains_key(&peer_key) {
            self.arrival_times.insert(peer_key, arrival_times);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer_key(text: &str) -> Option<PeerKey> {
        PeerKey::of(Some(text.parse().unwrap()), None)
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_peer_and_each_ipv4_address_another() {
        assert_eq!(peer_key("2001:db8:1:2::1"), peer_key("2001:db8:1:2:ffff::9"));
        assert_ne!(peer_key("2001:db8:1:2::1"), peer_key("2001:db8:1:3::1"));
        assert_ne!(peer_key("192.0.2.1"), peer_key("192.0.2.2"));
        assert_eq!(peer_key("::ffff:192.0.2.1"), peer_key("192.0.2.1"));
        assert_ne!(PeerKey::of(None, Some(1)), PeerKey::of(None, Some(2)));
        assert_eq!(PeerKey::of(None, None), None);
    }

    #[test]
    fn a_peer_may_come_so_often_at_once_and_again_as_time_passes() {
        let rate = ConnectionRate { connections: 3, per: Duration::from_secs(3) };
        let mut rate_limiter = RateLimiter::default();
        let begin = Instant::now();
        let mut comes = |seconds: f64| {
            rate_limiter.allows(PeerKey::Uid(1), rate, begin + Duration::from_secs_f64(seconds))
        };
        assert_eq!([(); 4].map(|()| comes(0.0)), [true, true, true, false]);
        assert_eq!([comes(0.9), comes(1.1), comes(1.2)], [false, true, false]);
        assert_eq!([(); 4].map(|()| comes(60.0)), [true, true, true, false]);
        assert!(rate_limiter.allows(PeerKey::Uid(2), rate, begin), "another peer");
        let never = ConnectionRate { connections: 0, per: Duration::from_secs(1) };
        assert!(!rate_limiter.allows(PeerKey::Uid(3), never, begin));
    }

    #[test]
    fn peers_are_forgotten_and_never_too_many_kept() {
        let rate = ConnectionRate { connections: 1, per: Duration::from_secs(1) };
        let mut rate_limiter = RateLimiter::default();
        let begin = Instant::now();
        for network in 0..100_000 {
            assert!(rate_limiter.allows(PeerKey::V6(network), rate, begin));
            assert!(rate_limiter.arrival_times.len() <= MAX_PEERS);
        }
        assert!(!rate_limiter.allows(PeerKey::V6(0), rate, begin));
        assert!(rate_limiter.allows(PeerKey::V6(7), rate, begin + Duration::from_secs(2)));
        assert_eq!(rate_limiter.arrival_times.len(), 1);
    }
}
