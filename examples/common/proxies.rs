//! The flags of the PROXY protocol: which clients are proxies, and what a server behind is sent.

use std::net::IpAddr;

use socketserver::ipnet::IpNet;
use socketserver::proxy_protocol::Version;
use socketserver::{Access, Peers, ProxyProtocol};

use super::Options;
use super::flags::{Flag, Values};

pub(super) const FLAG: Flag<'static> = Flag(
    "proxy-protocol",
    "NETWORK",
    "who begins with a PROXY header: a network, or uid:NUMBER; may be given several times",
);

/// The proxies, if there are any.
pub(super) fn of(values: &Values) -> Result<Option<ProxyProtocol>, lexopt::Error> {
    let mut proxies = Access::closed();
    for text in values.all(FLAG.0) {
        let peers = parse(text);
        let refused = || format!("--{} {text}: not a network, and not uid:NUMBER", FLAG.0);
        proxies = proxies.allow(peers.ok_or_else(refused)?);
    }
    Ok((proxies != Access::closed()).then(|| ProxyProtocol::from(proxies)))
}

/// A network, an address, or a user on a Unix socket.
fn parse(text: &str) -> Option<Peers> {
    if let Some(uid) = text.strip_prefix("uid:") {
        return uid.parse().ok().map(Peers::Uid);
    }
    let address = || text.parse().ok().map(IpAddr::into);
    text.parse::<IpNet>().ok().or_else(address).map(Peers::Net)
}

impl Options {
    /// The version of the header that another server is sent, by a flag of the example's own.
    pub(crate) fn version(&self, flag: &str) -> Result<Option<Version>, lexopt::Error> {
        let version = |text: &str| match text {
            "v1" => Ok(Version::V1),
            "v2" => Ok(Version::V2),
            _ => Err("a version is v1 or v2"),
        };
        self.values.parsed(flag, version)
    }
}
