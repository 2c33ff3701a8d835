//! What a fiber may wait for while the others of its worker go on: offloaded work, and time; and a
//! connection that another thread uses.

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::*;

use super::on_one_worker;
use crate::support::clients::{ask, datagram_of, line_of, rest_of, tcp, udp, unixgram};
use crate::support::recorder::{Recorder, next_error};
use crate::support::servers::{answers, serve, serve_at, serve_with};
use crate::support::{Gate, TIMEOUT, abstract_name, next, wait_until};

const SHORT: Duration = Duration::from_millis(60);

// Offloaded work.

#[test]
fn offloaded_work_runs_on_another_thread_and_may_borrow_while_other_fibers_go_on() {
    let gate = Gate::default();
    let (worker, offloaded) = (mpsc::channel(), mpsc::channel());
    let (senders, may_go) = (Mutex::new((worker.0, offloaded.0)), gate.clone());
    let server = on_one_worker(
        (),
        answers(move |line, connection| {
            let (worker, offloaded) = senders.lock().clone();
            worker.send(thread::current().id())?;
            let mut answer = vec![line];
            if line == "offload" {
                let length = Fibers::offload(|| {
                    offloaded.send(thread::current().id()).unwrap();
                    may_go.pass();
                    answer.push("is done");
                    answer.len()
                })?;
                assert_eq!(length, 2);
            }
            worker.send(thread::current().id())?;
            Ok(writeln!(connection, "{}", answer.join(" "))?)
        }),
    );
    let (mut client, other) = (tcp(server.local_addr()), tcp(server.local_addr()));
    client.write_all(b"offload\n").unwrap();
    let helper = next(&offloaded.1);
    assert_eq!(ask(&other, "hello"), "hello");
    assert!(!gate.is_open());
    gate.open();
    assert_eq!(line_of(&client), "offload is done");
    let worker: Vec<_> = worker.1.try_iter().collect();
    assert!(worker.len() == 4 && worker.iter().all(|thread| *thread == worker[0]), "{worker:?}");
    assert_ne!(helper, worker[0]);
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn a_panic_of_offloaded_work_continues_in_the_handler() {
    let (handler, calls) = Recorder::new(answers(|line, connection| {
        let length = Fibers::offload(|| {
            assert_ne!(line, "panic", "as it should");
            line.len()
        })?;
        Ok(writeln!(connection, "{length}")?)
    }));
    let server = on_one_worker((), handler);
    let (client, other) = (tcp(server.local_addr()), tcp(server.local_addr()));
    assert_eq!(ask(&client, "hello"), "5");
    assert_eq!(ask(&client, "panic"), "");
    let error = next_error(&calls);
    assert!(error.contains("as it should"), "{error}");
    assert_eq!(ask(&other, "goodbye"), "7");
    drop(other);
    wait_until("both connections have ended", || server.stats().finished == 2);
    let stats = server.stats();
    assert_eq!((stats.panicked, stats.eof), (1, 1), "{stats:?}");
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn sixty_four_jobs_are_offloaded_at_a_time_and_the_others_wait() {
    const AT_A_TIME: usize = 64;
    let gate = Gate::default();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (gate, now, most) = (gate.clone(), now.clone(), most.clone());
        answers(move |line, connection| {
            if line == "offload" {
                Fibers::offload(|| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    gate.pass();
                    now.fetch_sub(1, Ordering::SeqCst);
                })?;
            }
            Ok(writeln!(connection, "{line}")?)
        })
    };
    let server = on_one_worker((), handler);
    let clients: Vec<_> = (0..3 * AT_A_TIME).map(|_| tcp(server.local_addr())).collect();
    for mut client in &clients {
        client.write_all(b"offload\n").unwrap();
    }
    wait_until("as many as may are offloaded", || now.load(Ordering::SeqCst) == AT_A_TIME);
    // A fiber that offloads nothing does not wait.
    assert_eq!(ask(&tcp(server.local_addr()), "hello"), "hello");
    gate.open();
    clients.iter().for_each(|client| assert_eq!(line_of(client), "offload"));
    assert_eq!(most.load(Ordering::SeqCst), AT_A_TIME);
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn many_fibers_that_offload_again_and_again_all_come_to_an_end() {
    let server = on_one_worker(
        (),
        answers(|line, connection| {
            let numbers = (0..200).map(|number| Fibers::offload(|| number));
            let sum = numbers.sum::<socketserver::Result<u64>>()?;
            Ok(writeln!(connection, "{line} {sum}")?)
        }),
    );
    let clients: Vec<_> = (0..150).map(|_| tcp(server.local_addr())).collect();
    for mut client in &clients {
        client.write_all(b"sum\n").unwrap();
    }
    clients.iter().for_each(|client| assert_eq!(line_of(client), "sum 19900"));
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn offload_within_offloaded_work_or_outside_of_a_fiber_is_a_plain_call() {
    let current = || thread::current().id();
    assert_eq!(Fibers::offload(current).unwrap(), current());
    let offloads = handler_fn(move |connection| {
        let threads = Fibers::offload(|| (current(), Fibers::offload(current)))?;
        assert_eq!(threads.0, threads.1?);
        Ok(writeln!(connection, "{}", threads.0 != current())?)
    });
    let server = on_one_worker((), offloads);
    assert_eq!(line_of(tcp(server.local_addr())), "true");
    assert!(server.stop(TIMEOUT).is_clean());
    let server = serve(offloads);
    assert_eq!(line_of(tcp(server.local_addr())), "false");
    assert!(server.stop(TIMEOUT).is_clean());
}

// Time.

#[test]
fn other_fibers_go_on_while_one_sleeps() {
    let gate = Gate::default();
    let server = on_one_worker(
        (),
        answers(move |line, connection| {
            match line {
                "open" => gate.open(),
                _ => {
                    while !gate.is_open() {
                        Fibers::sleep(Duration::from_millis(1))?;
                    }
                }
            }
            Ok(writeln!(connection, "{line}")?)
        }),
    );
    let mut sleeper = tcp(server.local_addr());
    sleeper.write_all(b"sleep\n").unwrap();
    assert_eq!(ask(&tcp(server.local_addr()), "open"), "open");
    assert_eq!(line_of(&sleeper), "sleep");
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn a_sleep_is_not_shorter_than_asked_for() {
    let sleeps = |time| {
        let began = Instant::now();
        Fibers::sleep(time).unwrap();
        assert!(began.elapsed() >= time, "{:?} of {time:?}", began.elapsed());
    };
    sleeps(SHORT);
    let server = on_one_worker(
        (),
        answers(move |line, connection| {
            [Duration::ZERO, SHORT / 2, SHORT].into_iter().for_each(sleeps);
            Ok(writeln!(connection, "{line}")?)
        }),
    );
    // Also when input of the client wakes the fiber.
    let mut client = tcp(server.local_addr());
    client.write_all(b"first\nsecond\n").unwrap();
    client.write_all(b"third\n").unwrap();
    for line in ["first", "second", "third"] {
        assert_eq!(line_of(&client), line);
    }
    assert_eq!(server.stats().panicked, 0);
    assert!(server.stop(TIMEOUT).is_clean());
}

// A connection that another thread uses.

#[test]
fn another_thread_may_use_the_connection_of_a_fiber() {
    // More than fits into the socket buffers, so that the write has to wait too.
    const ANSWER: usize = 8 * 1024 * 1024;
    /// Reads a line, answers, and waits for another line until the timeout.
    fn converse(connection: &mut Connection) -> io::Error {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        connection.write_all(&vec![b'x'; ANSWER]).unwrap();
        connection.set_read_timeout(Some(SHORT));
        let began = Instant::now();
        let error = connection.read_line(&mut line).unwrap_err();
        assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
        error
    }
    let server = on_one_worker(
        (),
        handler_fn(|connection| {
            let scoped = |connection: &mut Connection| {
                thread::scope(|scope| scope.spawn(|| converse(connection)).join().unwrap())
            };
            let offloaded =
                |connection: &mut Connection| Fibers::offload(|| converse(connection)).unwrap();
            for converse in [scoped, offloaded, converse] {
                let error = converse(connection);
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { limit: SHORT, .. })));
                connection.set_read_timeout(None);
                writeln!(connection, "too late")?;
            }
            Ok(())
        }),
    );
    let mut client = tcp(server.local_addr());
    for _ in 0..3 {
        client.write_all(b"please\n").unwrap();
        client.read_exact(&mut vec![0; ANSWER]).unwrap();
        assert_eq!(line_of(&client), "too late");
    }
    assert_eq!(rest_of(client), b"");
    assert_eq!(server.stats().panicked, 0);
    assert!(server.stop(TIMEOUT).is_clean());
}

// Datagrams.

/// A datagram client of either family.
trait DatagramClient {
    fn send(&self, text: &str);
    fn receive(&self) -> String;
}

macro_rules! datagram_client {
    ($socket:ty) => {
        impl DatagramClient for $socket {
            fn send(&self, text: &str) {
                self.send(text.as_bytes()).unwrap();
            }

            fn receive(&self) -> String {
                String::from_utf8(datagram_of(|buffer| self.recv(buffer))).unwrap()
            }
        }
    };
}

datagram_client!(UdpSocket);
datagram_client!(UnixDatagram);

#[test]
fn a_datagram_is_handled_while_the_handlers_of_others_wait() {
    for waits in ["offload", "sleep"] {
        let gate = Gate::default();
        let handler = {
            let gate = gate.clone();
            datagram_handler_fn(move |request| {
                match request.data() {
                    b"offload" => Fibers::offload(|| gate.pass())?,
                    b"sleep" => {
                        while !gate.is_open() {
                            Fibers::sleep(Duration::from_millis(1))?;
                        }
                    }
                    _ => {}
                }
                Ok(request.reply(request.data())?)
            })
        };
        let (handler, mixin) = (Arc::new(handler), || Fibers::new().workers(1));
        let over_udp = FiberUdpServer::builder().mixin(mixin());
        let over_udp = serve_with(over_udp, handler.clone());
        let address = format!("unixgram:{}", abstract_name());
        let unix = FiberUnixDatagramServer::builder().mixin(mixin());
        let unix = serve_at(&address, unix, handler);
        let clients: [(&RunningServer, Box<dyn DatagramClient>); 2] = [
            (&over_udp, Box::new(udp(over_udp.local_addr()))),
            (&unix, Box::new(unixgram(unix.local_addr()))),
        ];
        for (server, client) in &clients {
            for _ in 0..10 {
                client.send(waits);
            }
            wait_until("all handlers wait", || server.stats().active == 10);
            client.send("hello");
            assert_eq!(client.receive(), "hello", "{waits}");
        }
        gate.open();
        for (_, client) in &clients {
            (0..10).for_each(|_| assert_eq!(client.receive(), waits));
        }
        assert!(over_udp.stop(TIMEOUT).is_clean() && unix.stop(TIMEOUT).is_clean());
    }
}
