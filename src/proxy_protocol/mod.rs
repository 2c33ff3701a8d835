//! The [PROXY protocol], versions 1 and 2: the header by which a proxy tells a server whose
//! connection it passes on.
//!
//! A server takes headers with [`Builder::proxy_protocol`](crate::Builder::proxy_protocol); a handler
//! then finds its client's [`ProxyHeader`] by
//! [`Connection::proxy_header`](crate::Connection::proxy_header). Outwards,
//! [`ConnectOptions::proxy_header`](crate::ConnectOptions::proxy_header) sends one.
//!
//! [PROXY protocol]: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt

mod crc32c;
mod tlv;
mod v1;
mod v2;

use std::net::SocketAddr;

use crate::address::{Address, mapped};
use crate::error::{Error, Result};

pub use tlv::{ProxySsl, Tlv, Tlvs};

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Version {
    /// A line of text. It has the addresses of TCP connections only: for others it says `UNKNOWN`.
    V1,
    /// Binary: addresses of every kind, and [`Tlv`]s.
    V2,
}

/// What a proxy says about a connection that it passes on, before the client's own bytes.
///
/// ```
/// use socketserver::Address;
/// use socketserver::proxy_protocol::{ProxyHeader, Version};
///
/// let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nhello";
/// let (header, length) = ProxyHeader::parse(bytes)?.expect("a whole header");
/// assert_eq!(header.source().unwrap().to_string(), "192.0.2.1:56324");
/// assert_eq!(&bytes[length..], b"hello");
///
/// let address = |text: &str| Address::Tcp(text.parse().unwrap());
/// let header = ProxyHeader::new(address("192.0.2.1:56324"), address("198.51.100.7:443"));
/// assert_eq!(header.encode(Version::V1), &bytes[..length]);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    origin: Origin,
    /// Whole ones, as they are written.
    tlvs: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// The proxy itself.
    Local,
    /// A client without an address that the protocol has a form for.
    Unknown,
    Client {
        source: Address,
        destination: Address,
    },
}

/// What the first bytes of a connection are.
pub(crate) enum Parsed {
    Whole {
        header: ProxyHeader,
        length: usize,
    },
    /// The beginning of a header, of which at least so many bytes are missing.
    Incomplete {
        missing: usize,
    },
}

impl ProxyHeader {
    /// The longest header that is accepted and written, in bytes: 16, and 4096 of addresses and
    /// [`Tlv`]s. Version 1 has lines of at most 107 bytes.
    pub const MAX_LENGTH: usize = v2::FIXED_LENGTH + v2::MAX_BLOCK_LENGTH;

    /// For the connection of the client at `source`, which had connected to `destination`.
    pub fn new(source: Address, destination: Address) -> ProxyHeader {
        ProxyHeader { origin: Origin::Client { source, destination }, tlvs: Vec::new() }
    }

    /// For a connection of the proxy's own, such as a health check: version 2's `LOCAL`, version 1's
    /// `UNKNOWN`.
    pub fn local() -> ProxyHeader {
        ProxyHeader { origin: Origin::Local, tlvs: Vec::new() }
    }

    /// For a client whose address is not known: version 2's `AF_UNSPEC`, version 1's `UNKNOWN`.
    pub fn unknown() -> ProxyHeader {
        ProxyHeader { origin: Origin::Unknown, tlvs: Vec::new() }
    }

    /// Adds a [`Tlv`]. Version 1 has none, and leaves them out.
    ///
    /// # Errors
    /// [`Error::ProxyHeader`] for a value that is not as the specification says, that makes the header
    /// [too long](ProxyHeader::MAX_LENGTH), or in a header without addresses; and for
    /// [`Tlv::CRC32C`], which depends on all of the header.
    pub fn with_tlv(mut self, kind: u8, value: impl AsRef<[u8]>) -> Result<ProxyHeader> {
        let tlv = Tlv { kind, value: value.as_ref() };
        if kind == Tlv::CRC32C {
            return Err(bad("a checksum cannot be chosen"));
        }
        if !matches!(self.origin, Origin::Client { .. }) {
            return Err(bad("no addresses before a TLV"));
        }
        tlv.check()?;
        if v2::MAX_ADDRESSES + self.tlvs.len() + tlv.length() > v2::MAX_BLOCK_LENGTH {
            return Err(bad(TOO_LONG));
        }
        tlv.append_to(&mut self.tlvs);
        Ok(self)
    }

    /// The client's address. `None` if the connection is [the proxy's own](ProxyHeader::is_local), or
    /// the proxy does not know.
    pub fn source(&self) -> Option<&Address> {
        match &self.origin {
            Origin::Client { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The address that the client had connected to; `None` as for [`source`](ProxyHeader::source).
    pub fn destination(&self) -> Option<&Address> {
        match &self.origin {
            Origin::Client { destination, .. } => Some(destination),
            _ => None,
        }
    }

    /// Whether the proxy has connected on its own account (`LOCAL`), for a health check for instance.
    pub fn is_local(&self) -> bool {
        self.origin == Origin::Local
    }

    /// All [`Tlv`]s in their order, except the checksum. None in version 1, and none in a header without
    /// addresses.
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs::new(&self.tlvs)
    }

    fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }

    fn text(&self, kind: u8) -> Option<&str> {
        // `Tlv::check` has seen to it that it is UTF-8.
        str::from_utf8(self.tlv(kind)?).ok()
    }

    /// The protocol that the client and the proxy have agreed on, as ALPN names it
    /// ([RFC 7301](https://www.rfc-editor.org/rfc/rfc7301)), such as `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(Tlv::ALPN)
    }

    /// The host name that the client has asked for; in TLS, its SNI.
    pub fn authority(&self) -> Option<&str> {
        self.text(Tlv::AUTHORITY)
    }

    /// The proxy's name for the connection, of at most 128 bytes.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(Tlv::UNIQUE_ID)
    }

    /// The client's TLS; `None` if the client has connected to the proxy without.
    pub fn ssl(&self) -> Option<ProxySsl<'_>> {
        self.tlv(Tlv::SSL).and_then(ProxySsl::of).filter(ProxySsl::is_used)
    }

    /// The name of the network namespace that the client has connected in.
    pub fn netns(&self) -> Option<&str> {
        self.text(Tlv::NETNS)
    }

    /// The header that these bytes begin with, and its length. `None`: they are the beginning of one.
    ///
    /// # Errors
    /// [`Error::ProxyHeader`] if no header begins so.
    pub fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>> {
        Ok(match ProxyHeader::parse_prefix(bytes)? {
            Parsed::Whole { header, length } => Some((header, length)),
            Parsed::Incomplete { .. } => None,
        })
    }

    pub(crate) fn parse_prefix(bytes: &[u8]) -> Result<Parsed> {
        match bytes {
            [] => Ok(Parsed::Incomplete { missing: v1::MIN_LENGTH.min(v2::FIXED_LENGTH) }),
            _ if agree(bytes, v1::SIGNATURE) => v1::parse(bytes),
            _ if agree(bytes, v2::SIGNATURE) => v2::parse(bytes),
            _ => Err(bad("it begins otherwise")),
        }
    }

    /// The header as it is sent.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        match version {
            Version::V1 => v1::encode(self).into_bytes(),
            Version::V2 => v2::encode(self),
        }
    }
}

/// Whether one of them begins with the other.
fn agree(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

/// Two IP addresses in one form: an IPv4 address beside an IPv6 one as an IPv4-mapped one.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    match (source, destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => (source, destination),
        _ => (mapped(source), mapped(destination)),
    }
}

const TOO_LONG: &str = "it is too long";

fn bad(reason: &'static str) -> Error {
    Error::ProxyHeader { reason }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    /// Reads as a connection does: what is missing at least, and that again.
    fn read(bytes: &[u8]) -> (ProxyHeader, usize, u32) {
        let (mut length, mut reads) = (0, 0);
        loop {
            match ProxyHeader::parse_prefix(&bytes[..length]).unwrap() {
                Parsed::Whole { header, length: whole } => {
                    assert_eq!(whole, length);
                    return (header, length, reads);
                }
                Parsed::Incomplete { missing } => {
                    assert!(missing > 0);
                    (length, reads) = (length + missing, reads + 1);
                }
            }
        }
    }

    #[test]
    fn what_is_missing_never_reaches_behind_the_header() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let ips = ["0.0.0.0", "192.0.2.1", "255.255.255.255", "[::]", "[2001:db8::1]"];
        let ports = ["0", "80", "65535"];
        let mut headers = vec![ProxyHeader::local(), ProxyHeader::unknown()];
        for (ip, port) in ips.iter().flat_map(|ip| ports.map(|port| (ip, port))) {
            for (other_ip, other_port) in ips.iter().flat_map(|ip| ports.map(|port| (ip, port))) {
                let source = tcp(&format!("{ip}:{port}"));
                let destination = tcp(&format!("{other_ip}:{other_port}"));
                headers.push(ProxyHeader::new(source, destination));
            }
        }
        for header in headers {
            for (version, max_reads) in [(Version::V1, 20), (Version::V2, 3)] {
                let bytes = header.encode(version);
                // What follows looks like more of it.
                let followed = [&bytes[..], b" 1\r\n 1 1\r\n\r\n", &bytes].concat();
                let (again, length, reads) = read(&followed);
                assert_eq!(length, bytes.len());
                assert_eq!(again.source(), header.source());
                assert!(reads <= max_reads, "{}: {reads}", bytes.escape_ascii());
            }
        }
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN x\r\n", "PROXY UNKNOWN T T T\r\r\n"] {
            let followed = format!("{line}\r\n\r\n");
            assert_eq!(read(followed.as_bytes()).1, line.len());
        }
    }
}
