//! Headers as bytes: what is one, what is none, and what is in it.

use socketserver::proxy_protocol::{Tlv, Version};
use socketserver::*;

use super::{CLIENT, V1, V2};

/// The header of these bytes and its length, if they begin with a whole one.
#[track_caller]
fn parse(bytes: &[u8]) -> Option<(ProxyHeader, usize)> {
    ProxyHeader::parse(bytes).unwrap_or_else(|error| panic!("{}: {error}", bytes.escape_ascii()))
}

#[track_caller]
fn is_refused(bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    match ProxyHeader::parse(bytes) {
        Err(Error::ProxyHeader { .. }) => {}
        result => panic!("{}: {result:?}", bytes.escape_ascii()),
    }
}

/// Of version 2: the byte of version and command, that of family and protocol, and the block.
fn v2(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, kind][..], &length, block].concat()
}

/// A header of version 2 for TCP over IPv4, with these bytes behind its addresses.
fn v2_with(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&V2[16..], tlvs].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

#[test]
fn a_header_is_read_when_it_is_whole_and_no_byte_more() {
    for whole in [V1, V2, b"PROXY UNKNOWN\r\n", &v2_with(&tlv(Tlv::NOOP, b"xyz"))] {
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_none(), "{length}");
        }
        for more in [&b""[..], b"\r\n", b"PROXY", whole] {
            let (header, length) = parse(&[whole, more].concat()).unwrap();
            assert_eq!(length, whole.len());
            assert_eq!(header, parse(whole).unwrap().0);
        }
    }
}

#[test]
fn lines_of_version_1() {
    for (line, addresses) in [
        ("TCP4 192.0.2.1 198.51.100.7 56324 443", Some((CLIENT, "198.51.100.7:443"))),
        ("TCP4 255.255.255.255 0.0.0.0 65535 0", Some(("255.255.255.255:65535", "0.0.0.0:0"))),
        ("TCP6 2001:DB8::1 ::1 1 2", Some(("[2001:db8::1]:1", "[::1]:2"))),
        (
            "TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 0:0:0:0:0:0:0:0 65535 65535",
            Some(("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[::]:65535")),
        ),
        // As inet_ntop(3) shows it, and shown as the IPv4 client that it is.
        ("TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2", Some(("192.0.2.1:1", "[2001:db8::2]:2"))),
        ("UNKNOWN", None),
        ("UNKNOWN ", None),
        ("UNKNOWN whatever \0\u{ff} there is", None),
        ("UNKNOWN \r \n", None),
    ] {
        let bytes = format!("PROXY {line}\r\n");
        let (header, length) = parse(bytes.as_bytes()).unwrap();
        assert_eq!(length, bytes.len());
        let shown = |address: Option<&Address>| address.map(Address::to_string);
        let (source, destination) = (shown(header.source()), shown(header.destination()));
        let addresses = addresses.map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(source.zip(destination), addresses, "{line}");
        assert!(!header.is_local() && header.tlvs().next().is_none());
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!(parse(longest.as_bytes()).unwrap().1, 107);
}

#[test]
fn lines_that_are_none_of_version_1() {
    for line in [
        // Other protocols, and other cases.
        "",
        "TCP4",
        "TCP5 192.0.2.1 192.0.2.2 1 2",
        "tcp4 192.0.2.1 192.0.2.2 1 2",
        "UDP4 192.0.2.1 192.0.2.2 1 2",
        "UNKNOWNS",
        "unknown",
        // Fields.
        "TCP4 192.0.2.1 192.0.2.2 1",
        "TCP4 192.0.2.1 192.0.2.2 1 2 3",
        "TCP4 192.0.2.1 192.0.2.2 1 2 ",
        "TCP4  192.0.2.1 192.0.2.2 1 2",
        " TCP4 192.0.2.1 192.0.2.2 1 2",
        "TCP4\t192.0.2.1 192.0.2.2 1 2",
        // Addresses of the other family, or of none.
        "TCP4 ::1 192.0.2.2 1 2",
        "TCP4 192.0.2.1 ::1 1 2",
        "TCP6 ::1 192.0.2.2 1 2",
        "TCP4 192.0.2 192.0.2.2 1 2",
        "TCP4 192.0.2.1.1 192.0.2.2 1 2",
        "TCP4 192.0.2.256 192.0.2.2 1 2",
        "TCP4 192.0.02.1 192.0.2.2 1 2",
        "TCP4 0xc0.0.2.1 192.0.2.2 1 2",
        "TCP4 192.0.2.1/32 192.0.2.2 1 2",
        "TCP4 localhost 192.0.2.2 1 2",
        "TCP6 [::1] ::1 1 2",
        "TCP6 ::1%1 ::1 1 2",
        "TCP6 ::1::1 ::1 1 2",
        "TCP6 1:2:3:4:5:6:7 ::1 1 2",
        "TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2",
        "TCP6 12345:: ::1 1 2",
        "TCP6 g:: ::1 1 2",
        // Ports.
        "TCP4 192.0.2.1 192.0.2.2 01 2",
        "TCP4 192.0.2.1 192.0.2.2 1 00",
        "TCP4 192.0.2.1 192.0.2.2 +1 2",
        "TCP4 192.0.2.1 192.0.2.2 -1 2",
        "TCP4 192.0.2.1 192.0.2.2 65536 2",
        "TCP4 192.0.2.1 192.0.2.2 1 99999999999",
        "TCP4 192.0.2.1 192.0.2.2 1 0x2",
        "TCP4 192.0.2.1 192.0.2.2 http 2",
        // A line ends with CRLF.
        "TCP4 192.0.2.1 192.0.2.2 1 2\r",
        "TCP4 192.0.2.1 192.0.2.2 1 2\nhello",
        "TCP4 192.0.2.1 192.0.2.2 1 2\rhello",
        // No ASCII.
        "TCP4 192.0.2.1 192.0.2.2 1 ٢",
    ] {
        is_refused(format!("PROXY {line}\r\n"));
    }
    is_refused(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 \xff\r\n");
    for other in ["P ", "proxy TCP4", "PROXY\r\n", "GET / HTTP/1.0", "\n", "\rx", "\r\n\r\n\0\rx"] {
        is_refused(other);
    }
    // Too long, whether it ends or not.
    is_refused(format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 15)));
    is_refused(format!("PROXY UNKNOWN {}", "x".repeat(107 - 14)));
    is_refused(format!("PROXY TCP4 {}", "1".repeat(107 - 11)));
}

#[test]
fn addresses_of_version_2() {
    let unix = |name: &[u8]| [name, &vec![0; 108 - name.len()]].concat();
    let v6 = |last: u8| [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[last]].concat();
    let ports = [0, 1, 0xff, 0xff];
    let of_v4 = [&[192, 0, 2, 1, 192, 0, 2, 2][..], &ports].concat();
    let of_v6 = [&v6(1)[..], &v6(2), &ports].concat();
    let of_unix = [unix(b"/run/a"), unix(b"\0abstract")].concat();
    let longest = [[b'x'; 108], [0; 108]].concat();
    for (kind, block, source, destination) in [
        (0x11, &of_v4, "192.0.2.1:1", "192.0.2.2:65535"),
        (0x12, &of_v4, "udp://192.0.2.1:1", "udp://192.0.2.2:65535"),
        (0x21, &of_v6, "[2001:db8::1]:1", "[2001:db8::2]:65535"),
        (0x22, &of_v6, "udp://[2001:db8::1]:1", "udp://[2001:db8::2]:65535"),
        (0x31, &of_unix, "unix:/run/a", "unix:@abstract"),
        (0x32, &of_unix, "unixgram:/run/a", "unixgram:@abstract"),
        (0x31, &longest, &format!("unix:{}", "x".repeat(108)), "unix:"),
    ] {
        let bytes = v2(0x21, kind, block);
        let (header, length) = parse(&bytes).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(header.source().unwrap().to_string(), source);
        assert_eq!(header.destination().unwrap().to_string(), destination);
        assert_eq!(header.encode(Version::V2), bytes, "{source}");
        // One byte less is too short for them.
        is_refused(v2(0x21, kind, &block[1..]));
        is_refused(v2(0x21, kind, b""));
    }
}

#[test]
fn headers_of_version_2_without_addresses() {
    // The proxy's own connection, whatever its block has.
    for (kind, block) in [(0, &b""[..]), (0x11, b""), (0x99, b"x"), (0, &[0xff; 4096])] {
        let (header, length) = parse(&v2(0x20, kind, block)).unwrap();
        assert_eq!((header, length), (ProxyHeader::local(), 16 + block.len()));
    }
    for (kind, block) in [(0, &b""[..]), (0x10, b"abc"), (0x01, b"abc")] {
        let (header, length) = parse(&v2(0x21, kind, block)).unwrap();
        assert_eq!((header, length), (ProxyHeader::unknown(), 16 + block.len()));
    }
}

#[test]
fn bytes_that_are_none_of_version_2() {
    let block = &V2[16..];
    for version in (0x0..=0xf).filter(|version| *version != 0x2) {
        is_refused(v2(version << 4 | 0x1, 0x11, block));
    }
    for command in 0x2..=0xf {
        is_refused(v2(0x20 | command, 0x11, block));
    }
    for kind in [0x13, 0x1f, 0x23, 0x33, 0x41, 0x42, 0xf1, 0x40, 0x03] {
        is_refused(v2(0x21, kind, &[0; 300]));
    }
    // Longer than the limit: refused before it is read.
    is_refused(&v2(0x21, 0x11, &[0; 4097])[..16]);
    is_refused(&v2(0x20, 0x00, &[0; 0xffff])[..16]);
    // TLVs that are cut off.
    for tlvs in [&b"\x04"[..], b"\x04\0", b"\x04\0\x01", b"\x04\x10\0x", b"\x04\0\0\x04"] {
        is_refused(v2_with(tlvs));
    }
    // Or that have other values than theirs.
    for (kind, value) in [
        (Tlv::AUTHORITY, &b"\xff"[..]),
        (Tlv::UNIQUE_ID, &[0; 129]),
        (Tlv::NETNS, "näme".as_bytes()),
        (Tlv::SSL, b"\x01\0\0\0"),
        (Tlv::SSL, b"\x01\0\0\0\0\x21\0"),
        (Tlv::SSL, b"\x01\0\0\0\0\x21\0\x09TLSv1.3"),
        (Tlv::SSL, b"\x01\0\0\0\0\x22\0\x01\xff"),
        (Tlv::CRC32C, b""),
        (Tlv::CRC32C, b"\0\0\0\0"),
    ] {
        is_refused(v2_with(&tlv(kind, value)));
    }
    // Of the signature, every byte counts.
    for at in 0..12 {
        let mut bytes = V2.to_vec();
        bytes[at] ^= 0x20;
        is_refused(&bytes[..=at]);
    }
}

#[test]
fn tlvs_are_read_and_written() {
    let ssl = [
        &[0x07, 0, 0, 0, 0][..],
        &tlv(0x21, b"TLSv1.3"),
        &tlv(0x22, "Jürgen".as_bytes()),
        &tlv(0x23, b"ECDHE-RSA-AES128-GCM-SHA256"),
        &tlv(0x24, b"SHA256"),
        &tlv(0x25, b"RSA2048"),
        &tlv(0x99, b"\xff"),
    ]
    .concat();
    let all: [(u8, &[u8]); 8] = [
        (Tlv::ALPN, b"h2"),
        (Tlv::AUTHORITY, b"example.com"),
        (Tlv::NOOP, b""),
        (Tlv::UNIQUE_ID, &[0xff; 128]),
        (Tlv::SSL, &ssl),
        (Tlv::NETNS, b"blue"),
        (0xe0, b"custom"),
        (Tlv::ALPN, b"the second one"),
    ];
    let bytes = v2_with(&all.map(|(kind, value)| tlv(kind, value)).concat());
    let (header, _) = parse(&bytes).unwrap();
    assert!(header.tlvs().map(|tlv| (tlv.kind, tlv.value)).eq(all));
    assert_eq!(header.alpn(), Some(&b"h2"[..]));
    assert_eq!(header.authority(), Some("example.com"));
    assert_eq!(header.unique_id(), Some(&[0xff; 128][..]));
    assert_eq!(header.netns(), Some("blue"));
    let ssl = header.ssl().unwrap();
    assert!(ssl.is_verified() && ssl.has_certificate() && ssl.has_certificate_in_connection());
    assert_eq!((ssl.verify(), ssl.version()), (0, Some("TLSv1.3")));
    assert_eq!(
        (ssl.common_name(), ssl.cipher()),
        (Some("Jürgen"), Some("ECDHE-RSA-AES128-GCM-SHA256"))
    );
    assert_eq!((ssl.signature_algorithm(), ssl.key_algorithm()), (Some("SHA256"), Some("RSA2048")));
    assert_eq!(ssl.tlvs().count(), 6);

    let (plain, _) = parse(V2).unwrap();
    let written =
        all.iter().try_fold(plain.clone(), |header, (kind, value)| header.with_tlv(*kind, value));
    assert_eq!(written.unwrap().encode(Version::V2), bytes);
    assert_eq!(header.encode(Version::V1), V1);
    // What is no value of its type is not written either, nor what makes the header too long.
    for (kind, value) in [
        (Tlv::AUTHORITY, &b"\xff"[..]),
        (Tlv::CRC32C, b"1234"),
        (0xe0, &[0; 4096]),
        (0xe0, &[0; 70_000]),
    ] {
        plain.clone().with_tlv(kind, value).unwrap_err();
    }
    ProxyHeader::local().with_tlv(Tlv::NOOP, "").unwrap_err();
}

#[test]
fn a_client_without_tls_or_without_a_certificate_is_not_verified() {
    let ssl = |value: &[u8]| parse(&v2_with(&tlv(Tlv::SSL, value))).unwrap().0;
    assert!(ssl(b"\0\0\0\0\0").ssl().is_none());
    // HAProxy says 0 for a client without a certificate too.
    assert!(!ssl(b"\x01\0\0\0\0").ssl().unwrap().is_verified());
    assert!(!ssl(b"\x03\0\0\0\x14").ssl().unwrap().is_verified());
    assert!(ssl(b"\x05\0\0\0\0").ssl().unwrap().is_verified());
    assert!(parse(V1).unwrap().0.ssl().is_none());
}

#[test]
fn a_checksum_is_checked() {
    let mut bytes = v2_with(
        &[tlv(Tlv::NOOP, b"x"), tlv(Tlv::CRC32C, &CHECKSUM), tlv(Tlv::ALPN, b"h2")].concat(),
    );
    let (header, length) = parse(&bytes).unwrap();
    assert_eq!((header.alpn(), length), (Some(&b"h2"[..]), bytes.len()));
    assert!(header.tlvs().map(|tlv| tlv.kind).eq([Tlv::NOOP, Tlv::ALPN]));
    for at in 16..bytes.len() {
        bytes[at] ^= 1;
        assert!(ProxyHeader::parse(&bytes).is_err(), "{at}");
        bytes[at] ^= 1;
    }
    // Two of them: which one would be zero for the other?
    is_refused(v2_with(&[tlv(Tlv::CRC32C, &[0; 4]), tlv(Tlv::CRC32C, &[0; 4])].concat()));
}

/// Of the header of the test above.
const CHECKSUM: [u8; 4] = [0xe5, 0xe7, 0x08, 0xc1];

#[test]
fn what_version_1_has_no_form_for_is_unknown() {
    let unix = |path: &str| Address::Unix(UnixName::Path(path.into()));
    let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
    let udp = |text: &str| Address::Udp(text.parse().unwrap());
    for header in [
        ProxyHeader::local(),
        ProxyHeader::unknown(),
        ProxyHeader::new(unix("/a"), unix("/b")),
        ProxyHeader::new(udp("192.0.2.1:1"), udp("192.0.2.2:2")),
        ProxyHeader::new(tcp("192.0.2.1:1"), unix("/b")),
    ] {
        assert_eq!(header.encode(Version::V1), b"PROXY UNKNOWN\r\n");
    }
    // Nor has version 2 for two addresses of different kinds.
    let mixed = ProxyHeader::new(tcp("192.0.2.1:1"), unix("/b"));
    assert_eq!(parse(&mixed.encode(Version::V2)).unwrap().0, ProxyHeader::unknown());
    // An IPv4 address beside an IPv6 one is written as one, and read as what it is.
    let mixed = ProxyHeader::new(tcp("192.0.2.1:1"), tcp("[2001:db8::2]:2"));
    assert_eq!(mixed.encode(Version::V1), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
    for version in [Version::V1, Version::V2] {
        assert_eq!(parse(&mixed.encode(version)).unwrap().0, mixed);
    }
}
