//! How the example servers stop.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use socketserver::Scheme;

use crate::examples::{MIXINS, SERVERS};
use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, rest_of, tcp, unix, unix_address};
use crate::support::process::{Server, exists, has_ended};
use crate::support::{TIMEOUT, TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    both_signals_stop_a_server_with_a_connected_client,
    a_signal_stops_every_example_with_silent_clients,
    a_stop_of_a_forking_server_leaves_no_child_and_no_socket_file,
    a_child_ends_and_is_reaped_when_its_client_closes,
    the_file_of_a_killed_server_is_replaced,
    a_second_signal_ends_a_server_at_once,
    a_stop_forces_a_client_that_does_not_read,
    connections_after_the_stop_are_refused_by_the_system,
];

fn both_signals_stop_a_server_with_a_connected_client() {
    for mixin in MIXINS {
        for signal in [Signal::TERM, Signal::INT] {
            let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
            let client = tcp(server.endpoint());
            assert_eq!(ask(&client, "here"), "here");
            // What has been received is answered.
            (&client).write_all(b"and th").unwrap();
            server.stop_by(signal);
            assert_eq!(rest_of(&client), b"and th", "{mixin}");
        }
    }
}

fn a_signal_stops_every_example_with_silent_clients() {
    for (name, _) in SERVERS {
        for (mixin, signal) in [("sequential", Signal::INT), ("threading", Signal::TERM)] {
            let address = format!("unix:{}", abstract_name());
            let server = Server::start(name, &address, &["--mixin", mixin]);
            let clients = [unix(server.endpoint()), unix(server.endpoint())];
            server.stop_by(signal);
            for client in clients {
                rest_of(client);
            }
        }
    }
}

fn a_stop_of_a_forking_server_leaves_no_child_and_no_socket_file() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let address = format!("unix:{}", path.display());
    for name in ["echo", "greeter", "timestamp", "framed"] {
        let server = Server::start(name, &address, &["--mixin", "forking"]);
        let clients: Vec<_> = (0..3).map(|_| unix(server.endpoint())).collect();
        wait_until("a child for each client", || server.children().len() == 3);
        let children = server.children();
        assert!(path.exists());
        server.stop();
        assert!(!children.into_iter().any(exists), "{name} left a child");
        assert!(!path.exists(), "{name} left its file");
        for client in clients {
            rest_of(client);
        }
    }
}

fn a_child_ends_and_is_reaped_when_its_client_closes() {
    let server = Server::start("echo", "127.0.0.1:0", &["--mixin", "forking"]);
    let clients: Vec<_> = (0..5).map(|_| tcp(server.endpoint())).collect();
    for client in &clients {
        assert_eq!(ask(client, "?"), "?");
    }
    assert_eq!(server.children().len(), 5);
    drop(clients);
    // Reaped too, although no other client connects.
    wait_until("no child", || server.children().is_empty());
    server.stop();
}

fn the_file_of_a_killed_server_is_replaced() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for scheme in ["unix", "unixgram"] {
        let address = format!("{scheme}:{}", path.display());
        let killed = Server::start("echo", &address, &[]);
        killed.signal(Signal::KILL);
        assert_eq!(killed.wait().status, None);
        assert!(path.exists());
        let server = Server::start("echo", &address, &[]);
        echoes(server.endpoint(), "again\n");
        server.stop();
        assert!(!path.exists());
    }
}

/// A client that sends requests with more answers than fit into its socket buffers, and reads none. All
/// requests are in the server's receive buffer when this returns.
fn greedy_client(server: &Server) -> UnixStream {
    let limit = std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
    let half: usize = limit.trim().parse::<usize>().unwrap() / 2;
    let client = unix(server.endpoint());
    client.set_write_timeout(Some(TIMEOUT)).unwrap();
    // Each of these lines is answered by ten bytes.
    (&client).write_all(&vec![b'\n'; half]).unwrap();
    client
}

fn a_second_signal_ends_a_server_at_once() {
    for mixin in MIXINS {
        let address = format!("unix:{}", abstract_name());
        let server =
            Server::start("greeter", &address, &["--mixin", mixin, "--stop-timeout", "600"]);
        let client = greedy_client(&server);
        let children = match mixin {
            "forking" => 1,
            "prefork" => std::thread::available_parallelism().unwrap().get(),
            _ => 0,
        };
        wait_until("the children", || server.children().len() == children);
        server.signal(Signal::TERM);
        if mixin == "threading" {
            // Two threads could handle one signal each, at the same time.
            let name = unix_address(server.endpoint().unix_name(Scheme::Unix).unwrap());
            wait_until("the stop", || UnixStream::connect_addr(&name).is_err());
        }
        server.signal(Signal::INT);
        wait_until("the end, with the client connected", || has_ended(server.pid()));
        // The server has not waited for its child, which ends when the client closes.
        drop(client);
        let ended = server.wait();
        assert!(matches!(ended.status, Some(130 | 143)), "{mixin}: {ended:?}");
    }
}

fn a_stop_forces_a_client_that_does_not_read() {
    for mixin in MIXINS {
        let address = format!("unix:{}", abstract_name());
        let server =
            Server::start("greeter", &address, &["--mixin", mixin, "--stop-timeout", "0.3"]);
        let _client = greedy_client(&server);
        server.signal(Signal::TERM);
        let ended = server.wait();
        assert_eq!(ended.status, Some(0), "{mixin}: {ended:?}");
    }
}

fn connections_after_the_stop_are_refused_by_the_system() {
    for mixin in MIXINS {
        let server = Server::start("hello", &abstract_name(), &["--mixin", mixin]);
        let name = unix_address(server.endpoint().unix_name(Scheme::Unix).unwrap());
        assert_eq!(rest_of(unix(server.endpoint())), b"Hello World!\n");
        server.stop();
        let error = UnixStream::connect_addr(&name).unwrap_err();
        // The file of a path is removed.
        let expected = if name.as_pathname().is_some() {
            ErrorKind::NotFound
        } else {
            ErrorKind::ConnectionRefused
        };
        assert_eq!(error.kind(), expected);
    }
}
