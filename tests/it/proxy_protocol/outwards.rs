//! Handlers that send a header to the server that they connect to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use socketserver::proxy_protocol::Version;
use socketserver::services::Hello;
use socketserver::*;

use super::{CLIENT, V1, V2, behind_proxies, proxies, who};
use crate::support::TIMEOUT;
use crate::support::clients::{Client, ask, line_of, read_until_closed};
use crate::support::servers::{serve, serve_with};

/// Passes each connection on, with a header for its client.
fn gateway(upstream: &RunningServer, version: Version) -> impl StreamRequestHandler + use<> {
    let upstream = upstream.local_addr().clone();
    handler_fn(move |client| {
        let options = ConnectOptions::new(TIMEOUT).proxy_header(&*client, version);
        let mut upstream = client.connect(&upstream, options)?;
        client.relay(&mut upstream)?;
        Ok(())
    })
}

#[test]
fn a_gateway_passes_on_whose_connection_it_is() {
    behind_proxies(proxies(), who(), |mixin, server| {
        for version in [Version::V1, Version::V2] {
            let gateway = serve(gateway(server, version));
            let client = Client::of(&gateway);
            let Client::Tcp(stream) = &client else { panic!() };
            let own = stream.local_addr().unwrap();
            let answer = ask(&client, "hello");
            assert!(answer.starts_with(&format!("hello: {own} by ")), "{mixin}: {answer}");
            assert!(answer.ends_with(&format!(" to {}", gateway.local_addr())), "{answer}");
        }
    });
}

#[test]
fn behind_several_proxies_the_first_ones_client_is_the_peer() {
    let server = serve_with(ThreadingTcpServer::builder().proxy_protocol(proxies()), who());
    for version in [Version::V1, Version::V2] {
        let builder = ThreadingTcpServer::builder().proxy_protocol(proxies());
        let gateway = serve_with(builder, gateway(&server, version));
        let client = Client::of(&gateway);
        client.send([V1, b"hello\n"].concat());
        let answer = line_of(&client);
        assert!(answer.starts_with(&format!("hello: {CLIENT} by 127.0.0.1:")), "{answer}");
        assert!(answer.ends_with(" to 198.51.100.7:443"), "{answer}");
    }
}

#[test]
fn a_header_is_sent_at_once_and_before_anything_else() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Address::Tcp(listener.local_addr().unwrap());
    let address = |text: &str| Address::Tcp(text.parse().unwrap());
    let header = ProxyHeader::new(address(CLIENT), address("198.51.100.7:443"));
    for (version, bytes) in [(Version::V1, V1), (Version::V2, V2)] {
        let (upstream, header) = (upstream.clone(), header.clone());
        let server = serve(handler_fn(move |client| {
            let options = ConnectOptions::from(TIMEOUT).proxy_header(header.clone(), version);
            let mut upstream = client.connect(&upstream, options)?;
            // Nothing is written before the client says so.
            client.read_line(&mut String::new())?;
            upstream.write_all(b"after\n")?;
            Ok(())
        }));
        let client = Client::of(&server);
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut received = vec![0; bytes.len()];
        accepted.read_exact(&mut received).unwrap();
        assert_eq!(received, bytes);
        client.send("go on\n");
        assert_eq!(line_of(&accepted), "after");
    }
}

#[test]
fn a_program_connects_with_a_header_of_its_own() {
    let server = serve_with(ThreadingTcpServer::builder().proxy_protocol(proxies()), Hello);
    let options = ConnectOptions::new(TIMEOUT).proxy_header(ProxyHeader::local(), Version::V2);
    let mut upstream = server.handle().connect(server.local_addr(), options).unwrap();
    let mut line = String::new();
    upstream.read_line(&mut line).unwrap();
    assert_eq!(line, "Hello World!\n");
    // Without one it is no proxy.
    let upstream = server.handle().connect(server.local_addr(), TIMEOUT).unwrap();
    drop(upstream);
}

#[test]
fn a_unit_test_sees_the_header() {
    let mut connection = Connection::in_memory("").with_peer(Address::Tcp(CLIENT.parse().unwrap()));
    let mut upstream = connection.upstream("db:5432").unwrap();
    let client = connection.as_mut();
    let options = ConnectOptions::new(Duration::from_secs(3)).proxy_header(&*client, Version::V1);
    drop(client.connect("db:5432", options).unwrap());
    let mut line = String::new();
    upstream.read_line(&mut line).unwrap();
    assert_eq!(line, "PROXY TCP4 192.0.2.1 127.0.0.1 56324 0\r\n");
}

#[test]
fn an_upstream_that_takes_no_header_ends_the_relay_and_not_the_gateway() {
    // Trusts no proxy, and takes the header for a line.
    let server = serve(who());
    let gateway = serve(gateway(&server, Version::V1));
    let client = Client::of(&gateway);
    assert!(ask(&client, "hello").starts_with("PROXY TCP4 "));
    // Trusts this one, which sends none.
    let server = serve_with(ThreadingTcpServer::builder().proxy_protocol(proxies()), who());
    let client = Client::of(&server);
    client.send("hello\n");
    read_until_closed(&client);
}
