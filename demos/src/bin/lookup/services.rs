//! Services and their ports, as C's `getservbyname` and `getservbyport`.
//!
//! `getaddrinfo` and `getnameinfo` translate services as well as hosts, and have a safe wrapper,
//! unlike the older calls.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo, getnameinfo};

use crate::answer::{Answer, failed, usage_error};
use crate::files;

const SERVICES: &str = "/etc/services";

pub(crate) fn service(text: &str) -> Answer {
    let (name, transport) = name_and_transport(text)?;
    // getaddrinfo would accept a number. A name has at least one letter:
    // https://www.rfc-editor.org/rfc/rfc6335#section-5.1
    if !name.contains(|letter: char| letter.is_ascii_alphabetic()) {
        return Err(usage_error(format!("{name:?} is not the name of a service")));
    }
    let socktype = transport.map_or(0, i32::from);
    let hints = AddrInfoHints { socktype, ..AddrInfoHints::default() };
    let found = getaddrinfo(None, Some(name), Some(hints));
    let found = found.map_err(|error| failed(text, why(error)))?;
    // The first is enough: a service has the same port with each transport.
    found.take(1).map(|info| Ok(info?.sockaddr.port().to_string())).collect()
}

pub(crate) fn port(text: &str) -> Answer {
    let (number, transport) = name_and_transport(text)?;
    let refused = |_| usage_error(format!("{number:?} is not a port number"));
    let port: u16 = number.parse().map_err(refused)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for (candidate, flag) in [(SockType::Stream, 0), (SockType::DGram, libc::NI_DGRAM)] {
        if transport.is_some_and(|only| only != candidate) {
            continue;
        }
        let (_, name) = getnameinfo(&address, libc::NI_NUMERICHOST | flag)?;
        // The name of an unknown port is its number.
        if name != port.to_string() {
            return Ok(vec![name]);
        }
    }
    Err(failed(text, format!("port/proto not found{}", what_is_missing())))
}

/// The message of getaddrinfo, and a note if `/etc/services` is missing.
pub(crate) fn why(error: LookupError) -> String {
    match error.kind() {
        LookupErrorKind::Service => format!("{error}{}", what_is_missing()),
        _ => error.to_string(),
    }
}

/// `http` or `http/tcp`.
fn name_and_transport(text: &str) -> Result<(&str, Option<SockType>), Box<dyn Error>> {
    match text.split_once('/') {
        None => Ok((text, None)),
        Some((name, "tcp")) => Ok((name, Some(SockType::Stream))),
        Some((name, "udp")) => Ok((name, Some(SockType::DGram))),
        Some((_, other)) => Err(usage_error(format!("{other:?} is neither tcp nor udp"))),
    }
}

fn what_is_missing() -> String {
    files::read(SERVICES).map_or_else(|error| format!("; {error}"), |_| String::new())
}
