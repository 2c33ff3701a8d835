//! [`Limits`]: what admission checks, and may change while the server serves.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::peer_key::PeerKey;
use super::rate_limiter::RateLimiter;
use crate::config::{Access, ConnectionRate, Settings};

#[derive(Debug)]
pub(crate) struct Limits {
    max_connections: AtomicUsize,
    is_suspended: AtomicBool,
    /// Whether there are any peer rules; read for each request, so that none cost no lock.
    checks_peers: AtomicBool,
    rules: Mutex<PeerRules>,
}

#[derive(Debug)]
struct PeerRules {
    access: Access,
    max_per_peer: Option<usize>,
    rate: Option<ConnectionRate>,
    rate_limiter: RateLimiter,
}

impl PeerRules {
    fn exist(&self) -> bool {
        !self.access.is_open() || self.max_per_peer.is_some() || self.rate.is_some()
    }
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Limits {
        let rules = PeerRules {
            access: settings.access.clone(),
            max_per_peer: settings.max_connections_per_peer,
            rate: settings.connection_rate,
            rate_limiter: RateLimiter::default(),
        };
        Limits {
            max_connections: AtomicUsize::new(settings.max_connections()),
            is_suspended: AtomicBool::new(false),
            checks_peers: AtomicBool::new(rules.exist()),
            rules: Mutex::new(rules),
        }
    }

    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::SeqCst)
    }

    pub(super) fn set_max_connections(&self, connections: usize) {
        self.max_connections.store(connections.max(1), Ordering::SeqCst);
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::SeqCst)
    }

    pub(super) fn suspend(&self, suspended: bool) {
        self.is_suspended.store(suspended, Ordering::SeqCst);
    }

    pub(super) fn set_access(&self, access: Access) {
        self.change(|rules| rules.access = access);
    }

    pub(super) fn set_max_per_peer(&self, connections: Option<usize>) {
        self.change(|rules| rules.max_per_peer = connections);
    }

    pub(super) fn set_rate(&self, rate: Option<ConnectionRate>) {
        self.change(|rules| {
            rules.rate = rate;
            rules.rate_limiter = RateLimiter::default();
        });
    }

    fn change(&self, change: impl FnOnce(&mut PeerRules)) {
        let mut rules = self.rules.lock();
        change(&mut rules);
        self.checks_peers.store(rules.exist(), Ordering::SeqCst);
    }

    /// Whether admission depends on who the peer is.
    pub(crate) fn checks_peers(&self) -> bool {
        self.checks_peers.load(Ordering::SeqCst)
    }

    pub(crate) fn permits(&self, ip: Option<IpAddr>, uid: Option<u32>) -> bool {
        self.rules.lock().access.permits(ip, uid)
    }

    pub(crate) fn max_per_peer(&self) -> Option<usize> {
        self.rules.lock().max_per_peer
    }

    pub(super) fn rate(&self) -> Option<ConnectionRate> {
        self.rules.lock().rate
    }

    /// Whether the peer connects too often; a connection that does is not counted.
    pub(crate) fn exceeds_rate(&self, peer: PeerKey) -> bool {
        let mut rules = self.rules.lock();
        let Some(rate) = rules.rate else { return false };
        !rules.rate_limiter.allows(peer, rate, Instant::now())
    }
}
