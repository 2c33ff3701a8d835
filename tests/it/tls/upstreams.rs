//! Upstreams over TLS, and relays from and to them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::services::Echo;
use socketserver::*;

use crate::every_server::{mixins, on_every_server};
use crate::support::clients::{Client, ask as ask_plain, rest_of};
use crate::support::close_reasons::SHORT;
use crate::support::servers::{answers, echo_bytes, serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name, next, wait_until};
use crate::tls_clients::{
    ask, connect, end_output, file, pair, server_config, upstream_config, with_tls,
};

/// An echo server over TLS, on threads.
fn echo() -> RunningServer {
    serve_with(ThreadingTcpServer::builder().tls(server_config()), echo_bytes)
}

/// Relays to a server by this connect.
fn relays(
    connect: impl Fn(&mut Connection) -> Result<Connection> + Send + Sync + 'static,
) -> impl StreamRequestHandler {
    handler_fn(move |client: &mut Connection| {
        let mut upstream = connect(client)?;
        client.relay(&mut upstream)?;
        Ok(())
    })
}

/// Relays to this server over TLS.
fn relays_to(server: &RunningServer) -> impl StreamRequestHandler + use<> {
    let (address, config) = (server.local_addr().to_string(), upstream_config());
    relays(move |client| client.connect_tls(&*address, TIMEOUT, &config))
}

#[test]
fn an_upstream_is_a_connection_over_tls() {
    let echo = echo();
    let address = echo.local_addr().to_string().replace("127.0.0.1", "localhost");
    let handler = || {
        let (address, config) = (address.clone(), upstream_config());
        let handler = answers(move |line, client| {
            let mut upstream = client.connect_tls(&*address, TIMEOUT, &config)?;
            assert_eq!(upstream.tls().unwrap().version, "TLSv1.3");
            writeln!(upstream, "{line}")?;
            let mut answer = String::new();
            upstream.read_line(&mut answer)?;
            Ok(write!(client, "{answer}")?)
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        let client = Client::of(server);
        for line in ["one", "two"] {
            assert_eq!(ask_plain(&client, line), line);
        }
    });
    assert_eq!(echo.stats().handshake_failed + echo.stats().reset, 0, "{:?}", echo.stats());
}

#[test]
fn an_upstream_on_a_unix_socket_needs_a_name() {
    let address = format!("unix:{}", abstract_name());
    let _echo = serve_at(&address, ThreadingUnixStreamServer::builder().tls(server_config()), Echo);
    let handler = || {
        let address = address.clone();
        let handler = answers(move |line, client| {
            let config = upstream_config();
            let error = client.connect_tls(&*address, TIMEOUT, &config).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let config = config.server_name("localhost")?;
            let mut upstream = client.connect_tls(&*address, TIMEOUT, &config)?;
            writeln!(upstream, "{line}")?;
            let mut answer = String::new();
            upstream.read_line(&mut answer)?;
            Ok(write!(client, "{answer}")?)
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        assert_eq!(ask_plain(&Client::of(server), "hello"), "hello");
    });
}

#[test]
fn an_upstream_must_have_the_name_and_a_trusted_certificate() {
    let echo = echo();
    let handler = || {
        let address = echo.local_addr().to_string();
        let handler = answers(move |line, client| {
            let config = match line {
                "name" => upstream_config().server_name("other.example")?,
                "stranger" => TlsClientConfig::from_pem(file("stranger.pem"))?,
                _ => upstream_config(),
            };
            let answer = match client.connect_tls(&*address, TIMEOUT, &config) {
                Ok(_) => "connected".to_owned(),
                Err(error @ Error::Connect { .. }) => error.to_string(),
                Err(error) => panic!("{error:?}"),
            };
            Ok(writeln!(client, "{answer}")?)
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        let client = Client::of(server);
        assert_eq!(ask_plain(&client, "all is well"), "connected");
        let refused = ask_plain(&client, "name");
        assert!(refused.contains("TLS: ") && refused.contains("other.example"), "{refused}");
        let refused = ask_plain(&client, "stranger");
        assert!(refused.contains("UnknownIssuer"), "{refused}");
        assert_eq!(server.stats().upstream_errors, 2);
    });
}

#[test]
fn an_upstream_shows_a_client_certificate() {
    let required = ClientCertificates::Required;
    let tls = server_config().client_certificates(required, file("authority.pem")).unwrap();
    let echo = serve_with(ThreadingTcpServer::builder().tls(tls), Echo);
    let handler = || {
        let address = echo.local_addr().to_string();
        let [chain, key] = pair("ada");
        let config = upstream_config().client_certificate(chain, key).unwrap();
        (relays(move |client| client.connect_tls(&*address, TIMEOUT, &config)), ())
    };
    on_every_server((), handler, |server, ()| {
        assert_eq!(ask_plain(&Client::of(server), "hello"), "hello");
    });
}

#[test]
fn a_handshake_with_an_upstream_takes_no_longer_than_the_timeout() {
    // It accepts in the kernel's backlog, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let handler = || {
        let config = upstream_config();
        let handler = answers(move |_, client| {
            let begin = Instant::now();
            let error = client.connect_tls(address, SHORT, &config).unwrap_err();
            assert!(matches!(error, Error::ConnectTimeout { .. }), "{error:?}");
            assert!(begin.elapsed() >= SHORT && begin.elapsed() < TIMEOUT / 2);
            assert!(client.server().connections()[0].upstreams.is_empty());
            Ok(writeln!(client, "timed out")?)
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        assert_eq!(ask_plain(&Client::of(server), "hello"), "timed out");
    });
}

#[test]
fn a_stop_ends_a_handshake_with_an_upstream() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let handler = || {
        let (errors, next_error) = channel();
        let errors = Mutex::new(errors);
        let config = upstream_config();
        let handler = handler_fn(move |client: &mut Connection| {
            let error = client.connect_tls(address, TIMEOUT, &config).unwrap_err();
            errors.lock().send(error).unwrap();
            Ok(())
        });
        (handler, next_error)
    };
    for mixin in mixins() {
        let (handler, next_error) = handler();
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let client = Client::of(&server);
        wait_until("it connects", || {
            server.connections().first().is_some_and(|info| !info.upstreams.is_empty())
        });
        let begin = Instant::now();
        server.handle().stop(Duration::from_millis(300));
        assert!(matches!(next(&next_error), Error::Stopped));
        assert!(begin.elapsed() < TIMEOUT / 3);
        drop(client);
    }
}

#[test]
fn a_relay_carries_plain_to_tls_and_ends_it() {
    let echo = echo();
    let handler = || (relays_to(&echo), ());
    on_every_server((), handler, |server, ()| {
        const MUCH: usize = 4 * 1024 * 1024;
        let client = Client::of(server);
        let mut file = client.file();
        let sending = thread::spawn(move || file.write_all(&vec![b'x'; MUCH]).unwrap());
        let mut received = vec![0; MUCH];
        (&client).read_exact(&mut received).unwrap();
        sending.join().unwrap();
        client.shutdown(std::net::Shutdown::Write);
        assert_eq!(rest_of(&client), b"");
    });
    assert_eq!(echo.stats().reset, 0, "{:?}", echo.stats());
}

#[test]
fn a_relay_carries_tls_to_tls_and_ends_it() {
    let echo = echo();
    let handler = || (relays_to(&echo), ());
    on_every_server(with_tls(), handler, |server, ()| {
        let mut client = connect(server);
        let text = vec![b'x'; 300_000];
        for _ in 0..5 {
            client.write_all(&text).unwrap();
            let mut received = vec![0; text.len()];
            client.read_exact(&mut received).unwrap();
            assert!(received == text);
        }
        end_output(&mut client);
        assert_eq!(rest_of(&mut client), b"");
    });
    assert_eq!(echo.stats().reset, 0, "{:?}", echo.stats());
}

#[test]
fn a_relay_passes_a_truncation_on() {
    let echo = echo();
    let handler = || (relays_to(&echo), ());
    on_every_server(with_tls(), handler, |server, ()| {
        let before = echo.stats().reset;
        let mut client = connect(server);
        assert_eq!(ask(&mut client, "hello"), "hello");
        drop(client);
        wait_until("the upstream's server notices", || echo.stats().reset == before + 1);
    });
}
