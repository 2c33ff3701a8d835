//! Addresses in binary, as C's `inet_pton` and `inet_ntop`.
//!
//! std parses the same addresses as `inet_pton`: not `127.1`, no leading zeros, no scope.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::answer::{Answer, usage_error};

pub(crate) fn pack(address: &str) -> Answer {
    match address.parse() {
        Ok(IpAddr::V4(address)) => Ok(vec![format!("{:08x}", u32::from(address))]),
        Ok(IpAddr::V6(address)) => Ok(vec![format!("{:032x}", u128::from(address))]),
        Err(_) => Err(usage_error(format!("{address:?} is not an IPv4 or IPv6 address"))),
    }
}

/// Prints the form of [RFC 5952](https://www.rfc-editor.org/rfc/rfc5952). It differs from
/// `inet_ntop` for one obsolete kind of address: `::102:304` is `::1.2.3.4` there.
pub(crate) fn unpack(hex: &str) -> Answer {
    let refused = || usage_error(format!("{hex:?} is not 8 or 32 hexadecimal digits"));
    // `from_str_radix` would also accept a sign.
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    let address = match hex.len() {
        8 => u32::from_str_radix(hex, 16).map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
        32 => u128::from_str_radix(hex, 16).map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
        _ => return Err(refused()),
    };
    Ok(vec![address.map_err(|_| refused())?.to_string()])
}
