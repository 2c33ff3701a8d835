//! The PROXY protocol: headers, servers behind a proxy, and handlers that are one.

mod carrier;
mod header;
mod limits;
mod outwards;
mod server;

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use socketserver::*;

use crate::mixins::all_mixins;
use crate::support::abstract_name;
use crate::support::servers::{answers, serve_at};

/// A client that no test is.
const CLIENT: &str = "192.0.2.1:56324";

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";

const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb";

/// Of version 1, for a client at this address.
fn header(client: &str) -> String {
    format!("PROXY TCP4 {client} 198.51.100.7 56324 443\r\n")
}

/// This machine's address, and this user: what clients of a test connect from, if they do not bind.
fn proxies() -> ProxyProtocol {
    let me = rustix::process::getuid().as_raw();
    Access::closed().allow(IpAddr::from([127, 0, 0, 1])).allow(Peers::Uid(me)).into()
}

/// Runs a test on servers of both stream transports behind proxies, by each mixin.
fn behind_proxies<H: StreamRequestHandler>(
    proxies: ProxyProtocol,
    handler: H,
    test: impl Fn(&str, &RunningServer),
) {
    let handler = Arc::new(handler);
    for (name, mixin) in all_mixins() {
        let builder = TcpServer::builder().mixin(mixin).proxy_protocol(proxies.clone());
        test(name, &serve_at("127.0.0.1:0", builder, handler.clone()));
    }
    for (name, mixin) in all_mixins() {
        let builder = UnixStreamServer::builder().mixin(mixin).proxy_protocol(proxies.clone());
        test(name, &serve_at(&format!("unix:{}", abstract_name()), builder, handler.clone()));
    }
}

/// Answers each line with what the connection says of its client.
fn who() -> impl StreamRequestHandler {
    answers(|line, connection| {
        let shown = |address: Option<&Address>| match address {
            Some(address) => format!("{address}"),
            None => "none".to_owned(),
        };
        let client = connection.peer_addr().clone();
        let proxy = shown(connection.proxied_by());
        let destination = connection.proxy_header().and_then(ProxyHeader::destination);
        let destination = shown(destination);
        Ok(writeln!(connection, "{line}: {client} by {proxy} to {destination}")?)
    })
}
