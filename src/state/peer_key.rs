//! [`PeerKey`]: which connections per-peer limits count together.

use std::net::IpAddr;

/// The key that per-peer limits are counted by.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<PeerKey> {
        PeerKey::of(Some(text.parse().unwrap()), None)
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_peer_and_each_ipv4_address_another() {
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(PeerKey::of(None, Some(1)), PeerKey::of(None, Some(2)));
        assert_eq!(PeerKey::of(None, None), None);
    }
}
