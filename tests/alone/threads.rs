//! What holds for `Threading` only: a thread for each request, which is used again, and ends. These
//! tests count the threads of the process.

use std::collections::HashSet;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, line_of, tcp};
use crate::support::servers::{serve, serve_with};
use crate::support::system::{raise_descriptor_limit, serving_threads, threads_named};
use crate::support::{TIMEOUT, next, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    finished_threads_are_not_kept,
    an_idle_thread_serves_the_next_client_and_ends_after_its_idle_time,
    five_thousand_idle_connections_are_drained_at_once,
    all_senders_of_a_server_share_one_thread_which_ends_with_it,
];

fn finished_threads_are_not_kept() {
    let mixin = Threading::new().idle_time(Duration::ZERO);
    let server = serve_with(ThreadingTcpServer::builder().mixin(mixin), Echo);
    let clients: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    assert_eq!(serving_threads(), 51);
    drop(clients);
    wait_until("only the server's own thread is left", || serving_threads() == 1);
    for _ in 0..200 {
        echoes(server.local_addr(), "short\n");
    }
    wait_until("only the server's own thread is left", || serving_threads() == 1);
}

fn an_idle_thread_serves_the_next_client_and_ends_after_its_idle_time() {
    let thread_id =
        handler_fn(|connection| Ok(writeln!(connection, "{:?}", thread::current().id())?));
    let mixin = Threading::new().idle_time(Duration::from_millis(500));
    let server = serve_with(ThreadingTcpServer::builder().mixin(mixin), thread_id);
    let mut threads = HashSet::new();
    for _ in 0..100 {
        threads.insert(line_of(tcp(server.local_addr())));
    }
    assert!(threads.len() < 50, "{} threads for 100 clients in a row", threads.len());
    wait_until("the idle threads have ended", || serving_threads() == 1);
    assert!(line_of(tcp(server.local_addr())).starts_with("ThreadId"));
}

fn five_thousand_idle_connections_are_drained_at_once() {
    // The process has both ends of each connection. With fewer descriptors, fewer connections.
    let count = 5_000.min(raise_descriptor_limit().saturating_sub(200) / 2);
    let server = serve(Echo);
    let clients: Vec<_> = (0..count).map(|_| tcp(server.local_addr())).collect();
    // When the last one is served, all are.
    assert_eq!(ask(&clients[count - 1], "hello"), "hello");
    wait_until("each has a thread", || serving_threads() > count);
    let began = Instant::now();
    let report = server.stop(TIMEOUT);
    let took = began.elapsed();
    assert_eq!((report.drained, report.forced, report.stuck.len()), (count, 0, 0));
    eprintln!("{count} idle connections were drained in {took:?}");
    // It takes half a second on an idle machine, without optimization.
    assert!(took < TIMEOUT * 2 / 3, "{took:?}");
    wait_until("all threads have ended", || serving_threads() == 0);
}

fn all_senders_of_a_server_share_one_thread_which_ends_with_it() {
    let (senders, received) = mpsc::channel();
    let server = serve(handler_fn(move |connection| {
        senders.send(connection.sender(1_000_000)?)?;
        Ok(connection.read_line(&mut String::new()).map(drop)?)
    }));
    let clients: Vec<_> = (0..20).map(|_| tcp(server.local_addr())).collect();
    let senders: Vec<_> = clients.iter().map(|_| next(&received)).collect();
    for sender in &senders {
        sender.send("hello\n").unwrap();
    }
    for client in &clients {
        assert_eq!(line_of(client), "hello");
    }
    assert_eq!(threads_named("sender"), 1);
    drop(clients);
    server.stop(TIMEOUT);
    // The senders are still there.
    wait_until("the thread has ended", || threads_named("sender") == 0);
    drop(senders);
}
