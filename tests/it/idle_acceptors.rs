//! Idle threads accept beside the accept loop. Every promise about accepting holds for them too, and
//! no connection is missed between them.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use socketserver::services::{Echo, Hello};
use socketserver::*;

use crate::support::clients::{Client, ask, echoes, tcp};
use crate::support::servers::{counting_echo, serve, serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name, wait_until};

/// Leaves the server with idle threads that wait for connections.
fn with_idle_acceptors(server: RunningServer) -> RunningServer {
    let clients: Vec<_> = (0..10).map(|_| Client::of(&server)).collect();
    wait_until("all are served", || server.stats().active == 10);
    drop(clients);
    wait_until("all have left", || server.stats().active == 0);
    // An accept loop that was waiting for a free place has seen by now that others accept.
    echoes(server.local_addr(), "hello\n");
    server
}

/// Connects so many clients, which are all served.
fn connect(server: &RunningServer, number: usize) -> Vec<TcpStream> {
    let clients: Vec<_> = (0..number).map(|_| tcp(server.local_addr())).collect();
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    clients
}

#[test]
fn connections_are_served_when_all_idle_threads_have_become_busy() {
    let server = with_idle_acceptors(serve(Echo));
    for _ in 0..3 {
        let clients = connect(&server, 50);
        assert_eq!(server.stats().active, 50);
        drop(clients);
        wait_until("all have left", || server.stats().active == 0);
    }
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn short_connections_from_many_clients_at_a_time_are_all_served() {
    let address = format!("unix:{}", abstract_name());
    let server = serve_at(&address, ThreadingUnixStreamServer::builder(), Echo);
    let server = with_idle_acceptors(server);
    let clients = (0..8).map(|_| {
        let address = server.local_addr().clone();
        thread::spawn(move || (0..300).for_each(|_| echoes(&address, "hello\n")))
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.accept_errors), (2411, 0));
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn a_connection_that_arrived_while_suspended_is_served_after_resume() {
    let never_ends = Threading::new().idle_time(Duration::from_secs(3600));
    let builder = ThreadingTcpServer::builder().mixin(never_ends);
    let server = with_idle_acceptors(serve_with(builder, Echo));
    for _ in 0..20 {
        server.suspend();
        // It wakes one of the idle threads, which does not accept it. No event tells of that.
        let client = tcp(server.local_addr());
        thread::sleep(Duration::from_millis(5));
        server.resume();
        assert_eq!(ask(&client, "hello"), "hello");
    }
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn idle_threads_do_not_exceed_max_connections() {
    let most = Arc::new(AtomicUsize::new(0));
    let server = with_idle_acceptors(serve(counting_echo(&most)));
    most.store(0, Ordering::SeqCst);
    server.handle().set_max_connections(3);
    let clients = (0..12).map(|_| {
        let address = server.local_addr().clone();
        thread::spawn(move || (0..50).for_each(|_| echoes(&address, "hello\n")))
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 3, "{}", most.load(Ordering::SeqCst));
    // A connection that waits is served when others have left.
    let held = connect(&server, 3);
    let waiting = tcp(server.local_addr());
    drop(held);
    assert_eq!(ask(&waiting, "hello"), "hello");
    server.stop(TIMEOUT);
}

#[test]
fn idle_threads_do_not_accept_while_the_server_is_suspended() {
    let server = with_idle_acceptors(serve(Echo));
    server.suspend();
    let accepted = server.stats().accepted;
    let waiting: Vec<_> = (0..8).map(|_| tcp(server.local_addr())).collect();
    // Long enough for each idle thread to try. No event tells that none of them accepts.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(server.stats().accepted, accepted);
    server.resume();
    for client in &waiting {
        assert_eq!(ask(client, "hello"), "hello");
    }
    server.stop(TIMEOUT);
}

#[test]
fn a_stop_ends_idle_threads() {
    let server = with_idle_acceptors(serve(Echo));
    let address = server.local_addr().socket_addr().unwrap();
    // The stop has joined all of them, and nothing else holds the listener.
    assert!(server.stop(TIMEOUT).is_clean());
    assert!(TcpStream::connect(address).is_err(), "the listener is still open");
}

#[test]
fn handle_request_accepts_one_connection_and_no_more() {
    let server = ThreadingTcpServer::builder().bind("127.0.0.1:0", Hello).unwrap();
    let clients: Vec<_> = (0..6).map(|_| tcp(server.local_addr())).collect();
    for served in 1..=6 {
        assert_eq!(server.handle_request(), Handled::Request);
        wait_until("it has ended", || server.handle().stats().finished == served);
        assert_eq!(server.handle().stats().accepted, served);
    }
    drop(clients);
}
