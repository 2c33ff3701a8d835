//! What CPython's `test_socketserver` checks, for this crate. Its checks of forking are in
//! `forking.rs`, with the big write among signals.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::thread;

use parking_lot::Mutex;
use socketserver::services::{Echo, Hello};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{Client, ask, echoes};
use crate::support::recorder::{Recorder, expect_calls};
use crate::support::servers::{on_every_stream_server, serve, serve_at, serve_with};
use crate::support::system::{open_descriptors, serving_threads};
use crate::support::{TIMEOUT, TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    twenty_servers_are_shut_down_while_they_start,
    a_server_is_closed_without_serving,
    a_thousand_failed_binds_leak_no_descriptor,
    a_hundred_times_twenty_servers_leave_no_thread_and_no_descriptor,
    errors_and_panics_of_a_handler_reach_handle_error_and_end_one_connection,
    a_request_that_verify_request_refuses_is_closed,
];

fn twenty_servers_are_shut_down_while_they_start() {
    for _ in 0..20 {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", Hello).unwrap();
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve_forever());
        handle.shutdown();
        assert!(matches!(serving.join().unwrap(), Ok(()) | Err(Error::ShutDown)));
    }
    for _ in 0..20 {
        let server = serve_with(TcpServer::builder(), Hello);
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

fn a_server_is_closed_without_serving() {
    let before = open_descriptors();
    let server = TcpServer::bind("127.0.0.1:0", Hello).unwrap();
    let address = server.local_addr().clone();
    assert!(open_descriptors() > before);
    drop(server);
    assert_eq!(open_descriptors(), before);
    TcpListener::bind(address.socket_addr().unwrap()).unwrap();
}

fn a_thousand_failed_binds_leak_no_descriptor() {
    let directory = TempDir::new();
    let occupied = TcpServer::bind("127.0.0.1:0", Echo).unwrap();
    let datagrams = UdpServer::bind("127.0.0.1:0", Echo).unwrap();
    let path = directory.join("socket");
    let stream = UnixStreamServer::bind(path.as_path(), Echo).unwrap();
    let before = open_descriptors();
    for _ in 0..250 {
        TcpServer::bind(occupied.local_addr(), Echo).unwrap_err();
        UdpServer::bind(datagrams.local_addr(), Echo).unwrap_err();
        UnixStreamServer::bind(stream.local_addr(), Echo).unwrap_err();
        UnixDatagramServer::bind(path.as_path(), Echo).unwrap_err();
    }
    assert_eq!(open_descriptors(), before);
}

fn a_hundred_times_twenty_servers_leave_no_thread_and_no_descriptor() {
    let before = open_descriptors();
    for _ in 0..100 {
        let servers: Vec<RunningServer> = (0..20)
            .map(|n| {
                let unix = format!("unix:{}", abstract_name());
                match n % 4 {
                    0 => serve(Echo),
                    1 => serve_with(TcpServer::builder(), Echo),
                    2 => serve_at(&unix, ThreadingUnixStreamServer::builder(), Echo),
                    _ => serve_with(ThreadingUdpServer::builder(), Echo),
                }
            })
            .collect();
        let client = Client::of(&servers[0]);
        assert_eq!(ask(&client, "hello"), "hello");
        echoes(servers[3].local_addr(), "hello");
        for server in servers {
            assert!(server.stop(TIMEOUT).is_clean());
        }
    }
    assert_eq!(open_descriptors(), before);
    wait_until("all threads have ended", || serving_threads() == 0);
}

/// Fails, panics or echoes, as the client asks for.
fn commands(connection: &mut Connection) -> HandlerResult {
    let mut command = String::new();
    connection.read_line(&mut command)?;
    match &*command {
        "fail\n" => Err("as told".into()),
        // The panic hook is not called, and prints nothing.
        "panic\n" => resume_unwind(Box::new("as told")),
        _ => Ok(connection.write_all(command.as_bytes())?),
    }
}

fn errors_and_panics_of_a_handler_reach_handle_error_and_end_one_connection() {
    let (handler, calls) = Recorder::new(handler_fn(commands));
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, (), |server| {
        let calls = calls.lock();
        for (command, error) in [
            ("fail", "error: as told"),
            ("panic", "error: handler panicked: as told"),
            ("fail", "error: as told"),
        ] {
            assert_eq!(ask(&Client::of(server), command), "");
            expect_calls(&calls, &["setup", "handle", "finish", error]);
        }
        assert_eq!(ask(&Client::of(server), "hello"), "hello");
        expect_calls(&calls, &["setup", "handle", "finish"]);
        wait_until("all have ended", || server.stats().finished == 4);
        let stats = server.stats();
        assert_eq!((stats.failed, stats.panicked), (2, 1));
    });
}

struct Closed;

impl StreamRequestHandler for Closed {
    fn verify_request(&self, _connection: &Connection) -> bool {
        false
    }

    fn handle(&self, _connection: &mut Connection) -> HandlerResult {
        unreachable!("refused")
    }
}

fn a_request_that_verify_request_refuses_is_closed() {
    let (handler, calls) = Recorder::new(Closed);
    on_every_stream_server(handler, (), |server| {
        for n in 1..=3 {
            let client = Client::of(server);
            assert_eq!((&client).read(&mut [0]).unwrap(), 0);
            wait_until("the denial is counted", || server.stats().denied == n);
        }
        assert_eq!(server.stats().accepted, 0);
        assert!(server.connections().is_empty());
    });
    assert!(calls.try_recv().is_err(), "a hook was called");
}
