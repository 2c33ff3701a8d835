//! [`Access`]: the access list, which decides which peers may connect.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An access list: entries that allow or deny peers. The first entry that matches a peer decides.
///
/// An entry matches IP peers by their network, and peers on Unix sockets by the user that they run
/// as. An IPv4 peer of a dual-stack server counts as an IPv4 peer, and an entry for an IPv4-mapped
/// network (`::ffff:10.0.0.0/104`) as one for the IPv4 network.
///
/// A peer that no entry matches is allowed by a list that begins with [`open`](Access::open), and
/// denied by one that begins with [`closed`](Access::closed). So is a peer without an IP address or
/// a known user, such as the sender of a Unix datagram.
///
/// Two lists are equal if they consist of the same entries in the same order.
///
/// ```
/// use socketserver::ipnet::IpNet;
/// use socketserver::{Access, ThreadingTcpServer, services::Echo};
///
/// let office = Access::closed()
///     .deny("10.0.0.13".parse::<std::net::IpAddr>()?)
///     .allow("10.0.0.0/8".parse::<IpNet>()?)
///     .allow("127.0.0.0/8".parse::<IpNet>()?);
/// let server = ThreadingTcpServer::builder().access(office).bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// In order, each with whether it allows.
    entries: Vec<(Peers, bool)>,
    /// Whether a peer that no entry matches is allowed.
    default: bool,
}

/// The peers that an entry of an [`Access`] list matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peers {
    /// Peers with an address in this network.
    Net(IpNet),
    /// Processes of this user, by number, that connect to a Unix stream socket.
    Uid(u32),
}

impl From<IpNet> for Peers {
    fn from(net: IpNet) -> Peers {
        Peers::Net(net)
    }
}

impl From<Ipv4Net> for Peers {
    fn from(net: Ipv4Net) -> Peers {
        Peers::Net(net.into())
    }
}

impl From<Ipv6Net> for Peers {
    fn from(net: Ipv6Net) -> Peers {
        Peers::Net(net.into())
    }
}

/// A single address.
impl From<IpAddr> for Peers {
    fn from(address: IpAddr) -> Peers {
        Peers::Net(address.into())
    }
}

impl Access {
    /// An empty list that allows every peer.
    pub fn open() -> Access {
        Access { entries: Vec::new(), default: true }
    }

    /// An empty list that denies every peer.
    pub fn closed() -> Access {
        Access { entries: Vec::new(), default: false }
    }

    /// Adds an entry that allows these peers, except those that an earlier entry denies.
    pub fn allow(self, peers: impl Into<Peers>) -> Access {
        self.entry(peers.into(), true)
    }

    /// Adds an entry that denies these peers, except those that an earlier entry allows.
    pub fn deny(self, peers: impl Into<Peers>) -> Access {
        self.entry(peers.into(), false)
    }

    fn entry(mut self, peers: Peers, allows: bool) -> Access {
        self.entries.push((unmapped(peers), allows));
        self
    }

    /// Whether the list allows a peer with this IP address and this user id; `None` for what is not
    /// known.
    pub fn permits(&self, address: Option<IpAddr>, uid: Option<u32>) -> bool {
        let matches = |peers: &Peers| match peers {
            Peers::Net(net) => address.is_some_and(|ip| net.contains(&ip.to_canonical())),
            Peers::Uid(of) => uid == Some(*of),
        };
        let entry = self.entries.iter().find(|(peers, _)| matches(peers));
        entry.map_or(self.default, |(_, allows)| *allows)
    }

    /// Whether the list allows every peer, so that no peer need be checked.
    pub(crate) fn is_open(&self) -> bool {
        self.default && self.entries.iter().all(|(_, allows)| *allows)
    }
}

/// The IPv4 network that an IPv4-mapped one stands for ([RFC 4291, 2.5.5.2]). Other peers are
/// returned as they are.
///
/// [RFC 4291, 2.5.5.2]: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2
fn unmapped(peers: Peers) -> Peers {
    if let Peers::Net(IpNet::V6(net)) = peers
        && let Some(v4) = net.network().to_ipv4_mapped()
        && let Some(length) = net.prefix_len().checked_sub(96)
        && let Ok(net) = Ipv4Net::new(v4, length)
    {
        return Peers::Net(net.into());
    }
    peers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_first_matching_entry_decides() {
        let access = Access::open()
            .allow(net("10.1.0.0/16"))
            .deny(net("10.0.0.0/8"))
            .allow(net("10.2.0.0/16"))
            .deny(net("2001:db8::/32"));
        assert!(access.permits(ip("10.1.2.3"), None));
        assert!(!access.permits(ip("10.2.2.3"), None));
        assert!(!access.permits(ip("2001:db8::1"), None));
        assert!(access.permits(ip("192.0.2.1"), None));
        assert!(!access.is_open());
    }

    #[test]
    fn a_peer_that_no_entry_matches_is_allowed_by_open_and_denied_by_closed() {
        let access = Access::closed().allow(net("127.0.0.0/8")).allow(Peers::Uid(1000));
        assert!(access.permits(ip("127.1.2.3"), None));
        assert!(access.permits(None, Some(1000)));
        assert!(!access.permits(None, Some(0)));
        assert!(!access.permits(None, None));
        assert!(Access::open().is_open() && Access::open().permits(None, None));
        assert!(!Access::closed().is_open());
    }

    #[test]
    fn lists_are_equal_if_their_entries_and_their_order_are() {
        let access = || Access::closed().allow(net("10.0.0.0/8"));
        assert_eq!(access(), access());
        assert_eq!(access(), Access::closed().allow(net("::ffff:10.0.0.0/104")));
        assert_ne!(access(), access().deny(Peers::Uid(0)));
        assert_ne!(access(), Access::open().allow(net("10.0.0.0/8")));
    }

    #[test]
    fn ipv4_mapped_addresses_and_networks_count_as_ipv4() {
        let access = Access::closed().allow(net("::ffff:10.0.0.0/104"));
        assert!(access.permits(ip("10.1.2.3"), None));
        assert!(access.permits(ip("::ffff:10.1.2.3"), None));
        assert!(!access.permits(ip("11.1.2.3"), None));
        // The network of all IPv6 addresses contains no IPv4 address.
        let access = Access::open().deny(net("::/0"));
        assert!(access.permits(ip("::ffff:10.1.2.3"), None));
        assert!(!access.permits(ip("::1"), None));
    }
}
