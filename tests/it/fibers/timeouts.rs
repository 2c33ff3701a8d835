//! How long a fiber waits: it has one timer for whichever of its time limits ends first; and a stop
//! ends all waits by its deadline.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::*;

use super::on_one_worker;
use crate::support::clients::{ask, echoes, line_of, rest_of, tcp};
use crate::support::close_reasons::{LONG, Limits, SHORT, Visit, is_counted};
use crate::support::servers::{answers, serve_with};
use crate::support::system::raise_descriptor_limit;
use crate::support::{Gate, TIMEOUT, next, wait_until};

// Timers.

/// The next line, read with this timeout.
fn line_within(connection: &mut Connection, limit: Option<Duration>) -> io::Result<String> {
    connection.set_read_timeout(limit);
    let mut line = String::new();
    connection.read_line(&mut line)?;
    Ok(line)
}

#[test]
fn a_shorter_timeout_takes_effect_at_the_next_read() {
    let shortens = handler_fn(|connection| {
        let line = line_within(connection, Some(LONG))?;
        connection.write_all(line.as_bytes())?;
        line_within(connection, Some(SHORT))?;
        Ok(())
    });
    let server = on_one_worker((), shortens);
    let visit = Visit::begin(&server);
    // The fiber waits, with the long timeout.
    thread::sleep(SHORT);
    let begin = Instant::now();
    visit.echoes("hello");
    visit.ends_no_earlier(begin, SHORT);
    is_counted(&server.handle(), &[CloseReason::ReadTimeout]);
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn a_longer_timeout_takes_effect_at_the_next_read() {
    let (short, longer) = (4 * SHORT, 20 * SHORT);
    let extends = handler_fn(move |connection| {
        for limit in [Some(short), Some(longer), Some(short), None] {
            let line = line_within(connection, limit)?;
            connection.write_all(line.as_bytes())?;
        }
        line_within(connection, Some(longer))?;
        Ok(())
    });
    let server = on_one_worker((), extends);
    let visit = Visit::begin(&server);
    visit.echoes("at once");
    thread::sleep(2 * short);
    visit.echoes("in time");
    visit.echoes("at once again");
    thread::sleep(2 * short);
    let begin = Instant::now();
    visit.echoes("whenever");
    visit.ends_no_earlier(begin, longer);
    is_counted(&server.handle(), &[CloseReason::ReadTimeout]);
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn the_timeout_of_a_read_does_not_end_a_later_wait() {
    let server = on_one_worker(
        (),
        handler_fn(|connection| {
            let limit = 4 * SHORT;
            let line = line_within(connection, Some(limit))?;
            let began = Instant::now();
            Fibers::sleep(2 * limit)?;
            assert!(began.elapsed() >= 2 * limit, "{:?}", began.elapsed());
            let line = Fibers::offload(|| {
                thread::sleep(2 * limit);
                line.to_uppercase()
            })?;
            connection.write_all(line.as_bytes())?;
            // Neither does a timeout that was reached.
            let error = line_within(connection, Some(SHORT)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            writeln!(connection, "once more")?;
            let line = line_within(connection, Some(LONG))?;
            Ok(connection.write_all(line.as_bytes())?)
        }),
    );
    let client = tcp(server.local_addr());
    assert_eq!(ask(&client, "hello"), "HELLO");
    assert_eq!(line_of(&client), "once more");
    thread::sleep(2 * SHORT);
    assert_eq!(ask(&client, "here you are"), "here you are");
    is_counted(&server.handle(), &[CloseReason::Completed]);
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn each_of_many_fibers_has_its_own_timer() {
    const CLIENTS: u64 = 200;
    let (sender, timeouts) = mpsc::channel();
    let sender = Mutex::new(sender);
    let times_out = handler_fn(move |connection| {
        let limit = line_within(connection, Some(LONG))?;
        let limit = Duration::from_millis(limit.trim_end().parse()?);
        let began = Instant::now();
        let error = line_within(connection, Some(limit)).unwrap_err();
        assert!(
            matches!(Error::of(&error), Some(Error::ReadTimeout { limit: own, .. }) if *own == limit)
        );
        sender.lock().send((limit, began.elapsed()))?;
        Err(error.into())
    });
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let server = serve_with(builder, times_out);
    let clients: Vec<_> = (0..CLIENTS).map(|_| tcp(server.local_addr())).collect();
    for (mut client, number) in clients.iter().zip(0..) {
        // All different, in mixed order.
        let limit = 1 + number * 73 % CLIENTS;
        client.write_all(format!("{limit}\n").as_bytes()).unwrap();
    }
    for _ in &clients {
        let (limit, elapsed) = next(&timeouts);
        assert!(elapsed >= limit, "{elapsed:?} of {limit:?}");
    }
    is_counted(&server.handle(), &[CloseReason::ReadTimeout; CLIENTS as usize]);
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn each_kind_of_timeout_ends_its_fiber_while_others_go_on() {
    type Part = fn(Visit) -> Option<Visit>;
    let silent: Part = |visit| {
        let begin = visit.begin;
        visit.ends_no_earlier(begin, SHORT)
    };
    let drips: Part = |visit| visit.drips(b"x", SHORT);
    let does_not_read: Part = |visit| {
        visit.send("flood\n");
        wait_until("the connection has ended", || visit.server.stats().write_timeout == 1);
        assert!(visit.begin.elapsed() >= SHORT, "{:?}", visit.begin.elapsed());
        Some(visit)
    };
    let (idle, message, write, none) = (Some(SHORT), Some(SHORT), Some(SHORT), Limits::default());
    for (limits, part, reason) in [
        (Limits { idle, read: Some(LONG), ..none.clone() }, silent, CloseReason::IdleTimeout),
        (Limits { read: Some(SHORT), ..none.clone() }, silent, CloseReason::ReadTimeout),
        (Limits { message, read: Some(LONG), ..none.clone() }, drips, CloseReason::MessageTimeout),
        (Limits { write, ..none.clone() }, does_not_read, CloseReason::WriteTimeout),
    ] {
        let server = on_one_worker(
            limits,
            answers(|line, connection| {
                writeln!(connection, "{line}")?;
                let flood = if line == "flood" { 16 * 1024 * 1024 } else { 0 };
                Ok(connection.write_all(&vec![b'x'; flood])?)
            }),
        );
        let visit = Visit::begin(&server);
        let (over, is_over) = mpsc::channel();
        let address = server.local_addr().clone();
        let others = thread::spawn(move || {
            let mut served = 1;
            echoes(&address, "hello\n");
            while is_over.try_recv() == Err(mpsc::TryRecvError::Empty) {
                thread::sleep(Duration::from_millis(1));
                echoes(&address, "hello\n");
                served += 1;
            }
            served
        });
        let _visit = part(visit);
        over.send(()).unwrap();
        let mut reasons = vec![CloseReason::Eof; others.join().unwrap()];
        reasons.push(reason);
        is_counted(&server.handle(), &reasons);
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

// Stops.

/// Acknowledges a line, and waits in the way that it names, until the gate is open or the stop
/// begins.
fn waits(gate: Gate) -> impl StreamRequestHandler {
    answers(move |line, connection| {
        writeln!(connection, "{line}")?;
        connection.flush()?;
        let server = connection.server().clone();
        match line {
            "sleep" => {
                while !gate.is_open() {
                    Fibers::sleep(Duration::from_millis(1))?;
                }
            }
            "offload" => Fibers::offload(|| gate.pass())?,
            "sleep until the stop" => {
                while !server.is_stopping() {
                    Fibers::sleep(Duration::from_millis(1))?;
                }
            }
            "offload until the stop" => Fibers::offload(|| {
                wait_until("the stop begins", || server.is_stopping());
            })?,
            "write" => loop {
                connection.write_all(&[b'x'; 64 * 1024])?;
            },
            _ => return Ok(()),
        }
        Ok(writeln!(connection, "goodbye")?)
    })
}

#[test]
fn a_stop_waits_for_fibers_that_sleep_or_offload() {
    let server = on_one_worker((), waits(Gate::default()));
    let clients = ["read", "sleep until the stop", "offload until the stop"].map(|line| {
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, line), line);
        client
    });
    let report = server.stop(TIMEOUT);
    assert_eq!((report.drained, report.forced, report.stuck.len()), (3, 0, 0), "{report:?}");
    assert_eq!(clients.map(rest_of), [&b""[..], b"goodbye\n", b"goodbye\n"]);
}

#[test]
fn a_stop_drains_fibers_that_read_forces_those_that_write_and_reports_the_others() {
    let gate = Gate::default();
    let server = on_one_worker((), waits(gate.clone()));
    // More than can be offloaded at a time.
    let lines = ["read", "read", "write", "sleep"].into_iter().chain([&"offload"; 70].map(|l| *l));
    let clients = lines.map(|line| {
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, line), line);
        (line, client)
    });
    let clients: Vec<_> = clients.collect();
    let handle = server.handle();
    let (deadline, began) = (Duration::from_millis(1500), Instant::now());
    let report = handle.stop(deadline);
    // It does not wait for the threads of stuck handlers either.
    server.join().unwrap();
    let took = began.elapsed();
    assert!(took < deadline * 3 / 2, "{took:?}");
    // The one that writes, the one that sleeps, and those that wait for their turn to offload.
    assert_eq!((report.drained, report.forced), (2, 1 + 1 + 6), "{report:?}");
    assert_eq!(report.stuck.len(), 64, "{report:?}");
    for stuck in &report.stuck {
        let is_it = |(_, client): &&(&str, TcpStream)| {
            stuck.peer == Address::Tcp(client.local_addr().unwrap())
        };
        assert_eq!(clients.iter().find(is_it).unwrap().0, "offload");
        assert_eq!(stuck.activity, Activity::Offloading);
    }
    gate.open();
    wait_until("all have ended", || handle.stats().active == 0);
}

// Workers that are late.

#[test]
fn lines_that_arrived_in_time_are_answered_though_the_worker_is_late() {
    // One call of `epoll_wait` reports 512 streams.
    const CLIENTS: usize = 700;
    let timeout = Duration::from_secs(3);
    raise_descriptor_limit();
    let limits = Limits { idle: Some(timeout), ..Limits::default() };
    let blocks = answers(move |line, connection| {
        if line == "block" {
            thread::sleep(timeout + timeout / 4);
        }
        Ok(writeln!(connection, "{line}")?)
    });
    let server = on_one_worker(limits, blocks);
    let clients: Vec<_> = (0..CLIENTS).map(|_| tcp(server.local_addr())).collect();
    clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
    for (mut client, line) in
        clients.iter().zip(std::iter::once("block\n").chain(std::iter::repeat("more\n")))
    {
        client.write_all(line.as_bytes()).unwrap();
        if line == "block\n" {
            // The worker is blocked before the others send.
            thread::sleep(SHORT);
        }
    }
    assert_eq!(line_of(&clients[0]), "block");
    clients[1..].iter().for_each(|client| assert_eq!(line_of(client), "more"));
    assert_eq!(server.stats().idle_timeout, 0, "{:?}", server.stats());
    drop(clients);
    assert!(server.stop(TIMEOUT).is_clean());
}
