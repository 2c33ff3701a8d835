//! [`ProxyProtocol`]: from which peers a server takes headers of the PROXY protocol.

use std::net::IpAddr;
use std::time::Duration;

use super::Access;

/// Which peers are proxies that begin with a header of the
/// [PROXY protocol](crate::proxy_protocol): see [`Builder::proxy_protocol`](crate::Builder::proxy_protocol).
///
/// It is made from an access list, which *allows* the proxies. [`Access::open`] makes every peer one:
/// each client that can connect can then claim any address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    proxies: Access,
    timeout: Duration,
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

impl From<Access> for ProxyProtocol {
    fn from(proxies: Access) -> ProxyProtocol {
        ProxyProtocol { proxies, timeout: DEFAULT_TIMEOUT }
    }
}

impl ProxyProtocol {
    /// How long a header may take to be whole, from the moment that the request's thread, process or
    /// fiber runs; 5 s by default, and zero counts as one millisecond. The specification advises 3 s at
    /// least, in which TCP sends a lost segment again.
    pub fn timeout(mut self, timeout: Duration) -> ProxyProtocol {
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    pub(crate) fn header_timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether a peer with this address or this user begins with a header.
    pub(crate) fn trusts(&self, ip: Option<IpAddr>, uid: Option<u32>) -> bool {
        self.proxies.permits(ip, uid)
    }
}
