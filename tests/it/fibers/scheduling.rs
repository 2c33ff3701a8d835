//! Many connections on a few threads: which fiber runs when, on which worker, and how little one can
//! affect the others.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::*;

use super::on_one_worker;
use crate::support::clients::{ask, echoes, line_of, rest_of, tcp, unix};
use crate::support::servers::{answers, serve_at, serve_with};
use crate::support::{Gate, TIMEOUT, abstract_name, wait_until};

fn echo(connection: &mut Connection) -> HandlerResult {
    StreamRequestHandler::handle(&Echo, connection)
}

// Fairness.

/// How long the handler takes for each step, so that its client is always faster.
const STEP: Duration = Duration::from_micros(20);

/// Receives or sends without end, if the first line asks for it; else echoes.
fn floods(connection: &mut Connection) -> HandlerResult {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    match line.trim_end() {
        "receive" => {
            while connection.read(&mut [0; 512])? > 0 {
                thread::sleep(STEP);
            }
        }
        "send" => loop {
            connection.write_all(b"x")?;
            connection.flush()?;
            thread::sleep(STEP);
        },
        _ => connection.write_all(line.as_bytes())?,
    }
    echo(connection)
}

#[test]
fn a_client_that_sends_or_receives_without_end_does_not_starve_others() {
    for flood in ["receive", "send"] {
        let server = on_one_worker((), handler_fn(floods));
        let mut flooder = tcp(server.local_addr());
        let socket = flooder.try_clone().unwrap();
        flooder.write_all(format!("{flood}\n").as_bytes()).unwrap();
        let transferred = Arc::new(AtomicU64::new(0));
        let count = transferred.clone();
        let flooder = thread::spawn(move || {
            let mut bytes = [b'x'; 64 * 1024];
            let mut transfer = || match flood {
                "receive" => flooder.write(&bytes),
                _ => flooder.read(&mut bytes),
            };
            while let Ok(length @ 1..) = transfer() {
                count.fetch_add(length as u64, Ordering::SeqCst);
            }
        });
        wait_until("bytes are transferred", || transferred.load(Ordering::SeqCst) > 0);
        let before = transferred.load(Ordering::SeqCst);
        let client = tcp(server.local_addr());
        let ping = || assert_eq!(ask(&client, "ping"), "ping");
        (0..200).for_each(|_| ping());
        wait_until("more bytes are transferred", || {
            ping();
            transferred.load(Ordering::SeqCst) > before
        });
        server.stop(Duration::from_millis(100));
        // Its write may be waiting for a peer that no longer reads.
        let _ = socket.shutdown(Shutdown::Both);
        flooder.join().unwrap();
    }
}

#[test]
fn connections_are_spread_over_the_workers() {
    const CLIENTS: usize = 200;
    let thread_then_echo = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        writeln!(connection, "{:?}", thread::current().id())?;
        echo(connection)
    });
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let server = serve_with(builder, thread_then_echo);
    let mut shares = HashMap::new();
    // One after the other: without spreading, all of them could be accepted by one idle worker.
    let clients = (0..CLIENTS).map(|_| {
        let client = tcp(server.local_addr());
        *shares.entry(ask(&client, "who are you?")).or_insert(0) += 1;
        client
    });
    let _clients: Vec<_> = clients.collect();
    assert_eq!(shares.len(), 2, "{shares:?}");
    assert!(shares.values().all(|share| *share <= CLIENTS * 6 / 10), "{shares:?}");
    assert_eq!(server.stop(TIMEOUT).drained, CLIENTS);
}

#[test]
fn a_blocked_worker_gets_no_new_connections() {
    let gate = Gate::default();
    let blocks = {
        let gate = gate.clone();
        let answers = answers(move |line, connection| {
            writeln!(connection, "{line}")?;
            connection.flush()?;
            if line == "block" {
                gate.pass();
            }
            Ok(())
        });
        handler_fn(move |connection| {
            // Many of these block a worker for a while too, which must not make the other preferred.
            thread::sleep(Duration::from_millis(3));
            answers.handle(connection)
        })
    };
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let server = serve_with(builder, blocks);
    let blocked = tcp(server.local_addr());
    assert_eq!(ask(&blocked, "block"), "block");
    // A worker counts as blocked when its iteration has lasted for some milliseconds.
    thread::sleep(Duration::from_millis(50));
    let others: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
    others.iter().for_each(|other| assert_eq!(ask(other, "hello"), "hello"));
    gate.open();
    assert_eq!(ask(&blocked, "hello"), "hello");
    assert_eq!(server.stop(TIMEOUT).drained, 51);
}

// Panics.

#[test]
fn a_panic_ends_its_own_connection_only() {
    let panics = answers(|line, connection| {
        assert_ne!(line, "panic", "as it should");
        Ok(writeln!(connection, "{line}")?)
    });
    let server = on_one_worker((), panics);
    let other = tcp(server.local_addr());
    for round in 1..=20 {
        assert_eq!(ask(&other, "before"), "before");
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, "hello"), "hello");
        assert_eq!(ask(&client, "panic"), "");
        assert_eq!(ask(&other, "after"), "after");
        drop(client);
        wait_until("it is counted", || server.stats().panicked == round);
    }
    assert!(server.stop(TIMEOUT).is_clean());
}

/// Waits in every way that there is when it is dropped.
struct WaitsOnDrop<'a>(&'a mut Connection);

impl Drop for WaitsOnDrop<'_> {
    fn drop(&mut self) {
        let mut line = String::new();
        writeln!(self.0, "goodbye").unwrap();
        self.0.read_line(&mut line).unwrap();
        Fibers::sleep(Duration::from_millis(1)).unwrap();
        let line = Fibers::offload(|| line.to_uppercase()).unwrap();
        self.0.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn a_drop_during_a_panic_may_wait_for_the_client() {
    let panics = answers(|line, connection| {
        if line == "panic" {
            let _guard = WaitsOnDrop(connection);
            panic!("as it should");
        }
        Ok(writeln!(connection, "{}", thread::panicking())?)
    });
    let server = on_one_worker((), panics);
    let mut other = tcp(server.local_addr());
    assert_eq!(ask(&other, "panicking?"), "false");
    for _ in 0..3 {
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, "panic"), "goodbye");
        // This one is served on the same thread while the panic unwinds the other fiber.
        other.write_all(b"panicking?\n").unwrap();
        assert_eq!(ask(&client, "bye"), "BYE");
        assert_eq!(rest_of(&client), b"");
        assert_eq!(line_of(&other), "false");
    }
    wait_until("all are counted", || server.stats().panicked == 3);
    assert!(server.stop(TIMEOUT).is_clean());
}

// Limits.

#[test]
fn a_connection_without_memory_for_a_stack_is_refused() {
    const NO: &[u8] = b"no room for you\n";
    for size in [1 << 60, usize::MAX] {
        let builder = FiberTcpServer::builder().mixin(Fibers::new().stack_size(size));
        let builder = builder.overload(Overload::Refuse(NO.into()));
        let server = serve_with(builder, Echo);
        for refused in 1..=5 {
            assert_eq!(rest_of(tcp(server.local_addr())), NO);
            wait_until("the refusal is counted", || server.stats().refused == refused);
        }
        wait_until("all have ended", || server.stats().active == 0);
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

// Elsewhere the acceptor may accept before the connection has ended.
#[cfg(all(target_os = "linux", not(socketserver_portable)))]
#[test]
fn the_stack_of_a_connection_that_has_ended_is_used_again() {
    let stack_address = answers(|line, connection| Ok(writeln!(connection, "{:p}", &line)?));
    let server = on_one_worker((), stack_address);
    let address = || ask(&tcp(server.local_addr()), "where?");
    let first = address();
    (0..20).for_each(|_| assert_eq!(address(), first));
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn connections_over_max_fibers_wait_in_the_backlog() {
    let builder = FiberTcpServer::builder().mixin(Fibers::new().max_fibers(2));
    let server = serve_with(builder, Echo);
    let mut clients: Vec<_> = (0..2).map(|_| tcp(server.local_addr())).collect();
    for _ in 0..10 {
        clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
        let third = tcp(server.local_addr());
        (&third).write_all(b"third\n").unwrap();
        // No event tells that the third is not accepted; the workers have had time to accept it.
        clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
        assert_eq!(server.stats().active, 2);
        clients.remove(0);
        assert_eq!(line_of(&third), "third");
        clients.push(third);
    }
    assert_eq!(server.stop(TIMEOUT).drained, 2);
}

#[test]
fn connections_one_after_the_other_are_served_with_max_connections_1() {
    for workers in [1, 2, 4] {
        let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(workers));
        let builder = builder.max_connections(1).overload(Overload::Defer);
        let server = serve_with(builder, Echo);
        let mut current = tcp(server.local_addr());
        for _ in 0..50 {
            assert_eq!(ask(&current, "current"), "current");
            let next = tcp(server.local_addr());
            // Its arrival wakes a worker, which cannot accept it yet. No event tells of that.
            thread::sleep(Duration::from_millis(1));
            current = next;
        }
        drop(current);
        for _ in 0..50 {
            assert_eq!(ask(&tcp(server.local_addr()), "next"), "next");
        }
        let waiting: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
        for client in waiting {
            assert_eq!(ask(&client, "waiting"), "waiting");
        }
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.refused, stats.accept_errors), (151, 0, 0));
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

// Other ways of serving.

#[test]
fn handle_request_accepts_exactly_one() {
    let time = Duration::from_millis(30);
    // The thread that watches for slow handlers does not end the wait.
    let mixin = Fibers::new().slow_handler_warning(Duration::from_millis(1));
    let builder = FiberTcpServer::builder().mixin(mixin).request_timeout(time);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap();
    let handle = server.handle();
    let clients: Vec<_> = (0..5).map(|_| tcp(server.local_addr())).collect();
    for (client, accepted) in clients.iter().zip(1..) {
        assert_eq!(server.handle_request(), Handled::Request);
        assert_eq!(ask(client, "hello"), "hello");
        assert_eq!(handle.stats().accepted, accepted);
    }
    let began = Instant::now();
    assert_eq!(server.handle_request(), Handled::TimedOut);
    assert!(began.elapsed() >= time, "{:?}", began.elapsed());
    handle.shutdown();
    assert_eq!(server.handle_request(), Handled::ShutDown);
    clients.iter().for_each(|client| assert_eq!(rest_of(client), b""));
}

#[test]
fn dropping_a_server_ends_connections_whose_fibers_wait() {
    let drained = |handle: ServerHandle, clients: &[TcpStream]| {
        assert_eq!(handle.stats().active, 0);
        // The stop is over, and this returns its report.
        let report = handle.stop(Duration::ZERO);
        assert_eq!((report.drained, report.forced, report.stuck.len()), (clients.len(), 0, 0));
        clients.iter().for_each(|client| assert_eq!(rest_of(client), b""));
    };
    let connect = |handle: &ServerHandle| tcp(handle.local_addr());

    let server = FiberTcpServer::bind("127.0.0.1:0", Echo).unwrap();
    let handle = server.handle();
    let clients = [(); 20].map(|()| connect(&handle));
    clients.iter().for_each(|client| {
        assert_eq!(server.handle_request(), Handled::Request);
        assert_eq!(ask(client, "hello"), "hello");
    });
    drop(server);
    drained(handle, &clients);

    let server = serve_with(FiberTcpServer::builder(), Echo);
    let handle = server.handle();
    let clients = [(); 20].map(|()| connect(&handle));
    clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
    drop(server);
    drained(handle, &clients);
}

/// Counts the threads that have ended.
struct Thread;

static ENDED: AtomicU64 = AtomicU64::new(0);

impl Drop for Thread {
    fn drop(&mut self) {
        ENDED.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    static THREAD: Thread = const { Thread };
}

#[test]
fn a_stop_returns_after_its_threads_have_ended() {
    let uses_its_thread = answers(|line, connection| {
        THREAD.with(|_| ());
        Ok(writeln!(connection, "{line}")?)
    });
    let uses_its_thread = Arc::new(uses_its_thread);
    for stopped in 1..=200 {
        let builder = FiberUnixStreamServer::builder().mixin(Fibers::new().workers(1));
        let address = format!("unix:{}", abstract_name());
        let server = serve_at(&address, builder, uses_its_thread.clone());
        let client = unix(server.local_addr());
        assert_eq!(ask(&client, "hello"), "hello");
        assert!(server.stop(TIMEOUT).is_clean());
        assert_eq!(ENDED.load(Ordering::SeqCst), stopped);
    }
}

#[test]
fn a_server_may_be_spawned_after_handle_request() {
    let server = FiberTcpServer::bind("127.0.0.1:0", Echo).unwrap();
    let first = tcp(server.local_addr());
    assert_eq!(server.handle_request(), Handled::Request);
    let server = server.spawn().unwrap();
    for _ in 0..20 {
        echoes(server.local_addr(), "hello\n");
    }
    assert_eq!(ask(&first, "still here"), "still here");
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn a_program_may_choose_fibers_by_a_flag() {
    let is_on_a_fiber = handler_fn(|connection| {
        let here = thread::current().id();
        let is_offloaded = Fibers::offload(|| thread::current().id())? != here;
        Ok(writeln!(connection, "{is_offloaded}")?)
    });
    let mixin: Box<dyn Spawnable> = Box::new(Fibers::new().workers(1));
    let server = serve_with(TcpServer::builder().mixin(mixin), is_on_a_fiber);
    assert_eq!(line_of(tcp(server.local_addr())), "true");
    assert!(server.stop(TIMEOUT).is_clean());

    let mixin: Box<dyn Mixin> = Box::new(Fibers::new().workers(1));
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", is_on_a_fiber).unwrap();
    let handle = server.handle();
    let server = thread::spawn(|| server.serve_forever());
    assert_eq!(line_of(tcp(handle.local_addr())), "true");
    assert!(handle.stop(TIMEOUT).is_clean());
    server.join().unwrap().unwrap();
}

#[test]
fn there_is_a_server_with_fibers_for_every_transport() {
    let stream = format!("unix:{}", abstract_name());
    let datagram = format!("unixgram:{}", abstract_name());
    let servers = [
        serve_with(FiberTcpServer::builder(), Echo),
        serve_with(FiberUdpServer::builder(), Echo),
        serve_at(&stream, FiberUnixStreamServer::builder(), Echo),
        serve_at(&datagram, FiberUnixDatagramServer::builder(), Echo),
    ];
    for server in servers {
        (0..20).for_each(|number| echoes(server.local_addr(), &format!("number {number}\n")));
        assert!(server.stop(TIMEOUT).is_clean());
    }
}
