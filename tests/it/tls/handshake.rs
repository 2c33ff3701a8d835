//! The handshake: who is served after it, and what becomes of the others.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::*;

use crate::every_server::on_every_server;
use crate::support::clients::{Client, read_until_closed, rest_of};
use crate::support::close_reasons::{SHORT, is_counted};
use crate::support::recorder::{Call, Recorder};
use crate::support::servers::{StreamSettings, answers, echo_bytes, serve_with};
use crate::support::{TIMEOUT, wait_until};
use crate::tls_clients::{
    WithTls, ask, client_config, connect, connect_with, end_output, handshake, server_config,
    with_tls,
};

/// Echo, and its calls.
fn recorded_echo() -> (impl StreamRequestHandler, Receiver<Call>) {
    Recorder::new(Echo)
}

/// TLS with a short time for handshakes.
struct ShortHandshakes;

impl StreamSettings for ShortHandshakes {
    fn apply<T, M>(&self, builder: Builder<T, M>) -> Builder<T, M>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
        M: Mixin,
    {
        builder.tls(server_config()).handshake_timeout(SHORT)
    }
}

/// One request has ended because of its handshake, and the handler has seen nothing of it.
#[track_caller]
fn has_failed(server: &RunningServer, calls: &Receiver<Call>) {
    is_counted(&server.handle(), &[CloseReason::HandshakeFailed]);
    assert_eq!(calls.try_recv().ok(), None);
}

/// Those under which a request does not wait for another.
fn concurrent_mixins() -> Vec<Box<dyn Spawnable>> {
    vec![
        Box::new(Threading::new()),
        #[cfg(feature = "fibers")]
        Box::new(Fibers::new().workers(1)),
    ]
}

#[test]
fn a_handler_is_told_what_was_agreed_on() {
    let settings = WithTls(server_config().alpn(["echo/2", "echo/1"]), ());
    let handler =
        || (answers(|_, connection| Ok(writeln!(connection, "{:?}", connection.tls())?)), ());
    on_every_server(settings, handler, |server, ()| {
        let mut config = client_config(None);
        config.alpn_protocols = vec![b"echo/1".to_vec(), b"other".to_vec()];
        let told = ask(&mut connect_with(server, config.clone(), "localhost"), "what?");
        for part in
            ["TLSv1.3", "TLS_AES_256_GCM_SHA384", "localhost", "echo/1", "is_resumed: false"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        let told = ask(&mut connect_with(server, config, "127.0.0.1"), "what?");
        assert!(told.contains("server_name: None"), "{told}");
        assert!(ask(&mut connect(server), "what?").contains("alpn: None"));
    });
}

#[test]
fn a_session_is_resumed() {
    let handler =
        || (answers(|_, connection| Ok(writeln!(connection, "{:?}", connection.tls())?)), ());
    on_every_server(with_tls(), handler, |server, ()| {
        let config = client_config(None);
        for resumed in [false, true, true] {
            let told = ask(&mut connect_with(server, config.clone(), "localhost"), "what?");
            assert!(told.contains(&format!("is_resumed: {resumed}")), "{told}");
        }
    });
}

#[test]
fn without_tls_there_is_nothing_to_tell() {
    let server = serve_with(
        ThreadingTcpServer::builder(),
        answers(|_, connection| Ok(writeln!(connection, "{:?}", connection.tls())?)),
    );
    assert_eq!(crate::support::clients::ask(&Client::of(&server), "what?"), "None");
    let error = server.handle().set_tls(server_config()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn a_client_that_speaks_no_tls_reaches_no_handler() {
    on_every_server(with_tls(), recorded_echo, |server, calls| {
        let client = Client::of(server);
        client.send("GET / HTTP/1.0\r\n\r\n");
        // An alert of two bytes, in a record: nothing of an application.
        let answer = rest_of(&client);
        assert_eq!((answer.len(), answer[0]), (7, 21), "{answer:?}");
        drop(client);
        has_failed(server, &calls);
    });
}

#[test]
fn a_client_that_refuses_the_certificate_reaches_no_handler() {
    on_every_server(with_tls(), recorded_echo, |server, calls| {
        let mut client = connect_with(server, client_config(None), "another.example");
        handshake(&mut client).unwrap_err();
        drop(client);
        has_failed(server, &calls);
    });
}

#[test]
fn a_client_that_closes_within_the_handshake_reaches_no_handler() {
    on_every_server(with_tls(), recorded_echo, |server, calls| {
        let mut client = connect(server);
        client.conn.write_tls(&mut client.sock).unwrap();
        drop(client);
        has_failed(server, &calls);
    });
    on_every_server(with_tls(), recorded_echo, |server, calls| {
        drop(Client::of(server));
        has_failed(server, &calls);
    });
}

#[test]
fn a_silent_client_is_closed_after_the_timeout() {
    on_every_server(ShortHandshakes, recorded_echo, |server, calls| {
        let begin = Instant::now();
        let client = Client::of(server);
        read_until_closed(&client);
        assert!(begin.elapsed() >= SHORT);
        drop(client);
        has_failed(server, &calls);
    });
}

#[test]
fn a_client_that_drips_its_hello_is_closed_after_the_timeout() {
    on_every_server(ShortHandshakes, recorded_echo, |server, calls| {
        let mut hello = Vec::new();
        let mut client = connect(server);
        client.conn.write_tls(&mut hello).unwrap();
        let begin = Instant::now();
        for byte in hello {
            if (&client.sock.0).write_all(&[byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        assert!(begin.elapsed() >= SHORT && begin.elapsed() < TIMEOUT / 2);
        drop(client);
        has_failed(server, &calls);
    });
}

#[test]
fn silent_clients_delay_no_other() {
    for mixin in concurrent_mixins() {
        let builder = TcpServer::builder().mixin(mixin).tls(server_config());
        let server = serve_with(builder, Echo);
        let silent: Vec<_> = (0..20).map(|_| Client::of(&server)).collect();
        wait_until("all are accepted", || server.stats().accepted == 20);
        assert_eq!(ask(&mut connect(&server), "hello"), "hello");
        // Each waits for ten seconds, and none is waited for.
        drop(silent);
    }
}

#[test]
fn a_stop_ends_handshakes() {
    on_every_server(with_tls(), recorded_echo, |server, calls| {
        let mut half = connect(server);
        half.conn.write_tls(&mut half.sock).unwrap();
        wait_until("it is accepted", || server.stats().accepted == 1);
        let begin = Instant::now();
        let report = server.handle().stop(TIMEOUT);
        assert!(report.is_clean() && begin.elapsed() < TIMEOUT / 3, "{report:?}");
        assert_eq!(calls.try_recv().ok(), None);
    });
}

#[test]
fn verify_request_is_asked_after_the_handshake() {
    struct OnlyLocalhost;

    impl StreamRequestHandler for OnlyLocalhost {
        fn verify_request(&self, connection: &Connection) -> bool {
            connection.tls().expect("TLS").server_name.as_deref() == Some("localhost")
        }

        fn handle(&self, connection: &mut Connection) -> HandlerResult {
            StreamRequestHandler::handle(&Echo, connection)
        }
    }

    let handler = || (OnlyLocalhost, ());
    on_every_server(with_tls(), handler, |server, ()| {
        let mut client = connect(server);
        assert_eq!(ask(&mut client, "hello"), "hello");
        end_output(&mut client);
        drop(client);
        let mut denied = connect_with(server, client_config(None), "127.0.0.1");
        handshake(&mut denied).unwrap();
        assert_eq!(denied.read(&mut [0]).unwrap(), 0);
        drop(denied);
        wait_until("both have ended", || server.stats().finished == 2);
        let stats = server.stats();
        assert_eq!((stats.denied, stats.eof, stats.accepted), (1, 1, 2), "{stats:?}");
    });
}

#[test]
fn a_refused_client_is_sent_nothing_unencrypted() {
    for mixin in concurrent_mixins() {
        let builder = TcpServer::builder().mixin(mixin).tls(server_config());
        let overload = Overload::Refuse("server full\n".into());
        let server = serve_with(builder.max_connections(1).overload(overload), Echo);
        let mut first = connect(&server);
        assert_eq!(ask(&mut first, "hello"), "hello");
        let refused = Client::of(&server);
        let mut received = Vec::new();
        // It may be reset.
        let _ = (&refused).read_to_end(&mut received);
        assert!(received.is_empty(), "{received:?}");
        assert_eq!(ask(&mut first, "hello"), "hello");
        assert_eq!(server.stats().refused, 1);
    }
}

#[test]
fn what_comes_with_the_end_of_the_handshake_is_read() {
    let handler = || (echo_bytes, ());
    on_every_server(with_tls(), handler, |server, ()| {
        // The client's last message of the handshake and its first line arrive together, and one line more
        // in part.
        let mut client = connect(server);
        client.conn.write_tls(&mut client.sock).unwrap();
        while client.conn.is_handshaking() {
            client.conn.read_tls(&mut client.sock).unwrap();
            client.conn.process_new_packets().unwrap();
        }
        client.conn.writer().write_all(b"first\nsecond\nthi").unwrap();
        let mut bytes = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut bytes).unwrap();
        }
        client.sock.0.send(&bytes);
        let mut answer = [0; 16];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"first\nsecond\nthi");
    });
}

#[test]
fn an_alert_says_why() {
    on_every_server(with_tls(), recorded_echo, |server, calls| {
        let mut config = client_config(None);
        config.alpn_protocols = vec![b"echo/1".to_vec()];
        let server_alpn = server.handle();
        server_alpn.set_tls(server_config().alpn(["echo/2"])).unwrap();
        let mut client = connect_with(server, config, "localhost");
        let error = handshake(&mut client).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
        drop(client);
        has_failed(server, &calls);
    });
}
