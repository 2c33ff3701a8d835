//! [`Access`]: who may connect at all.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A list of who may connect and who may not; the first entry that fits a peer decides.
///
/// IP peers are told by their network, peers on Unix sockets by the user they run as. An IPv4 peer
/// of a dual-stack server is an IPv4 peer, and an entry for an IPv4-mapped network
/// (`::ffff:10.0.0.0/104`) is one for its IPv4 network.
///
/// Who fits no entry is let in by a list that begins with [`open`](Access::open), and kept out by
/// one that begins with [`closed`](Access::closed). So is a peer of whom nothing is known that
/// entries could fit: who sends to a Unix datagram socket, for instance.
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
#[derive(Clone, Debug)]
pub struct Access {
    entries: Vec<(Peers, bool)>,
    others: bool,
}

/// Whom an entry of an [`Access`] list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peers {
    /// The addresses of a network.
    Net(IpNet),
    /// The processes of a user, by number, that connect to a Unix stream socket.
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

/// One address.
impl From<IpAddr> for Peers {
    fn from(address: IpAddr) -> Peers {
        Peers::Net(address.into())
    }
}

impl Access {
    /// Everybody may connect whom no entry denies.
    pub fn open() -> Access {
        Access { entries: Vec::new(), others: true }
    }

    /// Nobody may connect whom no entry allows.
    pub fn closed() -> Access {
        Access { entries: Vec::new(), others: false }
    }

    /// Lets these in, unless an earlier entry denies them.
    pub fn allow(self, peers: impl Into<Peers>) -> Access {
        self.entry(peers.into(), true)
    }

    /// Keeps these out, unless an earlier entry allows them.
    pub fn deny(self, peers: impl Into<Peers>) -> Access {
        self.entry(peers.into(), false)
    }

    fn entry(mut self, peers: Peers, may_connect: bool) -> Access {
        self.entries.push((unmapped(peers), may_connect));
        self
    }

    /// Whether a peer may connect, by what is known of it.
    pub fn permits(&self, address: Option<IpAddr>, uid: Option<u32>) -> bool {
        let fits = |peers: &Peers| match peers {
            Peers::Net(net) => address.is_some_and(|ip| net.contains(&ip.to_canonical())),
            Peers::Uid(of) => uid == Some(*of),
        };
        let entry = self.entries.iter().find(|(peers, _)| fits(peers));
        entry.map_or(self.others, |(_, may_connect)| *may_connect)
    }

    /// Whether it lets everybody in, so that nobody need be asked who they are.
    pub(crate) fn is_open(&self) -> bool {
        self.others && self.entries.iter().all(|(_, may_connect)| *may_connect)
    }
}

/// The IPv4 network that an IPv4-mapped one stands for (RFC 4291, 2.5.5.2).
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
    fn the_first_entry_that_fits_decides() {
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
    fn who_fits_no_entry_is_let_in_or_not_as_the_list_began() {
        let none = Access::closed().allow(net("127.0.0.0/8")).allow(Peers::Uid(1000));
        assert!(none.permits(ip("127.1.2.3"), None));
        assert!(none.permits(None, Some(1000)));
        assert!(!none.permits(None, Some(0)));
        assert!(!none.permits(None, None));
        assert!(Access::open().is_open() && Access::open().permits(None, None));
        assert!(!Access::closed().is_open());
    }

    #[test]
    fn mapped_addresses_and_networks_are_ipv4() {
        let access = Access::closed().allow(net("::ffff:10.0.0.0/104"));
        assert!(access.permits(ip("10.1.2.3"), None));
        assert!(access.permits(ip("::ffff:10.1.2.3"), None));
        assert!(!access.permits(ip("11.1.2.3"), None));
        // All of IPv6 is none of IPv4.
        let access = Access::open().deny(net("::/0"));
        assert!(access.permits(ip("::ffff:10.1.2.3"), None));
        assert!(!access.permits(ip("::1"), None));
    }
}
