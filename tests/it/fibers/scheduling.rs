//! Many requests on a few threads: who gets a turn, where each is served, and what one of them
//! cannot do to the others.

mod common;
#[path = "common/fibers.rs"]
mod fibers;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    PATIENCE, abstract_name, ask, bounded, echoes, line_of, rest_of, tcp, unix, wait_until,
};
use fibers::{Gate, answers, on_one_worker};
use socketserver::services::Echo;
use socketserver::*;

fn echo(connection: &mut Connection) -> HandlerResult {
    StreamRequestHandler::handle(&Echo, connection)
}

// Turns.

/// What the least that a handler does takes, so that its client is always ahead of it.
const MOMENT: Duration = Duration::from_micros(20);

/// Reads a word of its client's: to swallow or to pour without end, or else to echo.
fn floods(connection: &mut Connection) -> HandlerResult {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    match line.trim_end() {
        "swallow" => {
            while connection.read(&mut [0; 512])? > 0 {
                thread::sleep(MOMENT);
            }
        }
        "pour" => loop {
            connection.write_all(b"x")?;
            connection.flush()?;
            thread::sleep(MOMENT);
        },
        _ => connection.write_all(line.as_bytes())?,
    }
    echo(connection)
}

#[test]
fn whoever_never_ceases_to_send_or_to_receive_does_not_starve_the_others() {
    let _bound = bounded();
    for flood in ["swallow", "pour"] {
        let server = on_one_worker((), handler_fn(floods));
        let mut flooder = tcp(server.local_addr());
        let socket = flooder.try_clone().unwrap();
        flooder.write_all(format!("{flood}\n").as_bytes()).unwrap();
        let flown = Arc::new(AtomicU64::new(0));
        let count = flown.clone();
        let flooder = thread::spawn(move || {
            let mut bytes = [b'x'; 64 * 1024];
            let mut flow = || match flood {
                "swallow" => flooder.write(&bytes),
                _ => flooder.read(&mut bytes),
            };
            while let Ok(length @ 1..) = flow() {
                count.fetch_add(length as u64, Ordering::SeqCst);
            }
        });
        wait_until("it flows", || flown.load(Ordering::SeqCst) > 0);
        let before = flown.load(Ordering::SeqCst);
        let client = tcp(server.local_addr());
        let ping = || assert_eq!(ask(&client, "ping"), "ping");
        (0..200).for_each(|_| ping());
        wait_until("it flows all the same", || {
            ping();
            flown.load(Ordering::SeqCst) > before
        });
        server.stop(Duration::from_millis(100));
        // It may wait for room that nobody makes any more, and not hear of the end for a while.
        let _ = socket.shutdown(Shutdown::Both);
        flooder.join().unwrap();
    }
}

#[test]
fn each_worker_has_its_share_of_the_connections() {
    let _bound = bounded();
    const CLIENTS: usize = 200;
    let tells_its_thread = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        writeln!(connection, "{:?}", thread::current().id())?;
        echo(connection)
    });
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let server = builder.bind("127.0.0.1:0", tells_its_thread).unwrap().spawn().unwrap();
    let mut shares = HashMap::new();
    // One after the other, so that it is always the same worker that has nothing else to do.
    let clients = (0..CLIENTS).map(|_| {
        let client = tcp(server.local_addr());
        *shares.entry(ask(&client, "who are you?")).or_insert(0) += 1;
        client
    });
    let _clients: Vec<_> = clients.collect();
    assert_eq!(shares.len(), 2, "{shares:?}");
    assert!(shares.values().all(|share| *share <= CLIENTS * 6 / 10), "{shares:?}");
    assert_eq!(server.stop(PATIENCE).drained, CLIENTS);
}

#[test]
fn a_worker_that_is_held_up_gets_no_newcomers() {
    let _bound = bounded();
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
            // Many of them keep a worker for a while too, but are no reason to prefer that one.
            thread::sleep(Duration::from_millis(3));
            answers.handle(connection)
        })
    };
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let server = builder.bind("127.0.0.1:0", blocks).unwrap().spawn().unwrap();
    let held_up = tcp(server.local_addr());
    assert_eq!(ask(&held_up, "block"), "block");
    // Before that it might be about to go on.
    thread::sleep(Duration::from_millis(50));
    let others: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
    others.iter().for_each(|other| assert_eq!(ask(other, "hello"), "hello"));
    gate.open();
    assert_eq!(ask(&held_up, "hello"), "hello");
    assert_eq!(server.stop(PATIENCE).drained, 51);
}

// Panics.

#[test]
fn a_panic_ends_its_own_connection_and_no_other_of_its_worker() {
    let _bound = bounded();
    let panics = answers(|line, connection| {
        assert_ne!(line, "panic", "as it should");
        Ok(writeln!(connection, "{line}")?)
    });
    let server = on_one_worker((), panics);
    let bystander = tcp(server.local_addr());
    for round in 1..=20 {
        assert_eq!(ask(&bystander, "before"), "before");
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, "hello"), "hello");
        assert_eq!(ask(&client, "panic"), "");
        assert_eq!(ask(&bystander, "after"), "after");
        assert_eq!(server.stats().panicked, round);
    }
    assert!(server.stop(PATIENCE).is_clean());
}

/// Uses a connection, in every way that may have to wait, when it goes out of scope.
struct Farewell<'a>(&'a mut Connection);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let mut line = String::new();
        writeln!(self.0, "goodbye").unwrap();
        self.0.read_line(&mut line).unwrap();
        Fibers::sleep(Duration::from_millis(1));
        let line = Fibers::offload(|| line.to_uppercase());
        self.0.write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn what_a_panic_drops_may_use_the_connection() {
    let _bound = bounded();
    let panics = answers(|line, connection| {
        if line == "panic" {
            let _farewell = Farewell(connection);
            panic!("as it should");
        }
        Ok(writeln!(connection, "{}", thread::panicking())?)
    });
    let server = on_one_worker((), panics);
    let mut bystander = tcp(server.local_addr());
    assert_eq!(ask(&bystander, "is anybody panicking?"), "false");
    for _ in 0..3 {
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, "panic"), "goodbye");
        // Served on the same thread, but not in the middle of that panic.
        bystander.write_all(b"is anybody panicking?\n").unwrap();
        assert_eq!(ask(&client, "bye"), "BYE");
        assert_eq!(rest_of(&client), b"");
        assert_eq!(line_of(&bystander), "false");
    }
    assert_eq!(server.stats().panicked, 3);
    assert!(server.stop(PATIENCE).is_clean());
}

// Limits.

#[test]
fn a_stack_that_cannot_be_had_is_a_refusal() {
    let _bound = bounded();
    const NO: &[u8] = b"no room for you\n";
    for size in [1 << 60, usize::MAX] {
        let builder = FiberTcpServer::builder().mixin(Fibers::new().stack_size(size));
        let builder = builder.overload(Overload::Refuse(NO.into()));
        let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
        for refused in 1..=5 {
            assert_eq!(rest_of(tcp(server.local_addr())), NO);
            wait_until("it is counted", || server.stats().refused == refused);
        }
        wait_until("they are gone", || server.stats().active == 0);
        assert!(server.stop(PATIENCE).is_clean());
    }
}

#[test]
fn whoever_comes_next_has_the_stack_of_who_has_left() {
    let _bound = bounded();
    let tells_where = answers(|line, connection| Ok(writeln!(connection, "{:p}", &line)?));
    let server = on_one_worker((), tells_where);
    let where_it_is = || ask(&tcp(server.local_addr()), "where?");
    let first = where_it_is();
    (0..20).for_each(|_| assert_eq!(where_it_is(), first));
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn more_than_max_fibers_wait_in_the_backlog() {
    let _bound = bounded();
    let builder = FiberTcpServer::builder().mixin(Fibers::new().max_fibers(2));
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let mut clients: Vec<_> = (0..2).map(|_| tcp(server.local_addr())).collect();
    for _ in 0..10 {
        clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
        let third = tcp(server.local_addr());
        (&third).write_all(b"third\n").unwrap();
        // Nothing tells of what does not happen; whoever might let it in has had time to.
        clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
        assert_eq!(server.stats().active, 2);
        clients.remove(0);
        assert_eq!(line_of(&third), "third");
        clients.push(third);
    }
    assert_eq!(server.stop(PATIENCE).drained, 2);
}

#[test]
fn one_place_is_enough_for_all_who_come_one_after_the_other() {
    let _bound = bounded();
    for workers in [1, 2, 4] {
        let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(workers));
        let builder = builder.max_connections(1).overload(Overload::Defer);
        let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
        let mut here = tcp(server.local_addr());
        for _ in 0..50 {
            assert_eq!(ask(&here, "I am here"), "I am here");
            let next = tcp(server.local_addr());
            // A worker has been woken for it, in vain.
            thread::sleep(Duration::from_millis(1));
            here = next;
        }
        drop(here);
        for _ in 0..50 {
            assert_eq!(ask(&tcp(server.local_addr()), "I am new"), "I am new");
        }
        let waiting: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
        for client in waiting {
            assert_eq!(ask(&client, "I have waited"), "I have waited");
        }
        let stats = server.stats();
        assert_eq!((stats.accepted, stats.refused, stats.accept_errors), (151, 0, 0));
        assert!(server.stop(PATIENCE).is_clean());
    }
}

// Serving in other ways.

#[test]
fn handle_request_serves_exactly_one() {
    let _bound = bounded();
    let time = Duration::from_millis(30);
    // Whoever looks after the handlers meanwhile does not end the wait.
    let mixin = Fibers::new().longest_turn(Duration::from_millis(1));
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
fn dropping_a_server_ends_those_who_are_parked() {
    let _bound = bounded();
    let drained = |handle: ServerHandle, clients: &[TcpStream]| {
        assert_eq!(handle.stats().active, 0);
        // It is over: this only asks how it was.
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

    let server = FiberTcpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let handle = server.handle();
    let clients = [(); 20].map(|()| connect(&handle));
    clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
    drop(server);
    drained(handle, &clients);
}

/// Ends with its thread.
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
fn a_stop_returns_when_its_threads_have_ended() {
    let _bound = bounded();
    let uses_its_thread = answers(|line, connection| {
        THREAD.with(|_| ());
        Ok(writeln!(connection, "{line}")?)
    });
    let uses_its_thread = Arc::new(uses_its_thread);
    for stopped in 1..=200 {
        let builder = FiberUnixStreamServer::builder().mixin(Fibers::new().workers(1));
        let server = builder.bind(format!("unix:{}", abstract_name()), uses_its_thread.clone());
        let server = server.unwrap().spawn().unwrap();
        let client = unix(server.local_addr());
        assert_eq!(ask(&client, "hello"), "hello");
        assert!(server.stop(PATIENCE).is_clean());
        assert_eq!(ENDED.load(Ordering::SeqCst), stopped);
    }
}

#[test]
fn a_server_that_was_asked_for_one_request_serves_on() {
    let _bound = bounded();
    let server = FiberTcpServer::bind("127.0.0.1:0", Echo).unwrap();
    let first = tcp(server.local_addr());
    assert_eq!(server.handle_request(), Handled::Request);
    let server = server.spawn().unwrap();
    for _ in 0..20 {
        echoes(server.local_addr(), "hello\n");
    }
    assert_eq!(ask(&first, "still here"), "still here");
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn a_program_may_choose_fibers_by_a_flag() {
    let _bound = bounded();
    let is_on_a_fiber = handler_fn(|connection| {
        let here = thread::current().id();
        let is_elsewhere = Fibers::offload(|| thread::current().id()) != here;
        Ok(writeln!(connection, "{is_elsewhere}")?)
    });
    let mixin: Box<dyn Spawnable> = Box::new(Fibers::new().workers(1));
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", is_on_a_fiber);
    let server = server.unwrap().spawn().unwrap();
    assert_eq!(line_of(tcp(server.local_addr())), "true");
    assert!(server.stop(PATIENCE).is_clean());

    let mixin: Box<dyn Mixin> = Box::new(Fibers::new().workers(1));
    let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", is_on_a_fiber).unwrap();
    let handle = server.handle();
    let server = thread::spawn(|| server.serve_forever());
    assert_eq!(line_of(tcp(handle.local_addr())), "true");
    assert!(handle.stop(PATIENCE).is_clean());
    server.join().unwrap().unwrap();
}

#[test]
fn there_is_a_server_with_fibers_for_every_transport() {
    let _bound = bounded();
    let (stream, datagram) = (abstract_name(), abstract_name());
    let servers = [
        FiberTcpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap(),
        FiberUdpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap(),
        FiberUnixStreamServer::bind(format!("unix:{stream}"), Echo).unwrap().spawn().unwrap(),
        FiberUnixDatagramServer::bind(format!("unixgram:{datagram}"), Echo)
            .unwrap()
            .spawn()
            .unwrap(),
    ];
    for server in servers {
        (0..20).for_each(|number| echoes(server.local_addr(), &format!("number {number}\n")));
        assert!(server.stop(PATIENCE).is_clean());
    }
}
