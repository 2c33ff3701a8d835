//! The first lines of output: where the server listens, and how to try it.

use std::io::{self, Write};
use std::net::SocketAddr;

use socketserver::Address;

/// Prints the address of one of several servers, and how to try it.
pub(crate) fn announce(address: &Address, try_it: &str) {
    let mut out = io::stdout().lock();
    let lines = format!("listening on {address}\ntry: {}\n", try_line(address, try_it));
    // Standard output may be closed: the server runs all the same.
    let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
}

/// Prints a further address of a server.
pub(super) fn announce_other(address: &Address) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "also listening on {address}").and_then(|()| out.flush());
}

/// The text with `{nc}`, `{openssl}` and `{address}` replaced.
pub(crate) fn try_line(address: &Address, try_it: &str) -> String {
    let nc = match address {
        Address::Tcp(ip) => host_and_port(ip),
        Address::Udp(ip) => format!("-u {}", host_and_port(ip)),
        Address::Unix(name) => format!("-U {name}"),
        Address::UnixDatagram(name) => format!("-uU {name}"),
        other => other.to_string(),
    };
    let openssl = match address {
        Address::Unix(name) => format!("-unix {name}"),
        other => format!("-connect {other}"),
    };
    let try_it = try_it.replace("{nc}", &nc).replace("{openssl}", &openssl);
    try_it.replace("{address}", &address.to_string())
}

fn host_and_port(address: &SocketAddr) -> String {
    match address {
        // The scope, which is not a part of `Ipv6Addr`.
        SocketAddr::V6(ip) if ip.scope_id() != 0 => {
            format!("{}%{} {}", ip.ip(), ip.scope_id(), ip.port())
        }
        ip => format!("{} {}", ip.ip(), ip.port()),
    }
}
