//! The line `try: ...` that each example prints: what it says is enough to connect.

#[path = "../../examples/common/mod.rs"]
mod examples_common;

use examples_common::try_line;
use socketserver::{Address, Endpoint, Scheme, UnixName};

use crate::harness::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![the_line_names_the_address_for_nc_and_for_the_clients,];

fn the_line_names_the_address_for_nc_and_for_the_clients() {
    for (address, line) in [
        (Address::Tcp("127.0.0.1:80".parse().unwrap()), "nc 127.0.0.1 80, client 127.0.0.1:80"),
        (Address::Tcp("[::1]:80".parse().unwrap()), "nc ::1 80, client [::1]:80"),
        // A link-local address means nothing without its scope.
        (Address::Tcp("[fe80::1%3]:80".parse().unwrap()), "nc fe80::1%3 80, client [fe80::1%3]:80"),
        (
            Address::Udp("[fe80::1%3]:80".parse().unwrap()),
            "nc -u fe80::1%3 80, client udp://[fe80::1%3]:80",
        ),
        (Address::Unix(UnixName::Abstract(b"a".into())), "nc -U @a, client unix:@a"),
    ] {
        assert_eq!(try_line(&address, "nc {nc}, client {address}"), line);
    }
    for (address, line) in [
        (Address::Tcp("[::1]:80".parse().unwrap()), "openssl -connect [::1]:80"),
        (Address::Unix(UnixName::Path("/a".into())), "openssl -unix /a"),
    ] {
        assert_eq!(try_line(&address, "openssl {openssl}"), line);
    }
    let scoped: Endpoint = "[fe80::1%3]:80".parse().unwrap();
    assert_eq!(scoped.resolve(Scheme::Tcp).unwrap(), ["[fe80::1%3]:80".parse().unwrap()]);
}
