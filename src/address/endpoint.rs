//! [`Endpoint`]: an address as it is written in a configuration, parsed and shown.

mod conversions;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use super::unix_name::unescape;
use super::{UnixName, unmapped};
use crate::error::{Error, Result};
use crate::sys::unix_name::HAS_ABSTRACT;

/// An address to listen on or to connect to, as it is written in a configuration.
///
/// | text | address |
/// | --- | --- |
/// | `127.0.0.1:2525`, `[::]:2525`, `localhost:2525` | TCP or UDP, as the server is |
/// | `tcp://HOST:PORT`, `udp://HOST:PORT` | TCP; UDP |
/// | `unix:/path`, `unix:@name` | a Unix stream socket: a file, or a Linux abstract name |
/// | `unixgram:/path`, `unixgram:@name` | a Unix datagram socket |
/// | `/path`, `./path`, `@name` | a Unix socket, stream or datagram, as the server is |
///
/// In the name of a Unix socket `\xNN` stands for a byte, and `\\` for a backslash; names are shown
/// in the same way. Parsing does no look-up: a host name is resolved when the endpoint is used. The
/// functions that take an endpoint also take a [`SocketAddr`], an `(IP address, port)` or
/// `(host, port)` pair, a [`Path`](std::path::Path) or a [`UnixName`].
///
/// ```
/// use socketserver::{Endpoint, Scheme};
///
/// let endpoint: Endpoint = "unix:/run/app.sock".parse()?;
/// assert_eq!(endpoint.scheme(), Some(Scheme::Unix));
/// assert_eq!(endpoint.to_string(), "unix:/run/app.sock");
///
/// let error = "unix:".parse::<Endpoint>().unwrap_err();
/// assert_eq!(error.to_string(), r#"bad address "unix:": the path is missing"#);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    scheme: Option<Scheme>,
    target: Target,
}

/// The transport that an endpoint's prefix names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `tcp://`: TCP.
    Tcp,
    /// `udp://`: UDP.
    Udp,
    /// `unix:`: a Unix stream socket.
    Unix,
    /// `unixgram:`: a Unix datagram socket.
    UnixDatagram,
}

impl Scheme {
    const ALL: [Scheme; 4] = [Scheme::Tcp, Scheme::Udp, Scheme::Unix, Scheme::UnixDatagram];

    fn prefix(self) -> &'static str {
        match self {
            Scheme::Tcp => "tcp://",
            Scheme::Udp => "udp://",
            Scheme::Unix => "unix:",
            Scheme::UnixDatagram => "unixgram:",
        }
    }

    fn is_ip(self) -> bool {
        matches!(self, Scheme::Tcp | Scheme::Udp)
    }
}

/// As in a sentence: `TCP`, `Unix datagram`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Tcp => "TCP",
            Scheme::Udp => "UDP",
            Scheme::Unix => "Unix stream",
            Scheme::UnixDatagram => "Unix datagram",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Host(String, u16),
    Unix(UnixName),
}

impl Endpoint {
    /// The transport that the endpoint names; `None` if it names none, so that the server decides.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Whether this is the name of a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.target, Target::Unix(_))
    }

    /// The IP addresses of a `HOST:PORT`, at least one. A host name is looked up with the system's
    /// resolver, which blocks. An IPv4-mapped address (`[::ffff:127.0.0.1]`) is the IPv4 address.
    ///
    /// # Errors
    /// [`Error::Resolve`] for a host name that does not resolve; [`Error::Address`] for an endpoint
    /// of another scheme than `scheme`.
    pub fn resolve(&self, scheme: Scheme) -> Result<Vec<SocketAddr>> {
        self.expect(scheme)?;
        let Target::Host(host, port) = &self.target else {
            return Err(self.not_a(scheme));
        };
        let failed = |source| Error::Resolve { host: host.clone(), source };
        let found = (host.as_str(), *port).to_socket_addrs().map_err(failed)?;
        let found: Vec<_> = found.map(unmapped).collect();
        if found.is_empty() {
            return Err(failed(std::io::ErrorKind::NotFound.into()));
        }
        Ok(found)
    }

    /// The name of a Unix socket.
    ///
    /// # Errors
    /// [`Error::Address`] for an endpoint of another scheme than `scheme`. [`Error::Unsupported`] for an
    /// abstract name, which only Linux has, on another system.
    pub fn unix_name(&self, scheme: Scheme) -> Result<&UnixName> {
        self.expect(scheme)?;
        match &self.target {
            Target::Unix(UnixName::Abstract(_)) if !HAS_ABSTRACT => {
                Err(Error::Unsupported { reason: "only Linux has abstract names of Unix sockets" })
            }
            Target::Unix(name) => Ok(name),
            Target::Host(..) => Err(self.not_a(scheme)),
        }
    }

    /// The host, without a port; `None` for a Unix socket.
    #[cfg(feature = "tls")]
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.target {
            Target::Host(host, _) => Some(host),
            Target::Unix(_) => None,
        }
    }

    /// Whether [`resolve`](Endpoint::resolve) has to look up a name.
    pub(crate) fn is_host_name(&self) -> bool {
        matches!(&self.target, Target::Host(host, _) if host.parse::<IpAddr>().is_err())
    }

    fn expect(&self, scheme: Scheme) -> Result<()> {
        match self.scheme {
            Some(own) if own != scheme => Err(self.not_a(scheme)),
            _ => Ok(()),
        }
    }

    fn not_a(&self, scheme: Scheme) -> Error {
        let wanted = match scheme {
            Scheme::Tcp => "a TCP address, such as 127.0.0.1:2525",
            Scheme::Udp => "a UDP address, such as udp://127.0.0.1:2525",
            Scheme::Unix => "a Unix stream address, such as unix:/run/app.sock",
            Scheme::UnixDatagram => "a Unix datagram address, such as unixgram:/run/app.sock",
        };
        invalid(&self.to_string(), format!("not {wanted}"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme.map_or("", Scheme::prefix))?;
        match &self.target {
            Target::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Target::Host(host, port) => write!(f, "{host}:{port}"),
            Target::Unix(name) => write!(f, "{name}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Endpoint> {
        let scheme = Scheme::ALL.into_iter().find(|scheme| text.starts_with(scheme.prefix()));
        let rest = &text[scheme.map_or(0, |scheme| scheme.prefix().len())..];
        let is_unix = match scheme {
            Some(scheme) => !scheme.is_ip(),
            None => rest.starts_with(['/', '.', '@']),
        };
        let target = match (is_unix, rest.strip_prefix('@')) {
            (true, Some(name)) => unix_target(UnixName::Abstract(unescape(name))),
            (true, None) => unix_target(UnixName::Path(OsString::from_vec(unescape(rest)).into())),
            (false, _) => host_target(rest),
        };
        match target {
            Ok(target) => Ok(Endpoint { scheme, target }),
            Err(reason) => Err(invalid(text, reason)),
        }
    }
}

fn invalid(text: &str, reason: impl Into<String>) -> Error {
    Error::Address { text: text.to_owned(), reason: reason.into() }
}

/// A `HOST:PORT` as a target, or what is wrong with it.
fn host_target(text: &str) -> Result<Target, String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing, as in HOST:PORT")?;
    let port = port.parse().map_err(|_| format!("{port:?} is not a port from 0 to 65535"))?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(bracketed) if bracketed.contains(':') => bracketed,
        Some(bracketed) => return Err(format!("{bracketed:?} is no IPv6 address")),
        None if host.contains(':') => return Err("IPv6 addresses are written [::1]:PORT".into()),
        None => host,
    };
    match host {
        "" => Err("the host is missing; 0.0.0.0 and [::] are all addresses".into()),
        host if host.contains(['/', '\0', ' ']) => Err(format!("{host:?} is not a host")),
        host => Ok(Target::Host(host.to_owned(), port)),
    }
}

/// The name as a target, or what is wrong with it.
fn unix_target(name: UnixName) -> Result<Target, String> {
    let (kind, bytes) = match &name {
        UnixName::Path(path) => ("path", path.as_os_str().as_bytes()),
        UnixName::Abstract(name) => ("name", &**name),
        UnixName::Unnamed => ("name", &b""[..]),
    };
    let (length, limit) = (bytes.len(), UnixName::MAX_LENGTH);
    if bytes.is_empty() {
        Err(format!("the {kind} is missing"))
    } else if length > limit {
        Err(format!("the {kind} has {length} bytes, over the system's limit of {limit}"))
    } else if kind == "path" && bytes.contains(&0) {
        Err("the path contains a NUL".into())
    } else {
        Ok(Target::Unix(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads_and_shows(text: &str, scheme: Option<Scheme>) {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.scheme(), scheme, "{text}");
        assert_eq!(endpoint.to_string(), text);
    }

    #[test]
    fn every_form_is_shown_as_it_was_written() {
        reads_and_shows("127.0.0.1:2525", None);
        reads_and_shows("[::]:2525", None);
        reads_and_shows("localhost:0", None);
        reads_and_shows("tcp://[::1]:1", Some(Scheme::Tcp));
        reads_and_shows("udp://127.0.0.1:65535", Some(Scheme::Udp));
        reads_and_shows("unix:/run/app.sock", Some(Scheme::Unix));
        reads_and_shows("unix:relative", Some(Scheme::Unix));
        reads_and_shows("unix:@name", Some(Scheme::Unix));
        reads_and_shows("unixgram:/run/app.sock", Some(Scheme::UnixDatagram));
        reads_and_shows("/run/app.sock", None);
        reads_and_shows("./app.sock", None);
        reads_and_shows("@name", None);
        reads_and_shows("unix:/tmp/\u{e9}", Some(Scheme::Unix));
    }

    // Some of the names are abstract.
    #[cfg(all(target_os = "linux", not(socketserver_portable)))]
    #[test]
    fn unprintable_bytes_are_shown_as_escapes_that_parse_to_the_same_name() {
        use crate::address::Address;
        for (name, shown) in [
            (UnixName::Abstract(b"a\\b\xff\0".into()), r"unix:@a\\b\xff\x00"),
            (UnixName::Path("/a\r\n\u{1b}[2J\u{9b}".into()), r"unix:/a\x0d\x0a\x1b[2J\xc2\x9b"),
            (UnixName::Path("@looks abstract".into()), r"unix:\x40looks abstract"),
        ] {
            let address = Address::Unix(name);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Endpoint>().unwrap(), Endpoint::from(&address));
        }
        // A backslash that begins no escape stands for itself.
        let endpoint: Endpoint = r"unix:@a\b\xg0\x4".parse().unwrap();
        let name = UnixName::Abstract(br"a\b\xg0\x4".into());
        assert_eq!(endpoint.unix_name(Scheme::Unix).unwrap(), &name);
        assert_eq!(endpoint.to_string(), r"unix:@a\\b\\xg0\\x4");
    }

    #[test]
    fn a_text_that_is_no_address_is_an_error_that_says_why() {
        for (text, reason) in [
            ("", "the port is missing"),
            ("localhost", "the port is missing"),
            (":80", "the host is missing"),
            ("localhost:http", "not a port"),
            ("localhost:65536", "not a port"),
            ("localhost:-1", "not a port"),
            ("::1:80", "written [::1]:PORT"),
            ("http://localhost:80", "IPv6 addresses are written"),
            ("unix:", "the path is missing"),
            ("unix:@", "the name is missing"),
            ("unix:/a\0b", "NUL"),
            ("a b:80", "not a host"),
            ("[unix]:80", "no IPv6 address"),
            ("[[a]]:80", "no IPv6 address"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        let longest = format!("unix:/{}", "x".repeat(UnixName::MAX_LENGTH - 1));
        assert!(longest.parse::<Endpoint>().is_ok());
        let error = format!("{longest}x").parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("108 bytes, over the system's limit of 107"), "{error}");
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        for text in ["[::ffff:192.0.2.1]:80", "[::ffff:c000:201]:80"] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.resolve(Scheme::Tcp).unwrap(), ["192.0.2.1:80".parse().unwrap()]);
        }
    }

    #[test]
    fn an_endpoint_of_another_scheme_is_an_error() {
        let endpoint: Endpoint = "udp://127.0.0.1:1".parse().unwrap();
        assert!(endpoint.resolve(Scheme::Udp).is_ok());
        let error = endpoint.resolve(Scheme::Tcp).unwrap_err().to_string();
        assert!(error.contains("not a TCP address"), "{error}");
        assert!(endpoint.unix_name(Scheme::Unix).is_err());
        let open: Endpoint = "/run/app.sock".parse().unwrap();
        assert!(open.unix_name(Scheme::Unix).is_ok());
        assert!(open.unix_name(Scheme::UnixDatagram).is_ok());
        assert!(open.resolve(Scheme::Tcp).is_err());
    }
}
