//! The PROXY protocol and TLS on one connection: the header comes first, and is not encrypted.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use socketserver::extend::*;
use socketserver::proxy_protocol::Version;
use socketserver::*;

use crate::every_server::on_every_server;
use crate::support::TIMEOUT;
use crate::support::clients::{self, Client, rest_of};
use crate::support::close_reasons::{SHORT, is_counted};
use crate::support::servers::{StreamSettings, answers, serve, serve_with};
use crate::tls_clients::{self, TlsClient, connect, end_output, server_config, upstream_config};

/// Of a client at 192.0.2.1.
const HEADERS: [&[u8]; 2] = [
    b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb",
];

fn proxies() -> ProxyProtocol {
    let me = rustix::process::getuid().as_raw();
    let access = Access::closed().allow(IpAddr::from([127, 0, 0, 1])).allow(Peers::Uid(me));
    ProxyProtocol::from(access)
}

/// TLS behind proxies, with a short time for each step.
struct Proxied {
    header_timeout: Duration,
    handshake_timeout: Duration,
}

const PROXIED: Proxied = Proxied { header_timeout: TIMEOUT, handshake_timeout: TIMEOUT };

impl StreamSettings for Proxied {
    fn apply<T, M>(&self, builder: Builder<T, M>) -> Builder<T, M>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
        M: Mixin,
    {
        let builder = builder.tls(server_config()).handshake_timeout(self.handshake_timeout);
        builder.proxy_protocol(proxies().timeout(self.header_timeout))
    }
}

/// Answers with the client's address, and whether the connection has a proxy, and TLS.
fn who() -> impl StreamRequestHandler {
    answers(|_, connection| {
        let (client, is_tls) = (connection.peer_addr().clone(), connection.tls().is_some());
        Ok(writeln!(connection, "{client} {} {is_tls}", connection.proxied_by().is_some())?)
    })
}

fn proxied_client(server: &RunningServer, header: &[u8]) -> TlsClient {
    let client = connect(server);
    client.sock.0.send(header);
    client
}

#[test]
fn the_header_comes_before_the_handshake() {
    on_every_server(
        PROXIED,
        || (who(), ()),
        |server, ()| {
            for header in HEADERS {
                let mut client = proxied_client(server, header);
                assert_eq!(tls_clients::ask(&mut client, "who?"), "192.0.2.1:56324 true true");
                end_output(&mut client);
            }
        },
    );
}

#[test]
fn a_header_and_the_hello_may_come_together_or_byte_by_byte() {
    on_every_server(
        PROXIED,
        || (who(), ()),
        |server, ()| {
            for is_dripped in [false, true] {
                for header in HEADERS {
                    let mut client = connect(server);
                    let mut beginning = header.to_vec();
                    client.conn.write_tls(&mut beginning).unwrap();
                    match is_dripped {
                        false => client.sock.0.send(&beginning),
                        true => beginning.iter().for_each(|byte| client.sock.0.send([*byte])),
                    }
                    assert_eq!(tls_clients::ask(&mut client, "who?"), "192.0.2.1:56324 true true");
                    end_output(&mut client);
                }
            }
        },
    );
}

#[test]
fn a_handshake_without_a_header_is_closed_unread() {
    on_every_server(
        PROXIED,
        || (who(), ()),
        |server, ()| {
            let mut client = connect(server);
            assert!(tls_clients::handshake(&mut client).is_err());
            drop(client);
            is_counted(&server.handle(), &[CloseReason::BadProxyHeader]);
        },
    );
}

#[test]
fn a_header_and_no_handshake_reaches_no_handler() {
    on_every_server(
        PROXIED,
        || (who(), ()),
        |server, ()| {
            for header in HEADERS {
                let client = Client::of(server);
                client.send([header, b"who?\n"].concat());
                // An alert.
                assert_eq!(rest_of(&client).first(), Some(&21));
            }
            is_counted(&server.handle(), &[CloseReason::HandshakeFailed; 2]);
        },
    );
}

#[test]
fn each_of_the_two_has_its_own_time() {
    let settings = Proxied { handshake_timeout: SHORT, ..PROXIED };
    on_every_server(
        settings,
        || (who(), ()),
        |server, ()| {
            let client = proxied_client(server, HEADERS[1]);
            assert!(rest_of(&client.sock.0).is_empty());
            is_counted(&server.handle(), &[CloseReason::HandshakeFailed]);
        },
    );
    let settings = Proxied { header_timeout: SHORT, ..PROXIED };
    on_every_server(
        settings,
        || (who(), ()),
        |server, ()| {
            let client = proxied_client(server, &HEADERS[1][..8]);
            assert!(rest_of(&client.sock.0).is_empty());
            is_counted(&server.handle(), &[CloseReason::BadProxyHeader]);
        },
    );
}

#[test]
fn a_gateway_sends_a_header_before_its_handshake() {
    on_every_server(
        PROXIED,
        || (who(), ()),
        |server, ()| {
            for version in [Version::V1, Version::V2] {
                let (upstream, tls) = (server.local_addr().clone(), upstream_config());
                let tls = tls.server_name("localhost").unwrap();
                let gateway = serve(handler_fn(move |client| {
                    let options =
                        ConnectOptions::new(TIMEOUT).tls(&tls).proxy_header(&*client, version);
                    let mut upstream = client.connect(&upstream, options)?;
                    client.relay(&mut upstream)?;
                    Ok(())
                }));
                let client = Client::of(&gateway);
                let Client::Tcp(stream) = &client else { panic!("no TCP") };
                let own = stream.local_addr().unwrap();
                assert_eq!(clients::ask(&client, "who?"), format!("{own} true true"));
            }
        },
    );
}

#[test]
fn a_plain_listener_takes_headers_too() {
    let builder = ThreadingTcpServer::builder().tls(server_config()).proxy_protocol(proxies());
    let server = serve_with(builder.also_plain("127.0.0.1:0"), who());
    let plain = Client::at(&server.handle().listeners()[1].local_addr);
    plain.send(HEADERS[1]);
    assert_eq!(clients::ask(&plain, "who?"), "192.0.2.1:56324 true false");
}
