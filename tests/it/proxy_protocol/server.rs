//! Servers behind a proxy.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::services::Echo;
use socketserver::*;

use super::{CLIENT, V1, V2, behind_proxies, proxies, who};
use crate::support::clients::{
    Client, ask, line_of, read_until_closed, rest_of, tcp_from, uninterrupted,
};
use crate::support::recorder::{Recorder, expect_calls};
use crate::support::servers::{serve_at, serve_with};
use crate::support::{TIMEOUT, wait_until};

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(3600);

/// The address of a client of a test, as its server sees it.
fn own_address(client: &Client) -> String {
    match client {
        Client::Tcp(stream) => stream.local_addr().unwrap().to_string(),
        Client::Unix(_) => "unix:".to_owned(),
    }
}

#[test]
fn the_client_in_the_header_is_the_peer_and_the_proxy_is_known() {
    behind_proxies(proxies(), who(), |mixin, server| {
        for header in [V1, V2] {
            let client = Client::of(server);
            client.send([header, b"hello\n"].concat());
            let proxy = own_address(&client);
            let expected = format!("hello: {CLIENT} by {proxy} to 198.51.100.7:443");
            assert_eq!(line_of(&client), expected, "{mixin}");
            let [connection] = &server.connections()[..] else { panic!() };
            assert_eq!(connection.peer.to_string(), CLIENT);
            assert!(ask(&client, "again").starts_with("again: "));
            client.shutdown(Shutdown::Write);
            assert!(rest_of(&client).is_empty());
        }
    });
}

#[test]
fn a_header_may_come_byte_by_byte() {
    behind_proxies(proxies(), who(), |_, server| {
        for header in [V1, V2] {
            let client = Client::of(server);
            for byte in header {
                client.send([*byte]);
                // The server most often reads the byte before the next one is sent.
                std::thread::yield_now();
            }
            assert!(ask(&client, "hello").starts_with(&format!("hello: {CLIENT} ")));
            client.shutdown(Shutdown::Both);
        }
    });
}

#[test]
fn what_follows_a_header_is_the_handlers_to_the_byte() {
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    behind_proxies(proxies(), Echo, |mixin, server| {
        for header in [V1, V2] {
            let client = Client::of(server);
            let answer = std::thread::scope(|scope| {
                scope.spawn(|| {
                    client.send([header, &input].concat());
                    client.shutdown(Shutdown::Write);
                });
                rest_of(&client)
            });
            assert!(answer == input, "{mixin}: {} bytes", answer.len());
        }
    });
}

#[test]
fn a_second_header_is_the_handlers() {
    behind_proxies(proxies(), Echo, |_, server| {
        let client = Client::of(server);
        client.send([V1, V1].concat());
        client.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&client), V1);
    });
}

#[test]
fn without_a_client_in_the_header_the_connection_is_the_proxys_own() {
    let local = ProxyHeader::local().encode(proxy_protocol::Version::V2);
    let unspecified = ProxyHeader::unknown().encode(proxy_protocol::Version::V2);
    let headers: [&[u8]; 5] = [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 192.0.2.1 198.51.100.7 56324 443\r\n",
        &local,
        &unspecified,
        // Addresses that are to be ignored.
        b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb",
    ];
    behind_proxies(proxies(), who(), |_, server| {
        for header in headers {
            let client = Client::of(server);
            client.send([header, b"hello\n"].concat());
            let own = own_address(&client);
            assert_eq!(line_of(&client), format!("hello: {own} by none to none"));
            client.shutdown(Shutdown::Both);
        }
    });
}

#[test]
fn from_a_proxy_anything_but_a_header_is_closed_unread() {
    let too_long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x01", &[0; 12][..]].concat();
    let beginnings: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.7 56324 443\r\n",
        &too_long,
        &[b'P'; 200],
    ];
    let (handler, calls) = Recorder::new(Echo);
    let calls = Mutex::new(calls);
    behind_proxies(proxies().timeout(LONG), handler, |mixin, server| {
        for (n, beginning) in (1..).zip(beginnings) {
            let client = Client::of(server);
            client.send(beginning);
            read_until_closed(&client);
            wait_until("it is counted", || server.stats().finished == n);
            assert_eq!(server.stats().ended_for(CloseReason::BadProxyHeader), n, "{mixin}");
        }
        // Cut off.
        let client = Client::of(server);
        client.send(&V1[..20]);
        client.shutdown(Shutdown::Write);
        read_until_closed(&client);
        wait_until("it is counted", || server.stats().bad_proxy_header == 7);
        let calls = calls.lock();
        assert_eq!(calls.try_recv(), Err(TryRecvError::Empty));
        // Others are served.
        let client = Client::of(server);
        client.send([V2, b"hello\n"].concat());
        assert_eq!(line_of(&client), "hello");
        client.shutdown(Shutdown::Write);
        expect_calls(&calls, &["setup", "handle", "finish"]);
    });
}

#[test]
fn a_header_that_takes_too_long_is_not_waited_for() {
    behind_proxies(proxies().timeout(SHORT), Echo, |mixin, server| {
        let begin = Instant::now();
        let silent = Client::of(server);
        read_until_closed(&silent);
        assert!(begin.elapsed() >= SHORT, "{mixin}");
        let half = Client::of(server);
        half.send(&V2[..20]);
        read_until_closed(&half);
        wait_until("both are counted", || server.stats().bad_proxy_header == 2);
        // A byte now and then does not help.
        let slow = Client::of(server);
        let begin = Instant::now();
        for byte in V1 {
            if (&mut &slow).write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(SHORT / 10);
        }
        read_until_closed(&slow);
        wait_until("it is counted", || server.stats().bad_proxy_header == 3);
        assert!(begin.elapsed() < TIMEOUT, "{mixin}");
        // The timeout is for the header only.
        let client = Client::of(server);
        client.send(V1);
        std::thread::sleep(2 * SHORT);
        assert_eq!(ask(&client, "still here"), "still here", "{mixin}");
    });
}

#[test]
fn a_proxy_that_sends_nothing_and_closes_is_no_fault() {
    behind_proxies(proxies(), Echo, |_, server| {
        drop(Client::of(server));
        wait_until("it has ended", || server.stats().finished == 1);
        let stats = server.stats();
        assert_eq!((stats.eof + stats.reset, stats.bad_proxy_header), (1, 0), "{stats:?}");
    });
}

#[test]
fn clients_from_elsewhere_are_served_without_a_header() {
    let builder = ThreadingTcpServer::builder().proxy_protocol(proxies());
    let server = serve_with(builder, who());
    let client = tcp_from("127.0.0.2", server.local_addr());
    let own = client.local_addr().unwrap();
    assert_eq!(ask(&client, "hello"), format!("hello: {own} by none to none"));
    // Theirs is no header.
    let header = str::from_utf8(V1).unwrap().trim_end();
    assert_eq!(ask(&client, header), format!("{header}: {own} by none to none"));
}

#[test]
fn a_stop_does_not_wait_for_a_header() {
    behind_proxies(proxies().timeout(LONG), Echo, |mixin, server| {
        let client = Client::of(server);
        client.send(&V1[..10]);
        wait_until("it is being served", || server.stats().active == 1);
        let begin = Instant::now();
        let report = server.handle().stop(TIMEOUT);
        assert!(report.is_clean() && begin.elapsed() < TIMEOUT / 2, "{mixin}: {report:?}");
        let stats = server.stats();
        assert_eq!((stats.stopped, stats.bad_proxy_header), (1, 0), "{mixin}: {stats:?}");
        read_until_closed(&client);
    });
}

#[test]
fn a_stop_answers_what_was_received_with_the_header() {
    behind_proxies(proxies(), Echo, |mixin, server| {
        let client = Client::of(server);
        client.send([V2, b"last\n"].concat());
        let report = server.handle().stop(TIMEOUT);
        assert!(report.is_clean(), "{mixin}: {report:?}");
        assert_eq!(rest_of(&client), b"last\n", "{mixin}");
    });
}

#[test]
fn a_connection_can_be_ended_while_its_header_is_awaited() {
    let builder = ThreadingTcpServer::builder().proxy_protocol(proxies().timeout(LONG));
    let server = serve_with(builder, Echo);
    let client = Client::of(&server);
    wait_until("it is being served", || server.stats().active == 1);
    assert!(server.disconnect(server.connections()[0].id));
    assert_eq!(uninterrupted(|| (&client).read(&mut [0])), 0);
    wait_until("it has ended", || server.stats().stopped == 1);
}

#[test]
fn ipv6_clients_are_passed_on_over_ipv4() {
    let server = serve_with(ThreadingTcpServer::builder().proxy_protocol(proxies()), who());
    let client = Client::of(&server);
    client.send("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\nhello\n");
    let answer = line_of(&client);
    assert!(answer.starts_with("hello: [2001:db8::1]:1 by 127.0.0.1:"), "{answer}");
    assert!(answer.ends_with(" to [2001:db8::2]:65535"), "{answer}");
}

#[test]
fn every_peer_may_be_a_proxy() {
    let builder = ThreadingTcpServer::builder().proxy_protocol(ProxyProtocol::from(Access::open()));
    let server = serve_at("127.0.0.1:0", builder, who());
    let mut client = tcp_from("127.0.0.9", server.local_addr());
    client.write_all(V1).unwrap();
    assert!(ask(&client, "hello").starts_with(&format!("hello: {CLIENT} by 127.0.0.9:")));
}
