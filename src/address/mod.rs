//! Addresses of TCP, UDP and Unix sockets: [`Endpoint`] as it is written in a configuration,
//! [`Address`] as the system reports it.

mod endpoint;
mod unix_name;

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;

pub use endpoint::{Endpoint, Scheme};
pub use unix_name::UnixName;

/// The address of one end of a connection, or of the sender or receiver of a datagram.
///
/// It is shown in the form that [`Endpoint`] parses: `127.0.0.1:2525`, `udp://127.0.0.1:2525`,
/// `unix:/run/app.sock`, `unix:@name`, `unixgram:/run/log.sock`. An IPv4 peer of an IPv6 socket has
/// its IPv4 address here, not the IPv4-mapped one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP address.
    Udp(SocketAddr),
    /// The name of a Unix stream socket.
    Unix(UnixName),
    /// The name of a Unix datagram socket.
    UnixDatagram(UnixName),
}

impl Address {
    /// The IP address and port; `None` for Unix sockets.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) | Address::Udp(address) => Some(*address),
            Address::Unix(_) | Address::UnixDatagram(_) => None,
        }
    }

    /// The IP address; `None` for Unix sockets.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket_addr().map(|address| address.ip())
    }

    /// The port; `None` for Unix sockets.
    pub fn port(&self) -> Option<u16> {
        self.socket_addr().map(|address| address.port())
    }

    /// The file of a Unix socket; `None` for an abstract name, no name, and IP addresses.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::Unix(UnixName::Path(path)) | Address::UnixDatagram(UnixName::Path(path)) => {
                Some(path)
            }
            _ => None,
        }
    }

    /// Whether this is a Unix socket without a name, as the sockets of clients usually are. A
    /// datagram cannot be sent to such a socket.
    pub fn is_unnamed(&self) -> bool {
        matches!(self, Address::Unix(UnixName::Unnamed) | Address::UnixDatagram(UnixName::Unnamed))
    }

    pub(crate) fn tcp(address: SocketAddr) -> Address {
        Address::Tcp(unmapped(address))
    }

    pub(crate) fn udp(address: SocketAddr) -> Address {
        Address::Udp(unmapped(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Udp(address) => write!(f, "udp://{address}"),
            Address::Unix(name) => write!(f, "unix:{name}"),
            Address::UnixDatagram(name) => write!(f, "unixgram:{name}"),
        }
    }
}

/// The IPv4 address of an IPv4-mapped one (`::ffff:a.b.c.d`, [RFC 4291, 2.5.5.2]), which is how a
/// dual-stack socket reports an IPv4 peer. Other addresses are returned as they are.
///
/// [RFC 4291, 2.5.5.2]: https://www.rfc-editor.org/rfc/rfc4291#section-2.5.5.2
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The inverse of [`unmapped`]: the form in which an IPv6 socket takes the address of an IPv4 peer.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_peers_of_an_ipv6_socket_are_shown_as_ipv4() {
        let reported = "[::ffff:192.0.2.1]:80".parse().unwrap();
        assert_eq!(Address::tcp(reported).to_string(), "192.0.2.1:80");
        assert_eq!(mapped(unmapped(reported)), reported);
        let native = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!(Address::udp(native).to_string(), "udp://[2001:db8::1]:80");
    }
}
