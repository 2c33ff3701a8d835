//! Bad addresses, bad clients, and transports, mixins and handlers that misbehave: each is a clear
//! error or none, and the server goes on serving.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{Client, ask, echoes, line_of, rest_of, tcp};
use crate::support::recorder::{Recorder, expect_calls, next_error};
use crate::support::servers::{Settings, on_every_stream_server, serve, serve_at, serve_with};
use crate::support::system::{drop_port_privilege, has_privileged_ports};
use crate::support::{TIMEOUT, TempDir, abstract_name, wait_until};

#[test]
fn a_port_in_use_is_named_and_its_server_goes_on() {
    let first = serve(Echo);
    let address = first.local_addr().to_string();
    let error = TcpServer::bind(&address, Echo).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }));
    let expected = format!("cannot listen on {address}: Address already in use");
    assert!(error.to_string().starts_with(&expected), "{error}");
    echoes(first.local_addr(), "still here\n");

    let first = serve_with(UdpServer::builder(), Echo);
    let error = UdpServer::bind(first.local_addr(), Echo).unwrap_err();
    assert!(error.to_string().contains(&first.local_addr().to_string()), "{error}");
    echoes(first.local_addr(), "still here");
}

#[test]
fn a_privileged_port_is_a_clear_error() {
    if !has_privileged_ports() {
        return eprintln!("this system has no privileged ports");
    }
    drop_port_privilege();
    let error = TcpServer::bind("127.0.0.1:1", Echo).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 127.0.0.1:1: Permission denied"), "{error}");
}

#[test]
fn a_path_that_is_too_long_and_one_that_leads_nowhere_are_named() {
    let directory = TempDir::new();
    let long = directory.join(&"x".repeat(120));
    let error = UnixStreamServer::bind(long.as_path(), Echo).unwrap_err();
    assert!(error.to_string().contains("over the system's limit of 107"), "{error}");
    assert!(error.to_string().contains(long.to_str().unwrap()), "{error}");
    let error = UnixDatagramServer::bind(format!("@{}", "x".repeat(108)), Echo).unwrap_err();
    assert!(error.to_string().contains("over the system's limit"), "{error}");

    let nowhere = directory.join("no/such/directory");
    let error = UnixStreamServer::bind(nowhere.as_path(), Echo).unwrap_err();
    assert!(error.to_string().contains(nowhere.to_str().unwrap()), "{error}");
}

#[test]
fn the_longest_path_and_name_can_be_served() {
    let directory = TempDir::new();
    let left = UnixName::MAX_LENGTH - directory.path().as_os_str().len() - 1;
    let longest = directory.join(&"x".repeat(left));
    let server = serve_at(longest.to_str().unwrap(), UnixStreamServer::builder(), Echo);
    echoes(server.local_addr(), "hello\n");
    if !cfg!(all(target_os = "linux", not(socketserver_portable))) {
        // There are no other names.
        return;
    }
    let mut name = abstract_name();
    name.push_str(&"x".repeat(1 + UnixName::MAX_LENGTH - name.len()));
    let server = serve_at(&name, UnixStreamServer::builder(), Echo);
    assert_eq!(server.local_addr().to_string(), format!("unix:{name}"));
    echoes(server.local_addr(), "hello\n");
}

#[test]
fn addresses_that_cannot_be_bound_are_named() {
    for (address, reason) in [
        ("nosuchhost.invalid:1", "cannot resolve nosuchhost.invalid"),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1:0"),
        ("unix:/tmp/x", "bad address \"unix:/tmp/x\": not a TCP address"),
        ("localhost", "bad address \"localhost\": the port is missing"),
    ] {
        let error = TcpServer::bind(address, Echo).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
    }
}

struct ShortLines;

impl Settings for ShortLines {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder.max_line_length(100)
    }
}

#[test]
fn a_line_that_is_too_long_ends_its_connection_only() {
    let (handler, calls) = Recorder::new(Echo);
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, ShortLines, |server| {
        let calls = calls.lock();
        let client = Client::of(server);
        let longest = "x".repeat(99);
        assert_eq!(ask(&client, &longest), longest);
        client.send(format!("{longest}x\n"));
        assert!(rest_of(&client).is_empty());
        let error = "error: line too long (limit 100 bytes)";
        expect_calls(&calls, &["setup", "handle", "finish", error]);
        let client = Client::of(server);
        assert_eq!(ask(&client, "still here"), "still here");
        drop(client);
        expect_calls(&calls, &["setup", "handle", "finish"]);
    });
}

#[test]
fn an_endless_line_is_cut_off_at_the_default_limit() {
    let (handler, calls) = Recorder::new(Echo);
    let server = serve(handler);
    let mut client = tcp(server.local_addr());
    // At the limit the server stops reading, and later writes fail.
    while client.write_all(&[b'x'; 100_000]).is_ok() {}
    let error = "error: line too long (limit 65536 bytes)";
    expect_calls(&calls, &["setup", "handle", "finish", error]);
    echoes(server.local_addr(), "still here\n");
}

#[test]
fn reading_a_string_fails_for_bytes_that_are_not_utf8() {
    let (handler, calls) = Recorder::new(handler_fn(|connection| {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        Ok(connection.write_all(line.as_bytes())?)
    }));
    let server = serve(handler);
    let client = Client::of(&server);
    client.send(b"\xff\xfe\n");
    assert!(rest_of(&client).is_empty());
    expect_calls(&calls, &["setup", "handle", "finish"]);
    assert!(next_error(&calls).contains("invalid utf-8"));
    assert_eq!(ask(&Client::of(&server), "\u{1F980}"), "\u{1F980}");
}

#[test]
fn a_frame_that_announces_more_than_the_limit_is_refused_unread() {
    let frames = handler_fn(|connection| {
        let frames = LengthPrefixed::new(Prefix::U32).max_length(1000);
        let mut message = Vec::new();
        while frames.read(&mut *connection, &mut message)? {
            frames.write(&mut *connection, &message)?;
        }
        Ok(())
    });
    let (handler, calls) = Recorder::new(frames);
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, (), |server| {
        let calls = calls.lock();
        let client = Client::of(server);
        client.send(b"\0\0\0\x02hi\xff\xff\xff\xff");
        assert_eq!(rest_of(&client), b"\0\0\0\x02hi");
        let error = "error: message of 4294967295 bytes is too long (limit 1000 bytes)";
        expect_calls(&calls, &["setup", "handle", "finish", error]);
        let client = Client::of(server);
        client.send([b"\0\0\x03\xe8".to_vec(), vec![7; 1000]].concat());
        let mut answer = [0; 1004];
        (&client).read_exact(&mut answer).unwrap();
        assert_eq!(answer[4..], [7; 1000]);
        drop(client);
        expect_calls(&calls, &["setup", "handle", "finish"]);
    });
}

/// A thread per request, as a user may write it. It drops one request in four, and panics at another.
#[derive(Default)]
struct Careless(AtomicUsize);

impl Mixin for Careless {
    fn process_request(&self, _server: &BaseServer, request: Request) {
        match self.0.fetch_add(1, Ordering::Relaxed) % 4 {
            2 => drop(request),
            3 => panic!("as told, at {request:?}"),
            _ => drop(thread::spawn(move || request.finish())),
        }
    }
}

impl Spawnable for Careless {}

#[test]
fn a_mixin_that_drops_requests_or_panics_does_not_break_limits_or_a_stop() {
    let mixin = Careless::default();
    let builder = TcpServer::builder().mixin(mixin).max_connections(2);
    let server = serve_with(builder, Echo);
    for _ in 0..5 {
        echoes(server.local_addr(), "one\n");
        echoes(server.local_addr(), "two\n");
        for _ in 0..2 {
            let mut lost = tcp(server.local_addr());
            assert_eq!(lost.read(&mut [0]).unwrap(), 0);
        }
    }
    // A connected client reads end-of-file when the server stops.
    let client = tcp(server.local_addr());
    assert_eq!(ask(&client, "hello"), "hello");
    let handle = server.handle();
    assert_eq!(server.stop(TIMEOUT).drained, 1);
    assert!(rest_of(&client).is_empty());
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.finished, stats.active), (21, 21, 0));
}

#[test]
fn a_panic_whose_payload_is_no_string_is_survived() {
    let shared = Arc::new(Echo);
    let panics = move |connection: &mut Connection| -> HandlerResult {
        if connection.id() == ConnectionId::from(1) {
            std::panic::panic_any(7_u8);
        }
        StreamRequestHandler::handle(&shared, connection)
    };
    let server = serve(panics);
    assert_eq!(line_of(tcp(server.local_addr())), "");
    echoes(server.local_addr(), "still here\n");
    wait_until("both connections have ended", || server.stats().finished == 2);
    assert_eq!(server.stats().panicked, 1);
}
