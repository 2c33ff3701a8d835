//! Threads that are done watch the listener beside the one that accepts: whatever that one
//! promises holds for them, and nobody is left unheard between them.

mod common;

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{PATIENCE, ask, bounded, echoes, tcp, unix, wait_until};
use socketserver::services::{Echo, Hello};
use socketserver::*;

/// A server some of whose threads watch its listener.
fn watched<T: transport::Transport>(server: Server<T, Threading>) -> RunningServer {
    let server = server.spawn().unwrap();
    let connect = || -> Box<dyn Send> {
        match server.local_addr() {
            Address::Tcp(_) => Box::new(tcp(server.local_addr())),
            _ => Box::new(unix(server.local_addr())),
        }
    };
    let clients: Vec<_> = (0..10).map(|_| connect()).collect();
    wait_until("all are served", || server.stats().active == 10);
    drop(clients);
    wait_until("all have left", || server.stats().active == 0);
    // Whoever had to wait for somebody to leave is awake, and sees that others watch.
    echoes(server.local_addr(), "hello\n");
    server
}

fn holds(server: &RunningServer, number: usize) -> Vec<TcpStream> {
    let clients: Vec<_> = (0..number).map(|_| tcp(server.local_addr())).collect();
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    clients
}

#[test]
fn when_all_who_watched_are_busy_others_are_served_as_before() {
    let _bound = bounded();
    let server = watched(ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap());
    for _ in 0..3 {
        let clients = holds(&server, 50);
        assert_eq!(server.stats().active, 50);
        drop(clients);
        wait_until("all have left", || server.stats().active == 0);
    }
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn short_connections_from_many_sides_are_all_served() {
    let _bound = bounded();
    let name = common::abstract_name();
    let server = watched(ThreadingUnixStreamServer::bind(format!("unix:@{name}"), Echo).unwrap());
    let clients = (0..8).map(|_| {
        let address = server.local_addr().clone();
        thread::spawn(move || (0..300).for_each(|_| echoes(&address, "hello\n")))
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.accept_errors), (2411, 0));
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn whoever_came_while_nobody_was_let_in_is_served_once_somebody_is() {
    let _bound = bounded();
    let for_ever = Threading::new().idle_time(Duration::from_secs(3600));
    let builder = ThreadingTcpServer::builder().mixin(for_ever);
    let server = watched(builder.bind("127.0.0.1:0", Echo).unwrap());
    for _ in 0..20 {
        server.suspend();
        // It wakes one of those who watch, and the others stay.
        let newcomer = tcp(server.local_addr());
        thread::sleep(Duration::from_millis(5));
        server.resume();
        assert_eq!(ask(&newcomer, "hello"), "hello");
    }
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn the_limit_on_connections_is_not_exceeded_by_those_who_watch() {
    let _bound = bounded();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (now, most) = (now, most.clone());
        handler_fn(move |connection| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let result = StreamRequestHandler::handle(&Echo, connection);
            now.fetch_sub(1, Ordering::SeqCst);
            result
        })
    };
    let server = watched(ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap());
    most.store(0, Ordering::SeqCst);
    server.set_max_connections(3);
    let clients = (0..12).map(|_| {
        let address = server.local_addr().clone();
        thread::spawn(move || (0..50).for_each(|_| echoes(&address, "hello\n")))
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 3, "{}", most.load(Ordering::SeqCst));
    // And who waits for one of them to leave is served then.
    let held = holds(&server, 3);
    let waiting = tcp(server.local_addr());
    drop(held);
    assert_eq!(ask(&waiting, "hello"), "hello");
    server.stop(PATIENCE);
}

#[test]
fn those_who_watch_leave_the_listener_alone_while_the_server_is_suspended() {
    let _bound = bounded();
    let server = watched(ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap());
    server.suspend();
    let accepted = server.stats().accepted;
    let waiting: Vec<_> = (0..8).map(|_| tcp(server.local_addr())).collect();
    // Nothing tells of what does not happen; each of those who watch has had time to look.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(server.stats().accepted, accepted);
    server.resume();
    for client in &waiting {
        assert_eq!(ask(client, "hello"), "hello");
    }
    server.stop(PATIENCE);
}

#[test]
fn a_stop_sends_home_those_who_watch() {
    let _bound = bounded();
    let server = watched(ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap());
    let address = server.local_addr().socket_addr().unwrap();
    // Joined, all of them, or the stop would not return before this.
    assert!(server.stop(PATIENCE).is_clean());
    assert!(TcpStream::connect(address).is_err(), "the listener is still open");
}

#[test]
fn a_server_asked_for_one_request_at_a_time_takes_no_more() {
    let _bound = bounded();
    let server = ThreadingTcpServer::builder().bind("127.0.0.1:0", Hello).unwrap();
    let clients: Vec<_> = (0..6).map(|_| tcp(server.local_addr())).collect();
    for served in 1..=6 {
        assert_eq!(server.handle_request(), Handled::Request);
        wait_until("it has ended", || server.handle().stats().finished == served);
        assert_eq!(server.handle().stats().accepted, served);
    }
    drop(clients);
}
