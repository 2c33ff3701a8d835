//! Version 2: binary.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::crc32c::crc32c;
use super::tlv::{Tlv, Tlvs};
use super::{Origin, Parsed, ProxyHeader, TOO_LONG, bad, same_family};
use crate::address::{Address, UnixName};
use crate::error::Result;

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version and command, family and protocol, and the length of the block that follows.
pub(super) const FIXED_LENGTH: usize = 16;

/// Of addresses and TLVs, in bytes. The format has room for 64 KiB; senders keep to one segment.
pub(super) const MAX_BLOCK_LENGTH: usize = 4096;

/// The longest addresses: two of Unix sockets.
pub(super) const MAX_ADDRESSES: usize = 2 * UNIX_LENGTH;

const UNIX_LENGTH: usize = 108;

const VERSION: u8 = 0x2;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;

const UNSPEC: u8 = 0x0;
const INET: u8 = 0x1;
const INET6: u8 = 0x2;
const UNIX: u8 = 0x3;

const STREAM: u8 = 0x1;
const DGRAM: u8 = 0x2;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LENGTH>() else {
        return Ok(Parsed::Incomplete { missing: FIXED_LENGTH - bytes.len() });
    };
    let [.., command, kind, high, low] = *fixed;
    if command >> 4 != VERSION {
        return Err(bad("its version is not 2"));
    }
    if !matches!(command & 0xf, LOCAL | PROXY) {
        return Err(bad("its command is not LOCAL or PROXY"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BLOCK_LENGTH {
        return Err(bad(TOO_LONG));
    }
    let (family, protocol) = (kind >> 4, kind & 0xf);
    if command & 0xf == PROXY && (family > UNIX || protocol > DGRAM) {
        return Err(bad("its family or protocol is unknown"));
    }
    let Some(block) = rest.get(..length) else {
        return Ok(Parsed::Incomplete { missing: length - rest.len() });
    };
    let length = FIXED_LENGTH + length;
    let header = match (command & 0xf, family, protocol) {
        // Whatever the block has is skipped.
        (LOCAL, ..) => ProxyHeader::local(),
        (_, UNSPEC, _) | (_, _, UNSPEC) => ProxyHeader::unknown(),
        _ => {
            let (origin, tlvs) = addresses(family, protocol, block)?;
            ProxyHeader { origin, tlvs: checked(tlvs, &bytes[..length])? }
        }
    };
    Ok(Parsed::Whole { header, length })
}

/// The addresses at the start of a block, and what follows them.
fn addresses(family: u8, protocol: u8, block: &[u8]) -> Result<(Origin, &[u8])> {
    let too_short = || bad("it is too short for its addresses");
    let of_ip = |source: IpAddr, destination: IpAddr, ports: [u8; 4]| {
        let [a, b, c, d] = ports;
        let address = if protocol == STREAM { Address::tcp } else { Address::udp };
        Origin::Client {
            source: address(SocketAddr::new(source, u16::from_be_bytes([a, b]))),
            destination: address(SocketAddr::new(destination, u16::from_be_bytes([c, d]))),
        }
    };
    let of_unix = |name: &[u8; UNIX_LENGTH]| match protocol {
        STREAM => Address::Unix(unix_name(name)),
        _ => Address::UnixDatagram(unix_name(name)),
    };
    match family {
        INET => {
            let (source, rest) = block.split_first_chunk::<4>().ok_or_else(too_short)?;
            let (destination, rest) = rest.split_first_chunk::<4>().ok_or_else(too_short)?;
            let (ports, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
            let [source, destination] = [source, destination].map(|ip| Ipv4Addr::from(*ip).into());
            Ok((of_ip(source, destination, *ports), rest))
        }
        INET6 => {
            let (source, rest) = block.split_first_chunk::<16>().ok_or_else(too_short)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or_else(too_short)?;
            let (ports, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
            let [source, destination] = [source, destination].map(|ip| Ipv6Addr::from(*ip).into());
            Ok((of_ip(source, destination, *ports), rest))
        }
        _ => {
            let (source, rest) = block.split_first_chunk().ok_or_else(too_short)?;
            let (destination, rest) = rest.split_first_chunk().ok_or_else(too_short)?;
            let (source, destination) = (of_unix(source), of_unix(destination));
            Ok((Origin::Client { source, destination }, rest))
        }
    }
}

/// A path ends at a zero byte, an abstract name begins with one, and padding follows both.
fn unix_name(name: &[u8; UNIX_LENGTH]) -> UnixName {
    let trimmed = |name: &[u8]| {
        let length = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        name[..length].to_vec()
    };
    match name {
        [0, name @ ..] if name.iter().all(|byte| *byte == 0) => UnixName::Unnamed,
        [0, name @ ..] => UnixName::Abstract(trimmed(name)),
        name => {
            let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            UnixName::Path(OsStr::from_bytes(&name[..length]).into())
        }
    }
}

/// The TLVs but for the checksum, if all of them are as they should be.
fn checked(bytes: &[u8], header: &[u8]) -> Result<Vec<u8>> {
    let mut tlvs = Tlvs::new(bytes);
    let mut others = Vec::new();
    let mut has_checksum = false;
    while let Some(tlv) = tlvs.next() {
        if tlv.kind != Tlv::CRC32C {
            tlv.check()?;
            tlv.append_to(&mut others);
            continue;
        }
        let end = header.len() - tlvs.rest().len();
        let is_right = tlv.value.len() == 4 && !has_checksum && {
            let bytes = header.iter().enumerate();
            let zeroed =
                bytes.map(|(at, byte)| if (end - 4..end).contains(&at) { 0 } else { *byte });
            crc32c(zeroed).to_be_bytes() == tlv.value
        };
        if !is_right {
            return Err(bad("its checksum is wrong"));
        }
        has_checksum = true;
    }
    match tlvs.rest() {
        [] => Ok(others),
        _ => Err(bad("its last TLV is cut off")),
    }
}

pub(super) fn encode(header: &ProxyHeader) -> Vec<u8> {
    let mut block = Vec::new();
    let (command, kind) = match &header.origin {
        Origin::Local => (LOCAL, 0),
        Origin::Unknown => (PROXY, 0),
        Origin::Client { source, destination } => {
            (PROXY, encode_addresses(source, destination, &mut block))
        }
    };
    if kind != 0 {
        block.extend_from_slice(&header.tlvs);
    }
    let mut bytes = Vec::with_capacity(FIXED_LENGTH + block.len());
    bytes.extend_from_slice(SIGNATURE);
    bytes.extend_from_slice(&[VERSION << 4 | command, kind]);
    bytes.extend_from_slice(&(block.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&block);
    bytes
}

/// Returns the family and the protocol, 0 for two addresses that have none in common.
fn encode_addresses(source: &Address, destination: &Address, block: &mut Vec<u8>) -> u8 {
    let protocol = match source {
        Address::Tcp(_) | Address::Unix(_) => STREAM,
        Address::Udp(_) | Address::UnixDatagram(_) => DGRAM,
    };
    if let (Some(source), Some(destination)) = (source.socket_addr(), destination.socket_addr()) {
        let (source, destination) = same_family(source, destination);
        let family = if source.is_ipv4() { INET } else { INET6 };
        for ip in [source.ip(), destination.ip()] {
            match ip {
                IpAddr::V4(v4) => block.extend(v4.octets()),
                IpAddr::V6(v6) => block.extend(v6.octets()),
            }
        }
        block.extend([source, destination].map(|address| address.port().to_be_bytes()).concat());
        return family << 4 | protocol;
    }
    match (source, destination) {
        (
            Address::Unix(source) | Address::UnixDatagram(source),
            Address::Unix(destination) | Address::UnixDatagram(destination),
        ) => {
            block.extend([source, destination].map(encode_name).concat());
            UNIX << 4 | protocol
        }
        _ => 0,
    }
}

/// A name that is longer than a socket's can be is cut off.
fn encode_name(name: &UnixName) -> [u8; UNIX_LENGTH] {
    let mut field = [0; UNIX_LENGTH];
    let (start, name) = match name {
        UnixName::Path(path) => (0, path.as_os_str().as_bytes()),
        UnixName::Abstract(name) => (1, &name[..]),
        UnixName::Unnamed => (0, &[][..]),
    };
    let length = name.len().min(UNIX_LENGTH - start);
    field[start..start + length].copy_from_slice(&name[..length]);
    field
}
