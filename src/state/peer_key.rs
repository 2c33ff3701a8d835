//! [`PeerKey`]: which connections per-peer limits count together.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

/// The key that per-peer limits are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PeerKey {
    /// An IPv4 address.
    V4(u32),
    /// An IPv6 network of 64 bits: what one household or machine is given.
    V6(u64),
    /// An IPv6 address of a network that is shared, with its scope.
    V6Host(Ipv6Addr, u32),
    /// A user of this machine.
    Uid(u32),
}

impl PeerKey {
    /// `None` where nothing tells one peer from another.
    pub(crate) fn of(address: Option<SocketAddr>, uid: Option<u32>) -> Option<PeerKey> {
        match (address, uid) {
            (Some(SocketAddr::V4(v4)), _) => Some(PeerKey::V4(v4.ip().to_bits())),
            (Some(SocketAddr::V6(v6)), _) => Some(PeerKey::of_ipv6(v6)),
            (None, Some(uid)) => Some(PeerKey::Uid(uid)),
            (None, None) => None,
        }
    }

    fn of_ipv6(address: SocketAddrV6) -> PeerKey {
        let ip = *address.ip();
        match ip.segments() {
            // IPv4-mapped, and the prefix of translators from IPv4 (RFC 6052, 2.1).
            [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                PeerKey::V4(ip.to_bits() as u32)
            }
            // Those of a network's own translators: where the IPv4 address is depends on the network
            // (RFC 8215).
            [0x64, 0xff9b, 1, ..] => PeerKey::V6Host(ip, 0),
            _ if ip.is_unicast_link_local() => PeerKey::V6Host(ip, address.scope_id()),
            _ => PeerKey::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> Option<PeerKey> {
        PeerKey::of(Some(address.parse().unwrap()), None)
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_peer_and_each_ipv4_address_another() {
        assert_eq!(key("[2001:db8:1:2::1]:1"), key("[2001:db8:1:2:ffff::9]:2"));
        assert_ne!(key("[2001:db8:1:2::1]:1"), key("[2001:db8:1:3::1]:1"));
        assert_ne!(key("192.0.2.1:1"), key("192.0.2.2:1"));
        assert_eq!(key("[::ffff:192.0.2.1]:1"), key("192.0.2.1:2"));
        assert_ne!(PeerKey::of(None, Some(1)), PeerKey::of(None, Some(2)));
        assert_eq!(PeerKey::of(None, None), None);
    }

    #[test]
    fn each_neighbour_on_a_link_is_a_peer() {
        assert_eq!(key("[fe80::1%2]:1"), key("[fe80::1%2]:2"));
        assert_ne!(key("[fe80::1%2]:1"), key("[fe80::2%2]:1"));
        assert_ne!(key("[fe80::1%2]:1"), key("[fe80::1%3]:1"));
    }

    #[test]
    fn each_host_behind_a_translator_from_ipv4_is_a_peer() {
        assert_eq!(key("[64:ff9b::192.0.2.1]:1"), key("192.0.2.1:1"));
        assert_ne!(key("[64:ff9b::192.0.2.1]:1"), key("[64:ff9b::192.0.2.2]:1"));
        assert_ne!(key("[64:ff9b:1::192.0.2.1]:1"), key("[64:ff9b:1::192.0.2.2]:1"));
    }
}
