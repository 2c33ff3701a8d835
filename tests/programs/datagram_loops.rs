//! `echo` and `timestamp` over UDP answer no other service, so that no two services answer each
//! other without an end. A forged source address could start that. In these tests the other service
//! is a socket of the test.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::{Test, tests};
use crate::support::TIMEOUT;
use crate::support::clients::{udp, uninterrupted};
use crate::support::process::{Server, example, run};

pub(crate) const TESTS: &[Test] = tests![
    a_datagram_from_the_port_of_the_same_service_is_not_answered,
    an_exchange_with_a_service_on_another_port_ends,
    the_rate_has_a_default_and_can_be_unlimited,
];

const MIXINS: [&str; 5] = ["sequential", "threading", "forking", "prefork", "fibers"];

/// Sends a datagram, and returns the answer to it.
#[track_caller]
fn answer(client: &UdpSocket) -> Vec<u8> {
    client.send(b"hello").unwrap();
    let mut answer = [0; 100];
    let length = uninterrupted(|| client.recv(&mut answer));
    answer[..length].to_vec()
}

fn a_datagram_from_the_port_of_the_same_service_is_not_answered() {
    for name in ["echo", "timestamp"] {
        for mixin in MIXINS {
            let server = Server::start(name, "udp://127.0.0.1:0", &["--mixin", mixin]);
            let [host, port] = server.host_and_port();
            // The same service on another host.
            let other = UdpSocket::bind(format!("127.0.0.2:{port}")).unwrap();
            other.connect(format!("{host}:{port}")).unwrap();
            other.send(b"hello").unwrap();
            assert!(answer(&udp(server.endpoint())).ends_with(b"hello"));
            server.stop();
            other.set_nonblocking(true).unwrap();
            assert!(other.recv(&mut [0]).is_err(), "{name}, {mixin}: answered");
        }
    }
}

fn an_exchange_with_a_service_on_another_port_ends() {
    for name in ["echo", "timestamp"] {
        for mixin in MIXINS {
            let flags = ["--mixin", mixin, "--max-rate", "20"];
            let server = Server::start(name, "udp://127.0.0.1:0", &flags);
            let other = udp(server.endpoint());
            other.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            other.send(b"hello").unwrap();
            // An echo service, until it is not answered for a second.
            let (mut buffer, mut rounds) = (vec![0; 65_536], 0);
            while let Ok(length) = other.recv(&mut buffer) {
                other.send(&buffer[..length]).unwrap();
                rounds += 1;
                assert!(rounds < 1000, "{name}, {mixin}: it goes on");
            }
            assert!(rounds >= 20, "{name}, {mixin}: {rounds} rounds");
            // The peer is served again.
            other.set_read_timeout(Some(TIMEOUT)).unwrap();
            assert!(answer(&other).ends_with(b"hello"));
            server.stop();
        }
    }
}

fn the_rate_has_a_default_and_can_be_unlimited() {
    let server = Server::start("echo", "udp://127.0.0.1:0", &["--max-rate", "0"]);
    let client = udp(server.endpoint());
    for _ in 0..3000 {
        assert_eq!(answer(&client), b"hello");
    }
    server.stop();
    for name in ["echo", "timestamp"] {
        let mut command = example(name);
        command.arg("--help");
        assert!(run(command, "").text().contains("; 1000 by default, 0 for any number"));
        let mut command = example(name);
        command.args(["--listen", "udp://127.0.0.1:0", "--max-rate", "-1"]);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.stderr.lines().count()), (Some(2), 1), "{ended:?}");
    }
}
