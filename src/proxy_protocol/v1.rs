//! Version 1: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Origin, Parsed, ProxyHeader, TOO_LONG, bad, same_family};
use crate::address::Address;
use crate::error::Result;

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// `PROXY UNKNOWN\r\n`.
pub(super) const MIN_LENGTH: usize = 15;

/// Of a line, its end included.
const MAX_LENGTH: usize = 107;

/// How many spaces a line with addresses has.
const SPACES: usize = 5;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed> {
    let longest = &bytes[..bytes.len().min(MAX_LENGTH)];
    let Some(end) = longest.windows(2).position(|pair| pair == b"\r\n") else {
        let missing = missing(longest);
        return match longest.len() + missing <= MAX_LENGTH {
            true => Ok(Parsed::Incomplete { missing }),
            false => Err(bad(TOO_LONG)),
        };
    };
    let header = ProxyHeader { origin: origin(&longest[SIGNATURE.len()..end])?, tlvs: Vec::new() };
    Ok(Parsed::Whole { header, length: end + 2 })
}

/// How many bytes it takes at least to end a line that begins so: what follows the line is not read
/// with it.
fn missing(line: &[u8]) -> usize {
    let to_end = match line {
        [.., b'\r'] => 1,
        [b'P', b'R', b'O', b'X', b'Y', b' ', b'T', ..] => {
            let spaces = line.iter().filter(|byte| **byte == b' ').count();
            // Each is followed by a byte at least.
            2 * SPACES.saturating_sub(spaces) + 2
        }
        _ => 2,
    };
    to_end.max(MIN_LENGTH.saturating_sub(line.len()))
}

/// From the line behind `PROXY `.
fn origin(line: &[u8]) -> Result<Origin> {
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Origin::Unknown);
    }
    let text = str::from_utf8(line).map_err(|_| bad("it is no text"))?;
    let fields: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err(bad("it has not six fields"));
    };
    let ip: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => |text| text.parse().map(Ipv4Addr::into).ok(),
        "TCP6" => |text| text.parse().map(Ipv6Addr::into).ok(),
        _ => return Err(bad("its protocol is not TCP4, TCP6 or UNKNOWN")),
    };
    let address = |address, text| -> Result<Address> {
        let ip = ip(address).ok_or(bad("its address is none of its protocol"))?;
        Ok(Address::tcp(SocketAddr::new(ip, port(text)?)))
    };
    Ok(Origin::Client {
        source: address(source, source_port)?,
        destination: address(destination, destination_port)?,
    })
}

fn port(text: &str) -> Result<u16> {
    // `parse` takes a sign and leading zeroes.
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| is_canonical);
    port.ok_or(bad("its port is none"))
}

pub(super) fn encode(header: &ProxyHeader) -> String {
    match header.origin {
        Origin::Client { source: Address::Tcp(source), destination: Address::Tcp(destination) } => {
            let (source, destination) = same_family(source, destination);
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (ip, port) = (source.ip(), source.port());
            format!("PROXY {family} {ip} {} {port} {}\r\n", destination.ip(), destination.port())
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    }
}
