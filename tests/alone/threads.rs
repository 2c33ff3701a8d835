//! What is only true of `Threading`: a thread for each request, used again, and gone in the end.


use std::collections::HashSet;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use common::{TIMEOUT, ask, bounded, echoes, serving_threads, tcp, wait_until};
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, Rlimit};
use socketserver::services::Echo;
use socketserver::*;

/// These tests count the threads of the process, and would count those of each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}

#[test]
fn finished_threads_are_not_kept() {
    let mixin = Threading::new().idle_time(Duration::ZERO);
    let server = ThreadingTcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Echo).unwrap();
    let server = server.spawn().unwrap();
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

#[test]
fn a_thread_that_is_done_serves_the_next_client_and_leaves_after_its_idle_time() {
    let name = handler_fn(|connection| Ok(writeln!(connection, "{:?}", thread::current().id())?));
    let mixin = Threading::new().idle_time(Duration::from_millis(500));
    let server = ThreadingTcpServer::builder().mixin(mixin).bind("127.0.0.1:0", name).unwrap();
    let server = server.spawn().unwrap();
    let mut threads = HashSet::new();
    for _ in 0..100 {
        threads.insert(common::line_of(tcp(server.local_addr())));
    }
    assert!(threads.len() < 50, "{} threads for 100 clients in a row", threads.len());
    wait_until("the idle ones have left", || serving_threads() == 1);
    assert!(common::line_of(tcp(server.local_addr())).starts_with("ThreadId"));
}

/// As many descriptors as this process may have at all; says how many.
fn raise_descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, most).unwrap();
    limit.maximum.map_or(usize::MAX, |most| most as usize)
}

#[test]
fn five_thousand_idle_connections_are_drained_at_once() {
    // Both ends of each are here; where there are fewer descriptors, fewer connections.
    let count = 5_000.min(raise_descriptor_limit().saturating_sub(200) / 2);
    let server = serve(Echo);
    let clients: Vec<_> = (0..count).map(|_| tcp(server.local_addr())).collect();
    // The last one is there: all are.
    assert_eq!(ask(&clients[count - 1], "hello"), "hello");
    wait_until("each has a thread", || serving_threads() > count);
    let began = Instant::now();
    let report = server.stop(TIMEOUT);
    let took = began.elapsed();
    assert_eq!((report.drained, report.forced, report.stuck.len()), (count, 0, 0));
    eprintln!("{count} idle connections were drained in {took:?}");
    // It takes half a second on a quiet machine, even without optimization.
    assert!(took < TIMEOUT * 2 / 3, "{took:?}");
    wait_until("the threads are gone", || serving_threads() == 0);
}
