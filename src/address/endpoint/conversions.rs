//! What an [`Endpoint`] is made from: texts, IP addresses, pairs of a host and a port, paths, names
//! of Unix sockets, and the [`Address`] of a socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Endpoint, Scheme, Target, invalid, unix_target};
use crate::address::{Address, UnixName};
use crate::error::{Error, Result};

impl TryFrom<&str> for Endpoint {
    type Error = Error;
    fn try_from(text: &str) -> Result<Endpoint> {
        text.parse()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Error;
    fn try_from(text: String) -> Result<Endpoint> {
        text.parse()
    }
}

impl TryFrom<&String> for Endpoint {
    type Error = Error;
    fn try_from(text: &String) -> Result<Endpoint> {
        text.parse()
    }
}

/// A path that begins with `@` is an abstract name.
impl TryFrom<&Path> for Endpoint {
    type Error = Error;
    fn try_from(path: &Path) -> Result<Endpoint> {
        let name = match path.as_os_str().as_bytes() {
            [b'@', name @ ..] => UnixName::Abstract(name.to_vec()),
            _ => UnixName::Path(path.to_owned()),
        };
        match unix_target(name) {
            Ok(target) => Ok(Endpoint { scheme: None, target }),
            Err(reason) => Err(invalid(&path.display().to_string(), reason)),
        }
    }
}

impl TryFrom<PathBuf> for Endpoint {
    type Error = Error;
    fn try_from(path: PathBuf) -> Result<Endpoint> {
        path.as_path().try_into()
    }
}

impl TryFrom<&PathBuf> for Endpoint {
    type Error = Error;
    fn try_from(path: &PathBuf) -> Result<Endpoint> {
        path.as_path().try_into()
    }
}

/// Fails for [`UnixName::Unnamed`], and for a name that no socket can have.
impl TryFrom<UnixName> for Endpoint {
    type Error = Error;
    fn try_from(name: UnixName) -> Result<Endpoint> {
        let text = name.to_string();
        match unix_target(name) {
            Ok(target) => Ok(Endpoint { scheme: None, target }),
            Err(reason) => Err(invalid(&text, reason)),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Endpoint {
        // `SocketAddrV6` shows the scope id of the address, `Ipv6Addr` does not have it.
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => address.ip().to_string(),
        };
        Endpoint { scheme: None, target: Target::Host(host, address.port()) }
    }
}

/// By way of [`SocketAddr`].
macro_rules! from_ip_address {
    ($($address:ty),*) => {$(
        impl From<$address> for Endpoint {
            fn from(address: $address) -> Endpoint {
                SocketAddr::from(address).into()
            }
        }
    )*};
}

from_ip_address!(SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

impl From<(String, u16)> for Endpoint {
    fn from((host, port): (String, u16)) -> Endpoint {
        Endpoint { scheme: None, target: Target::Host(host, port) }
    }
}

impl From<(&str, u16)> for Endpoint {
    fn from((host, port): (&str, u16)) -> Endpoint {
        (host.to_owned(), port).into()
    }
}

impl From<&Address> for Endpoint {
    fn from(address: &Address) -> Endpoint {
        let (scheme, target) = match address {
            Address::Tcp(ip) => (Scheme::Tcp, Endpoint::from(*ip).target),
            Address::Udp(ip) => (Scheme::Udp, Endpoint::from(*ip).target),
            Address::Unix(name) => (Scheme::Unix, Target::Unix(name.clone())),
            Address::UnixDatagram(name) => (Scheme::UnixDatagram, Target::Unix(name.clone())),
        };
        Endpoint { scheme: Some(scheme), target }
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Endpoint {
        (&address).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_made_of_addresses_pairs_and_names() {
        let (v4, v6) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        let endpoints: [(Endpoint, &str); 8] = [
            (SocketAddrV4::new(v4, 80).into(), "127.0.0.1:80"),
            (SocketAddrV6::new(v6, 80, 0, 0).into(), "[::1]:80"),
            ((v4, 80).into(), "127.0.0.1:80"),
            ((v6, 80).into(), "[::1]:80"),
            ((IpAddr::V4(v4), 80).into(), "127.0.0.1:80"),
            (("localhost", 80).into(), "localhost:80"),
            ((String::from("localhost"), 80).into(), "localhost:80"),
            ((String::from("::1"), 80).into(), "[::1]:80"),
        ];
        for (endpoint, text) in endpoints {
            assert_eq!(endpoint, text.parse().unwrap());
        }
        let path = PathBuf::from("/run/app.sock");
        let endpoint: Endpoint = "/run/app.sock".parse().unwrap();
        assert_eq!(Endpoint::try_from(&path).unwrap(), endpoint);
        assert_eq!(Endpoint::try_from(path.as_path()).unwrap(), endpoint);
        assert_eq!(Endpoint::try_from(path.clone()).unwrap(), endpoint);
        assert_eq!(Endpoint::try_from(UnixName::Path(path)).unwrap(), endpoint);
        let abstract_name: Endpoint = "@name".parse().unwrap();
        assert_eq!(Endpoint::try_from(Path::new("@name")).unwrap(), abstract_name);
        let name = UnixName::Abstract(b"name".to_vec());
        assert_eq!(Endpoint::try_from(name).unwrap(), abstract_name);
    }

    #[test]
    fn a_unix_name_that_no_socket_can_have_is_an_error() {
        for (name, reason) in [
            (UnixName::Unnamed, "the name is missing"),
            (UnixName::Path(PathBuf::new()), "the path is missing"),
            (UnixName::Path("a\0b".into()), "the path contains a NUL"),
            (UnixName::Abstract(vec![b'x'; UnixName::MAX_LENGTH + 1]), "over the system's limit"),
        ] {
            let error = Endpoint::try_from(name).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_endpoint_keeps_the_scope_of_an_ipv6_address() {
        let address: SocketAddr = "[fe80::1%3]:80".parse().unwrap();
        let endpoint = Endpoint::from(address);
        assert_eq!(endpoint.resolve(Scheme::Tcp).unwrap(), [address]);
    }
}
