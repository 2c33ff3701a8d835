//! Headers of the PROXY protocol: any bytes are the header that a naive model of the specification finds
//! in them, or none; every beginning of a header is one; headers that were written read back.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use socketserver::proxy_protocol::Version;
use socketserver::{Address, ProxyHeader};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    match choice % 4 {
        0 => check(rest),
        1 => check(&[b"PROXY TCP", rest].concat()),
        // With the length that it has, and whatever follows.
        2 if rest.len() >= 2 => check(&of_version_2(&rest[..2], &rest[2..], b"")),
        3 if rest.len() >= 6 => {
            let (block, after) = rest[2..].split_at((rest.len() - 2).min(12 + usize::from(choice)));
            check(&of_version_2(&rest[..2], block, after));
        }
        _ => {}
    }
});

fn of_version_2(command: &[u8], block: &[u8], after: &[u8]) -> Vec<u8> {
    [SIGNATURE, command, &(block.len() as u16).to_be_bytes(), block, after].concat()
}

/// What the specification says of bytes.
#[derive(Debug, PartialEq)]
struct Expected {
    length: usize,
    is_local: bool,
    /// As they are shown.
    addresses: Option<(String, String)>,
    tlvs: Vec<(u8, Vec<u8>)>,
}

fn check(bytes: &[u8]) {
    let expected = if bytes.starts_with(b"P") { version_1(bytes) } else { version_2(bytes) };
    let parsed = ProxyHeader::parse(bytes);
    let Some(expected) = expected else {
        // Not whole yet, or never.
        let is_none = parsed.is_err() || parsed.as_ref().is_ok_and(Option::is_none);
        assert!(is_none, "{}: {parsed:?}", bytes.escape_ascii());
        assert!(parsed.is_err() || bytes.len() < ProxyHeader::MAX_LENGTH);
        assert!(parsed.is_err() || !bytes.starts_with(b"P") || bytes.len() < 107);
        return;
    };
    let (header, length) = parsed.unwrap().expect("a whole header");
    let addresses = header.source().map(Address::to_string);
    let addresses = addresses.zip(header.destination().map(Address::to_string));
    let tlvs = header.tlvs().map(|tlv| (tlv.kind, tlv.value.to_vec())).collect();
    let is_local = header.is_local();
    assert_eq!(Expected { length, is_local, addresses, tlvs }, expected);
    for cut in 0..length {
        assert!(ProxyHeader::parse(&bytes[..cut]).unwrap().is_none(), "{cut}");
    }
    read_everything(&header);
    for version in [Version::V1, Version::V2] {
        written_reads_back(&header, version);
    }
}

fn read_everything(header: &ProxyHeader) {
    let _ = (header.alpn(), header.authority(), header.unique_id(), header.netns());
    if let Some(ssl) = header.ssl() {
        let _ = (ssl.version(), ssl.common_name(), ssl.cipher(), ssl.tlvs().count());
        assert!(ssl.has_certificate() || !ssl.is_verified());
    }
}

fn written_reads_back(header: &ProxyHeader, version: Version) {
    let bytes = header.encode(version);
    let (again, length) = ProxyHeader::parse(&bytes).unwrap().expect("a whole header");
    assert_eq!(length, bytes.len());
    let is_tcp = |address: Option<&Address>| matches!(address, Some(Address::Tcp(_)));
    if version == Version::V2 {
        // Its names of Unix sockets may be too long for a socket, but not for a header.
        assert_eq!(&again, header);
    } else if is_tcp(header.source()) && is_tcp(header.destination()) {
        assert_eq!((again.source(), again.destination()), (header.source(), header.destination()));
    } else {
        assert_eq!(again, ProxyHeader::unknown());
    }
}

fn version_1(bytes: &[u8]) -> Option<Expected> {
    let first = &bytes[..bytes.len().min(107)];
    let end = (0..first.len()).find(|at| first[*at..].starts_with(b"\r\n"))?;
    let line = &first[..end];
    let (is_local, tlvs, length) = (false, Vec::new(), end + 2);
    let unknown = b"PROXY UNKNOWN";
    if line == unknown || line.starts_with(&[unknown, &b" "[..]].concat()) {
        return Some(Expected { length, is_local, addresses: None, tlvs });
    }
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if fields.len() != 6 || fields[0] != b"PROXY" {
        return None;
    }
    let shown = |ip: &[u8], port: &[u8]| {
        let port = number(port, 65535)?;
        match fields[1] {
            b"TCP4" => Some(format!("{}:{port}", Ipv4Addr::from(ipv4(ip)?))),
            b"TCP6" => Some(show_v6(ipv6(ip)?, port as u16)),
            _ => None,
        }
    };
    let addresses = (shown(fields[2], fields[4])?, shown(fields[3], fields[5])?);
    Some(Expected { length, is_local, addresses: Some(addresses), tlvs })
}

/// An IPv4-mapped address is shown as the IPv4 address.
fn show_v6(ip: [u8; 16], port: u16) -> String {
    match ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => format!("{a}.{b}.{c}.{d}:{port}"),
        _ => SocketAddr::from((Ipv6Addr::from(ip), port)).to_string(),
    }
}

/// Decimal, without leading zeroes.
fn number(text: &[u8], max: u32) -> Option<u32> {
    let is_number = !text.is_empty() && text.len() <= 5 && text.iter().all(u8::is_ascii_digit);
    if !is_number || text.len() > 1 && text[0] == b'0' {
        return None;
    }
    let value = text.iter().fold(0, |value, digit| 10 * value + u32::from(digit - b'0'));
    (value <= max).then_some(value)
}

fn ipv4(text: &[u8]) -> Option<[u8; 4]> {
    let octets = text.split(|byte| *byte == b'.').map(|octet| Some(number(octet, 255)? as u8));
    octets.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// Groups with at most one double colon for one of them or more; the last two may be an IPv4 address.
fn ipv6(text: &[u8]) -> Option<[u8; 16]> {
    let gap = (0..text.len()).find(|at| text[*at..].starts_with(b"::"));
    let Some(gap) = gap else { return groups(text, true)?.try_into().ok() };
    let (before, after) = (groups(&text[..gap], false)?, groups(&text[gap + 2..], true)?);
    let zeroes = 16_usize.checked_sub(before.len() + after.len()).filter(|zeroes| *zeroes > 0)?;
    [before, vec![0; zeroes], after].concat().try_into().ok()
}

fn groups(text: &[u8], may_end_in_ipv4: bool) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let fields: Vec<&[u8]> = text.split(|byte| *byte == b':').collect();
    let mut bytes = Vec::new();
    for (n, field) in (1..).zip(&fields) {
        if field.contains(&b'.') {
            if n < fields.len() || !may_end_in_ipv4 {
                return None;
            }
            bytes.extend(ipv4(field)?);
            continue;
        }
        if field.is_empty() || field.len() > 4 || !field.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let digit = |digit: &u8| char::from(*digit).to_digit(16).unwrap();
        let group = field.iter().fold(0, |group, hex| 16 * group + digit(hex));
        bytes.extend((group as u16).to_be_bytes());
    }
    Some(bytes)
}

fn version_2(bytes: &[u8]) -> Option<Expected> {
    let rest = bytes.strip_prefix(SIGNATURE)?;
    let length = usize::from(*rest.get(2)?) * 256 + usize::from(*rest.get(3)?);
    let block = rest.get(4..4 + length).filter(|_| length <= 4096)?;
    let length = 16 + length;
    let nothing = |is_local| Some(Expected { length, is_local, addresses: None, tlvs: Vec::new() });
    let (family, protocol) = (rest[1] / 16, rest[1] % 16);
    match rest[0] {
        0x20 => return nothing(true),
        0x21 if family > 3 || protocol > 2 => return None,
        0x21 if family == 0 || protocol == 0 => return nothing(false),
        0x21 => {}
        _ => return None,
    }
    let scheme = if protocol == 2 { "udp://" } else { "" };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let (used, source, destination) = match family {
        1 if block.len() >= 12 => {
            let show = |at: usize, port: u16| {
                let [a, b, c, d] = block[at..at + 4] else { unreachable!() };
                format!("{scheme}{a}.{b}.{c}.{d}:{port}")
            };
            (12, show(0, port(8)), show(4, port(10)))
        }
        2 if block.len() >= 36 => {
            let ip = |at: usize| block[at..at + 16].try_into().unwrap();
            let show = |at, port| format!("{scheme}{}", show_v6(ip(at), port));
            (36, show(0, port(32)), show(16, port(34)))
        }
        3 if block.len() >= 216 => {
            let show = |name| match protocol {
                1 => Address::Unix(unix_name(name)).to_string(),
                _ => Address::UnixDatagram(unix_name(name)).to_string(),
            };
            (216, show(&block[..108]), show(&block[108..216]))
        }
        _ => return None,
    };
    let tlvs = all_tlvs(&block[used..])?;
    for (kind, value) in &tlvs {
        let is_right = match kind {
            0x02 => str::from_utf8(value).is_ok(),
            0x03 => has_checksum(&bytes[..length], value, &tlvs, 16 + used),
            0x05 => value.len() <= 128,
            0x20 => is_ssl(value),
            0x30 => value.is_ascii(),
            _ => true,
        };
        if !is_right {
            return None;
        }
    }
    let tlvs = tlvs.into_iter().filter(|(kind, _)| *kind != 0x03).collect();
    Some(Expected { length, is_local: false, addresses: Some((source, destination)), tlvs })
}

fn unix_name(field: &[u8]) -> socketserver::UnixName {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use socketserver::UnixName;

    let end = (0..=field.len()).find(|end| field[*end..].iter().all(|byte| *byte == 0)).unwrap();
    match field[..end] {
        [] => UnixName::Unnamed,
        [0, ref name @ ..] => UnixName::Abstract(name.to_vec()),
        _ => {
            let path = field.split(|byte| *byte == 0).next().unwrap();
            UnixName::Path(OsStr::from_bytes(path).into())
        }
    }
}

fn all_tlvs(bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = usize::from(*bytes.get(at + 1)?) * 256 + usize::from(*bytes.get(at + 2)?);
        all.push((bytes[at], bytes.get(at + 3..at + 3 + length)?.to_vec()));
        at += 3 + length;
    }
    Some(all)
}

fn is_ssl(value: &[u8]) -> bool {
    let Some(tlvs) = value.get(5..).and_then(all_tlvs) else { return false };
    tlvs.iter().all(|(kind, value)| match kind {
        0x22 => str::from_utf8(value).is_ok(),
        0x21 | 0x23..=0x25 => value.is_ascii(),
        _ => true,
    })
}

/// Whether the value is the checksum of the header, and the only one.
fn has_checksum(header: &[u8], value: &[u8], tlvs: &[(u8, Vec<u8>)], start: usize) -> bool {
    let before = tlvs.iter().take_while(|(kind, _)| *kind != 0x03);
    let at = start + before.map(|(_, value)| 3 + value.len()).sum::<usize>() + 3;
    if value.len() != 4 || tlvs.iter().filter(|(kind, _)| *kind == 0x03).count() != 1 {
        return false;
    }
    let mut zeroed = header.to_vec();
    zeroed[at..at + 4].fill(0);
    // The remainder of a division of polynomials, bit by bit, the lowest bit of each byte first.
    let mut remainder = u32::MAX;
    for byte in zeroed {
        for bit in 0..8 {
            let carry = (remainder ^ u32::from(byte >> bit)) & 1;
            remainder = remainder >> 1 ^ if carry == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    value == (!remainder).to_be_bytes()
}
