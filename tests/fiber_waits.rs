//! What a fiber may wait for while the others of its worker go on: work on another thread, and the
//! time; and who else may wait in its place.

mod common;
#[path = "common/fibers.rs"]
mod fibers;

use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    PATIENCE, Told, abstract_name, ask, bounded, line_of, next, rest_of, tcp, udp, uninterrupted,
    unixgram, wait_until,
};
use fibers::{Gate, answers, on_one_worker};
use parking_lot::Mutex;
use socketserver::*;

const SHORT: Duration = Duration::from_millis(60);

// Work for other threads.

#[test]
fn what_is_offloaded_runs_elsewhere_and_may_borrow_while_the_others_go_on() {
    let _bound = bounded();
    let gate = Gate::default();
    let (worker, offloaded) = (mpsc::channel(), mpsc::channel());
    let (tell, may_go) = (Mutex::new((worker.0, offloaded.0)), gate.clone());
    let server = on_one_worker(
        (),
        answers(move |line, connection| {
            let (worker, offloaded) = tell.lock().clone();
            worker.send(thread::current().id())?;
            let mut answer = vec![line];
            if line == "offload" {
                let length = Fibers::offload(|| {
                    offloaded.send(thread::current().id()).unwrap();
                    may_go.pass();
                    answer.push("is done");
                    answer.len()
                });
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
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn a_panic_in_what_is_offloaded_goes_on_in_the_handler() {
    let _bound = bounded();
    let (handler, words) = Told::new(answers(|line, connection| {
        let length = Fibers::offload(|| {
            assert_ne!(line, "panic", "as it should");
            line.len()
        });
        Ok(writeln!(connection, "{length}")?)
    }));
    let server = on_one_worker((), handler);
    let (client, other) = (tcp(server.local_addr()), tcp(server.local_addr()));
    assert_eq!(ask(&client, "hello"), "5");
    assert_eq!(ask(&client, "panic"), "");
    let error = words.iter().find(|word| word.starts_with("error")).unwrap();
    assert!(error.contains("as it should"), "{error}");
    assert_eq!(ask(&other, "goodbye"), "7");
    drop(other);
    wait_until("both have ended", || server.stats().finished == 2);
    let stats = server.stats();
    assert_eq!((stats.panicked, stats.eof), (1, 1), "{stats:?}");
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn sixty_four_are_offloaded_at_a_time_and_the_others_wait_for_their_turn() {
    let _bound = bounded();
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
                });
            }
            Ok(writeln!(connection, "{line}")?)
        })
    };
    let server = on_one_worker((), handler);
    let clients: Vec<_> = (0..3 * AT_A_TIME).map(|_| tcp(server.local_addr())).collect();
    for mut client in &clients {
        client.write_all(b"offload\n").unwrap();
    }
    wait_until("they are at it", || now.load(Ordering::SeqCst) == AT_A_TIME);
    // Who does not want it does not have to wait for it.
    assert_eq!(ask(&tcp(server.local_addr()), "hello"), "hello");
    gate.open();
    clients.iter().for_each(|client| assert_eq!(line_of(client), "offload"));
    assert_eq!(most.load(Ordering::SeqCst), AT_A_TIME);
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn each_of_many_who_offload_again_and_again_gets_its_turn() {
    let _bound = bounded();
    let server = on_one_worker(
        (),
        answers(|line, connection| {
            let sum: u64 = (0..200).map(|number| Fibers::offload(|| number)).sum();
            Ok(writeln!(connection, "{line} {sum}")?)
        }),
    );
    let clients: Vec<_> = (0..150).map(|_| tcp(server.local_addr())).collect();
    for mut client in &clients {
        client.write_all(b"sum\n").unwrap();
    }
    clients.iter().for_each(|client| assert_eq!(line_of(client), "sum 19900"));
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn what_is_offloaded_may_offload_and_outside_of_a_fiber_it_is_simply_called() {
    let _bound = bounded();
    let here = || thread::current().id();
    assert_eq!(Fibers::offload(here), here());
    let moves = handler_fn(move |connection| {
        let helpers = Fibers::offload(|| (here(), Fibers::offload(here)));
        assert_eq!(helpers.0, helpers.1, "there is no need for one more");
        Ok(writeln!(connection, "{}", helpers.0 != here())?)
    });
    let server = on_one_worker((), moves);
    assert_eq!(line_of(tcp(server.local_addr())), "true");
    assert!(server.stop(PATIENCE).is_clean());
    let server = ThreadingTcpServer::bind("127.0.0.1:0", moves).unwrap().spawn().unwrap();
    assert_eq!(line_of(tcp(server.local_addr())), "false");
    assert!(server.stop(PATIENCE).is_clean());
}

// The time.

#[test]
fn who_sleeps_lets_the_others_go_on() {
    let _bound = bounded();
    let gate = Gate::default();
    let server = on_one_worker(
        (),
        answers(move |line, connection| {
            match line {
                "open" => gate.open(),
                _ => {
                    while !gate.is_open() {
                        Fibers::sleep(Duration::from_millis(1));
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
    assert!(server.stop(PATIENCE).is_clean());
}

#[test]
fn a_sleep_is_not_shorter_than_it_should_be() {
    let _bound = bounded();
    let sleeps = |time| {
        let began = Instant::now();
        Fibers::sleep(time);
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
    // Not even if the client wakes it.
    let mut client = tcp(server.local_addr());
    client.write_all(b"first\nsecond\n").unwrap();
    client.write_all(b"third\n").unwrap();
    for line in ["first", "second", "third"] {
        assert_eq!(line_of(&client), line);
    }
    assert_eq!(server.stats().panicked, 0);
    assert!(server.stop(PATIENCE).is_clean());
}

// The client, from another thread.

#[test]
fn another_thread_may_use_the_connection_in_the_handlers_place() {
    let _bound = bounded();
    // An answer that does not fit into a socket, so that its write has to wait too.
    const ANSWER: usize = 8 * 1024 * 1024;
    /// Reads a line, answers, and waits for another one that does not come.
    fn serve(connection: &mut Connection) -> io::Error {
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
                thread::scope(|scope| scope.spawn(|| serve(connection)).join().unwrap())
            };
            let offloaded = |connection: &mut Connection| Fibers::offload(|| serve(connection));
            for serve in [scoped, offloaded, serve] {
                let error = serve(connection);
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
    assert!(server.stop(PATIENCE).is_clean());
}

// Datagrams.

/// A client that asks for an answer only when it wants one.
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
                let mut buffer = [0; 100];
                let length = uninterrupted(|| self.recv(&mut buffer));
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            }
        }
    };
}

datagram_client!(UdpSocket);
datagram_client!(UnixDatagram);

#[test]
fn a_datagram_whose_handler_waits_does_not_keep_the_next_one_waiting() {
    let _bound = bounded();
    for waits in ["offload", "sleep"] {
        let gate = Gate::default();
        let handler = {
            let gate = gate.clone();
            datagram_handler_fn(move |request| {
                match request.data() {
                    b"offload" => Fibers::offload(|| gate.pass()),
                    b"sleep" => {
                        while !gate.is_open() {
                            Fibers::sleep(Duration::from_millis(1));
                        }
                    }
                    _ => {}
                }
                Ok(request.reply(request.data())?)
            })
        };
        let (handler, mixin) = (Arc::new(handler), || Fibers::new().workers(1));
        let over_udp = FiberUdpServer::builder().mixin(mixin());
        let over_udp = over_udp.bind("127.0.0.1:0", handler.clone()).unwrap().spawn().unwrap();
        let unix = FiberUnixDatagramServer::builder().mixin(mixin());
        let unix = unix.bind(format!("unixgram:{}", abstract_name()), handler).unwrap();
        let unix = unix.spawn().unwrap();
        let clients: [(&RunningServer, Box<dyn DatagramClient>); 2] = [
            (&over_udp, Box::new(udp(over_udp.local_addr()))),
            (&unix, Box::new(unixgram(unix.local_addr()))),
        ];
        for (server, client) in &clients {
            for _ in 0..10 {
                client.send(waits);
            }
            wait_until("they wait", || server.stats().active == 10);
            client.send("hello");
            assert_eq!(client.receive(), "hello", "{waits}");
        }
        gate.open();
        for (_, client) in &clients {
            (0..10).for_each(|_| assert_eq!(client.receive(), waits));
        }
        assert!(over_udp.stop(PATIENCE).is_clean() && unix.stop(PATIENCE).is_clean());
    }
}
