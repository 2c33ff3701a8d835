//! What a sender promises: whole messages in order, from any thread, none lost while the client keeps
//! up, and no wait for one that does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::*;

use crate::every_server::on_every_server;
use crate::support::clients::{Client, line_of, read_until_closed, rest_of, tcp};
use crate::support::close_reasons::Limits;
use crate::support::servers::{serve, serve_with};
use crate::support::{TIMEOUT, next, wait_until};

const LARGE: usize = 64 * 1024 * 1024;

/// Hands out a sender to its connection, and echoes lines.
fn echo_with_sender(capacity: usize) -> (impl StreamRequestHandler, Receiver<Sender>) {
    let (senders, received) = channel();
    let handler = handler_fn(move |connection| {
        senders.send(connection.sender(capacity)?)?;
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(&line)?;
            line.clear();
        }
        Ok(())
    });
    (handler, received)
}

#[test]
fn messages_of_four_threads_are_whole_and_in_order_beside_the_handlers_own() {
    const COUNT: usize = 400;
    on_every_server(
        (),
        || echo_with_sender(LARGE),
        |server, senders| {
            let client = Client::of(server);
            let sender = next(&senders);
            thread::scope(|scope| {
                for thread in 0..4 {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        for count in 0..COUNT {
                            let length = 1 + count % 7 * 700;
                            let body = (b'a' + thread as u8) as char;
                            let body = String::from(body).repeat(length);
                            sender.send(format!("{thread} {count} {body}\n")).unwrap();
                        }
                    });
                }
                scope.spawn(|| {
                    (0..COUNT).for_each(|count| client.send(format!("4 {count} eeee\n")))
                });
                let mut lines = BufReader::new(&client).lines();
                let mut counts = [0; 5];
                for _ in 0..5 * COUNT {
                    let line = lines.next().unwrap().unwrap();
                    let mut words = line.split(' ');
                    let mut number = || words.next().unwrap().parse::<usize>().unwrap();
                    let (thread, count) = (number(), number());
                    assert_eq!(count, counts[thread], "of thread {thread}");
                    counts[thread] += 1;
                    let (body, letter) = (words.next().unwrap(), b'a' + thread as u8);
                    assert!(body.bytes().all(|byte| byte == letter), "mixed: {line}");
                    assert_eq!(body.len(), if thread == 4 { 4 } else { 1 + count % 7 * 700 });
                }
            });
        },
    );
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_its_sender_told() {
    const CAPACITY: usize = 100_000;
    let (endings, reasons) = channel();
    struct Slow(std::sync::mpsc::Sender<Sender>, std::sync::mpsc::Sender<CloseReason>);
    impl StreamRequestHandler for Slow {
        fn handle(&self, connection: &mut Connection) -> HandlerResult {
            self.0.send(connection.sender(CAPACITY)?)?;
            std::io::copy(connection, &mut std::io::sink())?;
            Ok(())
        }
        fn finish(&self, connection: &mut Connection) -> HandlerResult {
            Ok(self.1.send(connection.close_reason().unwrap())?)
        }
    }
    let handler = || {
        let (senders, received) = channel();
        (Slow(senders, endings.clone()), received)
    };
    on_every_server((), handler, |server, senders| {
        let slow = Client::of(server);
        let sender = next(&senders);
        let message = [b'x'; 10_000];
        let error = (0..10_000).find_map(|_| sender.send(message).err()).expect("a slow consumer");
        assert!(matches!(error, Error::SlowConsumer { limit: CAPACITY, .. }), "{error}");
        assert!(matches!(sender.clone().send("more"), Err(Error::SlowConsumer { .. })));
        assert!(sender.is_closed());
        assert_eq!(next(&reasons), CloseReason::Limit);
        read_until_closed(&slow);
        wait_until("it is counted", || server.stats().ended_for(CloseReason::Limit) == 1);
    });
}

#[test]
fn a_slow_client_delays_no_other() {
    let (handler, senders) = echo_with_sender(LARGE);
    let server = serve(handler);
    let slow = tcp(server.local_addr());
    let to_slow = next(&senders);
    let good = tcp(server.local_addr());
    let to_good = next(&senders);
    for count in 0..200 {
        to_slow.send([b'x'; 100_000]).unwrap();
        to_good.send(format!("{count}\n")).unwrap();
        assert_eq!(line_of(&good), count.to_string());
    }
    drop(slow);
}

#[test]
fn what_was_sent_before_the_handler_returns_arrives() {
    const MESSAGES: usize = 300;
    let handler = || {
        let handler = handler_fn(|connection| {
            let sender = connection.sender(LARGE)?;
            for count in 0..MESSAGES {
                sender.send(format!("{count} {}\n", "x".repeat(10_000)))?;
            }
            Ok(connection.write_all(b"last\n")?)
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        let client = Client::of(server);
        // More than the kernel buffers: the rest is written after the handler has returned.
        thread::sleep(Duration::from_millis(50));
        let text = String::from_utf8(rest_of(&client)).unwrap();
        let mut lines = text.lines();
        for count in 0..MESSAGES {
            assert_eq!(lines.next().unwrap().split(' ').next(), Some(&*count.to_string()));
        }
        assert_eq!((lines.next(), lines.next()), (Some("last"), None));
    });
}

#[test]
fn a_client_that_reads_nothing_delays_the_end_by_the_write_timeout() {
    let limits = Limits { write: Some(Duration::from_millis(200)), ..Limits::default() };
    let handler = || {
        let handler = handler_fn(|connection| {
            let sender = connection.sender(LARGE)?;
            Ok((0..1000).try_for_each(|_| sender.send([b'x'; 20_000]))?)
        });
        (handler, ())
    };
    on_every_server(limits, handler, |server, ()| {
        let _client = Client::of(server);
        wait_until("the request ends", || server.stats().finished == 1);
    });
}

#[test]
fn a_sender_outlives_its_connection_and_fails() {
    on_every_server(
        (),
        || echo_with_sender(LARGE),
        |server, senders| {
            let client = Client::of(server);
            let sender = next(&senders);
            sender.send("first\n").unwrap();
            assert_eq!(line_of(&client), "first");
            client.shutdown(std::net::Shutdown::Write);
            // The sender does not keep the socket open.
            assert_eq!(rest_of(&client), b"");
            let error = sender.send("late\n").unwrap_err();
            assert!(matches!(error, Error::ConnectionClosed), "{error}");
            assert!(Error::is_disconnect(&error));
            assert!(matches!(sender.send(""), Err(Error::ConnectionClosed)));
        },
    );
}

#[test]
fn a_client_that_is_gone_ends_its_sender() {
    let (senders, received) = channel();
    let server = serve(handler_fn(move |connection| {
        let sender = connection.sender(LARGE)?;
        senders.send(sender.clone())?;
        // It does not read, and so does not notice by itself.
        wait_until("the sender fails", || sender.is_closed());
        Ok(())
    }));
    let client = tcp(server.local_addr());
    let sender = next(&received);
    drop(client);
    wait_until("an error", || sender.send("anyone?\n").is_err());
    assert!(matches!(sender.send("x"), Err(Error::ConnectionClosed)));
}

#[test]
fn a_stop_while_a_sender_pushes_ends_between_two_messages() {
    on_every_server(
        (),
        || echo_with_sender(LARGE),
        |server, senders| {
            let client = Client::of(server);
            let sender = next(&senders);
            let pusher = thread::spawn(move || {
                let mut sent = 0;
                while sender.send(format!("{sent} {}\n", "y".repeat(500))).is_ok() {
                    sent += 1;
                    thread::sleep(Duration::from_micros(100));
                }
                sent
            });
            let mut reader = BufReader::new(&client);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            server.shutdown();
            let mut rest = String::new();
            reader.read_to_string(&mut rest).unwrap();
            let sent: usize = pusher.join().unwrap();
            assert!(rest.is_empty() || rest.ends_with("y\n"), "a part of a message");
            // All that were taken.
            assert_eq!(1 + rest.lines().count(), sent);
        },
    );
}

#[test]
fn with_a_capacity_of_zero_the_system_must_take_each_message() {
    on_every_server(
        (),
        || echo_with_sender(0),
        |server, senders| {
            let client = Client::of(server);
            let sender = next(&senders);
            for count in 0..200 {
                sender.send(format!("{count}\n")).unwrap();
            }
            for count in 0..200 {
                assert_eq!(line_of(&client), count.to_string());
            }
            let error = (0..10_000).find_map(|_| sender.send([b'x'; 10_000]).err()).unwrap();
            assert!(matches!(error, Error::SlowConsumer { limit: 0, .. }), "{error}");
        },
    );
}

#[test]
fn a_burst_is_not_the_clients_fault() {
    // The writer's thread may not run before the capacity is exceeded.
    const CAPACITY: usize = 64;
    let (handler, senders) = echo_with_sender(CAPACITY);
    let server = serve(handler);
    let client = tcp(server.local_addr());
    let sender = next(&senders);
    for count in 0..1000 {
        sender.send(format!("{count:05}\n")).unwrap();
    }
    for count in 0..1000 {
        assert_eq!(line_of(&client), format!("{count:05}"));
    }
}

#[test]
fn the_handlers_writes_follow_the_messages_before_them_and_flush_waits_for_these() {
    let handler = || {
        let handler = handler_fn(|connection| {
            connection.write_all(b"zero ")?;
            let sender = connection.sender(LARGE)?;
            for count in 0..200 {
                sender.send(format!("{count} "))?;
                connection.write_all(b"own ")?;
                connection.flush()?;
            }
            sender.send("before ")?;
            connection.flush()?;
            connection.write_all(b"end")?;
            connection.flush()?;
            std::mem::forget(sender);
            Ok(())
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        let mut expected = String::from("zero ");
        (0..200).for_each(|count| expected += &format!("{count} own "));
        expected += "before end";
        let text = String::from_utf8(rest_of(&Client::of(server))).unwrap();
        assert_eq!(text, expected);
    });
}

#[test]
fn a_broadcast_to_the_same_client_splits_no_message() {
    const COUNT: usize = 1500;
    let room = Broadcast::with_capacity(LARGE);
    let member_of = room.clone();
    let (senders, received) = channel();
    let server = serve(handler_fn(move |connection| {
        let member = member_of.join(connection)?;
        senders.send(connection.sender(LARGE)?)?;
        connection.read_line(&mut String::new())?;
        member.leave();
        Ok(())
    }));
    let client = tcp(server.local_addr());
    let sender = next(&received);
    let (mut of_sender, mut of_room) = (0, 0);
    thread::scope(|scope| {
        // More than the kernel buffers, so that writes of both are short.
        scope.spawn(|| (0..COUNT).for_each(|_| room.send("b".repeat(9000) + "\n")));
        scope.spawn(|| (0..COUNT).for_each(|_| sender.send("s".repeat(7000) + "\n").unwrap()));
        let mut lines = BufReader::new(&client).lines();
        while of_sender + of_room < 2 * COUNT {
            let line = lines.next().unwrap().unwrap();
            match (line.as_bytes()[0], line.len()) {
                (b's', 7000) => of_sender += 1,
                (b'b', 9000) => of_room += 1,
                split => panic!("a split message: {split:?}"),
            }
            assert!(line.bytes().all(|byte| byte == line.as_bytes()[0]), "mixed messages");
        }
    });
    assert_eq!((of_sender, of_room), (COUNT, COUNT));
}

#[test]
fn an_upstream_has_senders_too() {
    let echo = serve(services::Echo);
    let address = echo.local_addr().clone();
    let (handler, senders) = {
        let (senders, received) = channel();
        let handler = handler_fn(move |client: &mut Connection| {
            let mut upstream = client.connect(&address, TIMEOUT)?;
            senders.send(upstream.sender(LARGE)?)?;
            let mut line = String::new();
            upstream.read_line(&mut line)?;
            client.write_all(line.as_bytes())?;
            Ok(())
        });
        (handler, received)
    };
    let server = serve(handler);
    let client = tcp(server.local_addr());
    let sender = next(&senders);
    sender.send("pushed\n").unwrap();
    assert_eq!(rest_of(&client), b"pushed\n");
    wait_until("the upstream ends", || sender.is_closed());
}

#[test]
fn a_second_sender_is_another_handle_with_a_new_capacity() {
    let mut in_memory = Connection::in_memory("");
    let first = in_memory.as_mut().sender(0).unwrap();
    let second = in_memory.as_mut().sender(LARGE).unwrap();
    first.send("a").unwrap();
    second.send("b").unwrap();
    first.send("").unwrap();
    first.send("c").unwrap();
    assert_eq!(in_memory.output(), b"abc");
    drop(in_memory);
    assert!(first.is_closed() && second.is_closed());
    assert!(matches!(second.send("d"), Err(Error::ConnectionClosed)));
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_reads_nothing() {
    let (handler, senders) = echo_with_sender(LARGE);
    let builder = ThreadingTcpServer::builder().write_timeout(None);
    let server = serve_with(builder, handler);
    let _client = tcp(server.local_addr());
    let sender = next(&senders);
    (0..1000).for_each(|_| sender.send([b'x'; 20_000]).unwrap());
    let started = Instant::now();
    let report = server.stop(Duration::from_secs(1));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(!report.is_clean(), "{report:?}");
    // On a busy machine the handler ends after the report.
    wait_until("the sender fails", || sender.is_closed());
}
