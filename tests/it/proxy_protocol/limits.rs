//! Access lists, limits per peer and `verify_request` judge the client, not the proxy.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::services::Echo;
use socketserver::*;

use super::{behind_proxies, header, proxies};
use crate::mixins::all_mixins;
use crate::support::clients::{Client, ask, read_until_closed, rest_of};
use crate::support::recorder::Recorder;
use crate::support::servers::{serve_at, serve_with};
use crate::support::{abstract_name, wait_until};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A connection of this client, through the proxy.
fn client(server: &RunningServer, address: &str) -> Client {
    let client = Client::of(server);
    client.send(header(address));
    client
}

/// Whether it is served.
fn is_served(mut client: &Client) -> bool {
    let mut answer = [0; 6];
    let read = client.write_all(b"hello\n").and_then(|()| client.read_exact(&mut answer));
    read.is_ok() && answer == *b"hello\n"
}

#[test]
fn an_access_list_is_of_clients() {
    // The proxy is not on it.
    let access = || Access::closed().allow(ip("192.0.2.1"));
    for (name, mixin) in all_mixins() {
        let builder = TcpServer::builder().mixin(mixin).access(access()).proxy_protocol(proxies());
        let (handler, calls) = Recorder::new(Echo);
        let server = serve_at("127.0.0.1:0", builder, handler);
        read_until_closed(&client(&server, "192.0.2.2"));
        wait_until("it is denied", || server.stats().finished == 1);
        let stats = server.stats();
        let denied = (stats.denied, stats.ended_for(CloseReason::Denied), stats.accepted);
        assert_eq!(denied, (1, 1, 1), "{name}");
        assert_eq!(calls.try_recv(), Err(TryRecvError::Empty), "{name}");
        assert!(is_served(&client(&server, "192.0.2.1")), "{name}");
    }
}

#[test]
fn a_client_of_a_unix_socket_has_no_user_behind_a_proxy() {
    let me = rustix::process::getuid().as_raw();
    let access = Access::closed().allow(Peers::Uid(me)).allow(ip("192.0.2.1"));
    let builder = ThreadingUnixStreamServer::builder().access(access).proxy_protocol(proxies());
    let server = serve_at(&format!("unix:{}", abstract_name()), builder, Echo);
    assert!(is_served(&client(&server, "192.0.2.1")));
    // The proxy is this user, its client is not.
    assert!(!is_served(&client(&server, "192.0.2.2")));
    // Unless it is its own client.
    let own = Client::of(&server);
    own.send("PROXY UNKNOWN\r\n");
    assert!(is_served(&own));
}

#[test]
fn max_connections_per_peer_counts_clients() {
    for (name, mixin) in all_mixins().into_iter().filter(|(name, _)| *name != "sequential") {
        let builder = TcpServer::builder()
            .mixin(mixin)
            .max_connections_per_peer(2)
            .overload(Overload::Refuse("too many\n".into()))
            .proxy_protocol(proxies());
        let server = serve_at("127.0.0.1:0", builder, Echo);
        let mut held: Vec<_> = (0..2).map(|_| client(&server, "192.0.2.1")).collect();
        assert!(held.iter().all(is_served), "{name}");
        // It may send before it knows.
        let third = client(&server, "192.0.2.1");
        third.send("hello\n".repeat(1000));
        assert_eq!(rest_of(&third), b"too many\n", "{name}");
        assert_eq!(server.stats().refused, 1, "{name}");
        let others: Vec<_> = (2..6).map(|n| client(&server, &format!("192.0.2.{n}"))).collect();
        assert!(others.iter().all(is_served), "{name}");
        drop(third);
        drop(held.pop());
        wait_until("a place is free", || is_served(&client(&server, "192.0.2.1")));
        wait_until("each refusal is one by a limit", || {
            server.stats().ended_for(CloseReason::Limit) == server.stats().refused
        });
    }
}

#[test]
fn max_connections_per_peer_is_exact_when_headers_come_at_once() {
    let builder =
        ThreadingTcpServer::builder().max_connections_per_peer(3).proxy_protocol(proxies());
    let server = serve_with(builder, Echo);
    let clients: Vec<_> = (0..40).map(|_| Client::of(&server)).collect();
    wait_until("all wait for a header", || server.stats().active == 40);
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| client.send(header("192.0.2.1")));
        }
    });
    wait_until("the others are refused", || server.stats().refused == 37);
    // A refusal is counted before the connection has ended.
    wait_until("the others are gone", || server.connections().len() == 3);
    assert_eq!(clients.iter().filter(|client| is_served(client)).count(), 3);
}

#[test]
fn connection_rate_counts_clients() {
    let rate = ConnectionRate { connections: 2, per: Duration::from_secs(3600) };
    let builder = ThreadingTcpServer::builder().connection_rate(rate).proxy_protocol(proxies());
    let server = serve_with(builder, Echo);
    let served = |address: &str| is_served(&client(&server, address));
    assert_eq!([(); 4].map(|()| served("192.0.2.1")), [true, true, false, false]);
    assert_eq!([(); 3].map(|()| served("192.0.2.2")), [true, true, false]);
    assert_eq!(server.stats().refused, 3);
}

/// Serves clients with an odd last byte.
struct Odd;

impl StreamRequestHandler for Odd {
    fn verify_request(&self, connection: &Connection) -> bool {
        assert!(connection.proxy_header().is_some());
        match connection.peer_addr().ip() {
            Some(IpAddr::V4(v4)) => v4.octets()[3] % 2 == 1,
            _ => false,
        }
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        StreamRequestHandler::handle(&Echo, connection)
    }
}

#[test]
fn verify_request_is_asked_once_after_the_header() {
    let (handler, calls) = Recorder::new(Odd);
    let calls = Mutex::new(calls);
    behind_proxies(proxies(), handler, |mixin, server| {
        read_until_closed(&client(server, "192.0.2.2"));
        wait_until("it is denied", || server.stats().finished == 1);
        assert_eq!((server.stats().denied, server.stats().completed), (1, 0), "{mixin}");
        assert_eq!(calls.lock().try_recv(), Err(TryRecvError::Empty), "{mixin}");
        assert_eq!(ask(&client(server, "192.0.2.3"), "hello"), "hello", "{mixin}");
        for _ in 0..3 {
            calls.lock().recv().unwrap();
        }
    });
}

#[test]
fn a_forking_server_has_no_limit_per_client() {
    let builder = || ForkingTcpServer::builder().proxy_protocol(proxies());
    let rate = ConnectionRate { connections: 2, per: Duration::from_secs(3600) };
    for builder in [builder().max_connections_per_peer(2), builder().connection_rate(rate)] {
        let error = builder.bind("127.0.0.1:0", Echo).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
    builder().access(Access::open().deny(ip("192.0.2.1"))).bind("127.0.0.1:0", Echo).unwrap();
}
