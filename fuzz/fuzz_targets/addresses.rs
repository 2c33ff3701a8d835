//! Parsing and displaying endpoints: any text parses as a simple model says, or fails, and what is
//! displayed parses to the same endpoint.
#![no_main]

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use socketserver::{Address, Endpoint, Error, Scheme, UnixName};

fuzz_target!(|text: &str| {
    let (scheme, place) = split_scheme(text);
    let is_unix = match scheme {
        Some(scheme) => matches!(scheme, Scheme::Unix | Scheme::UnixDatagram),
        None => place.starts_with(['/', '.', '@']),
    };
    let endpoint = match text.parse::<Endpoint>() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            assert!(matches!(&error, Error::Address { text: named, .. } if named == text));
            assert!(
                !(if is_unix { is_unix_name(place) } else { is_host_and_port(place) }),
                "{error}"
            );
            return;
        }
    };
    assert_eq!((endpoint.scheme(), endpoint.is_unix()), (scheme, is_unix));
    assert_parses_back(&endpoint, &endpoint.to_string());
    if is_unix {
        assert_unix_name(&endpoint, place);
    } else {
        assert_host_and_port(&endpoint, place);
    }
});

fn split_scheme(text: &str) -> (Option<Scheme>, &str) {
    for (prefix, scheme) in [
        ("tcp://", Scheme::Tcp),
        ("udp://", Scheme::Udp),
        ("unix:", Scheme::Unix),
        ("unixgram:", Scheme::UnixDatagram),
    ] {
        if let Some(place) = text.strip_prefix(prefix) {
            return (Some(scheme), place);
        }
    }
    (None, text)
}

/// Whether this must parse as a path or an abstract name, byte for byte. Not with a backslash,
/// which may be an escape.
fn is_unix_name(place: &str) -> bool {
    let (name, refused) = match place.strip_prefix('@') {
        Some(name) => (name, &['\\'][..]),
        None => (place, &['\\', '\0'][..]),
    };
    (1..=107).contains(&name.len()) && !name.contains(refused)
}

/// Whether this must parse as a host and a port.
fn is_host_and_port(place: &str) -> bool {
    let is_name = |host: &str| {
        let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        !host.is_empty() && host.chars().all(is_host_char)
    };
    let has_name = match place.split_once(':') {
        Some((host, port)) => is_name(host) && port.parse::<u16>().is_ok(),
        None => false,
    };
    has_name || place.parse::<SocketAddr>().is_ok()
}

#[track_caller]
fn assert_parses_back(endpoint: &Endpoint, displayed: &str) {
    let parsed: Endpoint = displayed.parse().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(&parsed, endpoint, "displayed as {displayed:?}");
    assert_eq!(parsed.scheme(), endpoint.scheme());
}

fn assert_unix_name(endpoint: &Endpoint, place: &str) {
    let scheme = endpoint.scheme().unwrap_or(Scheme::Unix);
    let name = endpoint.unix_name(scheme).unwrap();
    let (bytes, written) = match (name, place.strip_prefix('@')) {
        (UnixName::Path(path), None) => (path.as_os_str().as_bytes(), place),
        (UnixName::Abstract(name), Some(written)) => (&name[..], written),
        (name, _) => panic!("{name:?} for {place:?}"),
    };
    assert!((1..=107).contains(&bytes.len()));
    assert!(name.socket_addr().is_ok(), "no socket can have the name {name:?}");
    assert!(bytes == written.as_bytes() || written.contains('\\'), "{name:?}");
    assert!(endpoint.resolve(scheme).is_err());
    let address = Address::UnixDatagram(name.clone());
    assert_parses_back(&Endpoint::from(&address), &address.to_string());
}

fn assert_host_and_port(endpoint: &Endpoint, place: &str) {
    let scheme = endpoint.scheme().unwrap_or(Scheme::Tcp);
    let (host, port) = place.rsplit_once(':').unwrap();
    let port: u16 = port.parse().unwrap();
    assert!(!host.is_empty() && !host.contains(['/', '\0', ' ']));
    if is_host_and_port(place) {
        assert!(endpoint.to_string().ends_with(&format!("{host}:{port}")));
    }
    assert!(endpoint.unix_name(scheme).is_err());
    if let Ok(address) = place.parse::<SocketAddr>() {
        let displayed = Address::Udp(address);
        assert_parses_back(&Endpoint::from(&displayed), &displayed.to_string());
        // Only a numeric address without a scope resolves without the system's help.
        if !place.contains('%') {
            assert_eq!(endpoint.resolve(scheme).unwrap(), [address]);
        }
    }
}
