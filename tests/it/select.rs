//! Waiting for the first of several things ([`Select`]).

use std::collections::HashMap;
use std::io::{BufRead, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::sync::channel::bounded;
use socketserver::*;

use crate::mixins::{by_each_mixin, stops_cleanly};
use crate::support::clients::{Client, ask, line_of};
use crate::support::close_reasons::{LONG, SHORT};
use crate::support::servers::{answers, serve};
use crate::support::{Gate, TIMEOUT, wait_until};

fn now() -> Instant {
    Instant::now()
}

/// In a minute.
fn late() -> Instant {
    now() + TIMEOUT
}

/// A server whose answers come when the gate is open.
fn slow_echo(gate: &Gate) -> RunningServer {
    let gate = gate.clone();
    serve(answers(move |line, connection| {
        gate.pass();
        Ok(writeln!(connection, "{line}")?)
    }))
}

#[test]
fn the_source_that_has_input_is_ready() {
    let gate = Gate::default();
    let upstream = slow_echo(&gate);
    let address = upstream.local_addr().clone();
    let handler = handler_fn(move |client| {
        let mut upstream = client.connect(&address, LONG)?;
        let (mut select, mut line) = (Select::new(), String::new());
        loop {
            // Nothing is flushed by hand, also what the other one has to answer.
            let ready = select.wait(&[&*client, &upstream], late())?.expect("in time");
            let (from, to) = match ready {
                0 => (&mut *client, &mut upstream),
                _ => (&mut upstream, &mut *client),
            };
            line.clear();
            if from.read_line(&mut line)? == 0 {
                return Ok(());
            }
            to.write_all(line.as_bytes())?;
        }
    });
    by_each_mixin((), handler, |mixin, server| {
        gate.open();
        let client = Client::of(&server);
        for number in 0..100 {
            assert_eq!(
                ask(&client, &format!("line {number}")),
                format!("line {number}"),
                "{mixin}"
            );
        }
        // Several at once, some of which are buffered.
        client.send("one\ntwo\nthree\n");
        assert_eq!([(); 3].map(|()| line_of(&client)), ["one", "two", "three"]);
        gate.close();
        client.send("late\n");
        thread::sleep(SHORT);
        gate.open();
        assert_eq!(line_of(&client), "late");
        drop(client);
        stops_cleanly(server);
    });
    stops_cleanly(upstream);
}

#[test]
fn a_message_in_a_channel_is_ready_and_so_is_its_end() {
    // A channel for each client, by the number that it sends first.
    let channels = Mutex::new(HashMap::new());
    let channels = Arc::new(channels);
    let handler = {
        let channels = channels.clone();
        handler_fn(move |client: &mut Connection| {
            let (sender, messages) = bounded::<String>(1);
            let mut line = String::new();
            client.read_line(&mut line)?;
            channels.lock().insert(line.clone(), sender);
            writeln!(client, "ready")?;
            let mut select = Select::new();
            loop {
                // The client's lines and the messages, in the order in which they come.
                match select.wait(&[&*client, &messages], late())?.expect("in time") {
                    0 => {
                        line.clear();
                        if client.read_line(&mut line)? == 0 {
                            return Ok(());
                        }
                        client.write_all(line.as_bytes())?;
                    }
                    _ => match messages.try_recv() {
                        Ok(message) => writeln!(client, "{message}")?,
                        Err(_) => return Ok(client.write_all(b"no more\n")?),
                    },
                }
            }
        })
    };
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, mixin), "ready");
        let sender = channels.lock().remove(&format!("{mixin}\n")).unwrap();
        for number in 0..50 {
            sender.send(format!("message {number}")).unwrap();
            assert_eq!(line_of(&client), format!("message {number}"), "{mixin}");
            assert_eq!(ask(&client, "line"), "line", "{mixin}");
        }
        drop(sender);
        assert_eq!(line_of(&client), "no more", "{mixin}");
        stops_cleanly(server);
    });
}

#[test]
fn input_that_is_not_read_is_ready_again_and_what_was_read_is_not() {
    let handler = answers(|line, client| {
        let mut select = Select::new();
        let mut ready = |client: &Connection, deadline| select.wait(&[client], deadline).unwrap();
        match line {
            // Exactly a full buffer: the read cannot know that there is no more.
            "512" | "4096" | "511" => {
                let length: usize = line.parse()?;
                let mut left = length;
                while left > 0 {
                    for deadline in [None, Some(late()), Some(now())] {
                        assert_eq!(ready(client, deadline), Some(0));
                    }
                    let read = client.fill_buf()?.len();
                    client.consume(read);
                    left -= read;
                }
            }
            // A part of what is buffered.
            _ => {
                assert_eq!(ready(client, None), Some(0));
                assert_eq!(client.read(&mut [0])?, 1);
                assert_eq!(ready(client, None), Some(0));
                assert_eq!(client.read(&mut [0; 2])?, 2);
            }
        }
        for deadline in [now(), now() + SHORT] {
            assert_eq!(ready(client, Some(deadline)), None);
            assert!(Instant::now() >= deadline);
        }
        Ok(writeln!(client, "{line}")?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        for length in ["512", "4096", "511"] {
            client.send(format!("{length}\n"));
            thread::sleep(Duration::from_millis(5));
            client.send(vec![b'x'; length.parse().unwrap()]);
            assert_eq!(line_of(&client), length, "{mixin}");
        }
        client.send("3\n");
        client.send("123");
        assert_eq!(line_of(&client), "3", "{mixin}");
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn eof_and_a_reset_are_ready() {
    let handler = handler_fn(|client| {
        let mut select = Select::new();
        client.read_line(&mut String::new())?;
        for _ in 0..3 {
            assert_eq!(select.wait(&[&*client], late())?, Some(0));
        }
        let length = client.read(&mut [0])?;
        writeln!(client, "{length}")?;
        assert_eq!(select.wait(&[&*client], late())?, Some(0));
        Ok(())
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        client.send("hello\n");
        client.shutdown(Shutdown::Write);
        assert_eq!(line_of(&client), "0", "{mixin}");
        stops_cleanly(server);
    });
}

#[test]
fn sources_that_are_ready_take_turns() {
    let upstream = serve(handler_fn(|connection| {
        connection.write_all(b"x")?;
        connection.flush()?;
        Ok(_ = connection.read_line(&mut String::new())?)
    }));
    let address = upstream.local_addr().clone();
    let handler = handler_fn(move |client| {
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(client.connect(&address, LONG)?);
        }
        for source in others.iter().chain([&*client]) {
            assert_eq!(Select::new().wait(&[source], late())?, Some(0));
        }
        let mut select = Select::new();
        let mut turns = Vec::new();
        for _ in 0..8 {
            let sources: [&dyn Source; 4] = [&*client, &others[0], &others[1], &others[2]];
            turns.extend(select.wait(&sources, late())?);
        }
        Ok(writeln!(client, "{turns:?}")?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        client.send("x");
        assert_eq!(line_of(&client), "[0, 1, 2, 3, 0, 1, 2, 3]", "{mixin}");
        drop(client);
        server.stop(TIMEOUT);
    });
    stops_cleanly(upstream);
}

#[test]
fn at_a_deadline_nothing_is_ready_and_a_time_limit_is_an_error() {
    let handler = answers(|line, client| {
        let mut select = Select::new();
        let (began, none) = (now(), &[][..]);
        assert_eq!(select.wait(&[&*client], began + SHORT)?, None);
        assert!(began.elapsed() >= SHORT);
        let began = now();
        assert_eq!(select.wait(none, began + SHORT)?, None);
        assert!(began.elapsed() >= SHORT);
        let began = now();
        for deadline in [None, Some(late())] {
            let error = client.within(SHORT, |client| select.wait(&[&*client], deadline));
            assert!(matches!(error, Err(Error::Timeout { limit: SHORT, .. })), "{error:?}");
        }
        assert!(began.elapsed() >= 2 * SHORT);
        let waited = client.within(LONG, |client| select.wait(&[&*client], now() + SHORT));
        assert_eq!(waited?, None);
        Ok(writeln!(client, "{line}")?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        for line in ["one", "two"] {
            assert_eq!(ask(&client, line), line, "{mixin}");
        }
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn the_server_is_ready_when_it_is_stopping() {
    let silent = slow_echo(&Gate::default());
    let address = silent.local_addr().clone();
    let handler = handler_fn(move |client| {
        let upstream = client.connect(&address, LONG)?;
        let (mut select, server) = (Select::new(), client.server().clone());
        assert_eq!(select.wait(&[&upstream, &server], now())?, None);
        writeln!(client, "waiting")?;
        client.flush()?;
        // Twice: it stays so.
        for _ in 0..2 {
            assert_eq!(select.wait(&[&upstream, &server], None)?, Some(1));
        }
        assert_eq!(select.wait(&[&server, &*client], late())?, Some(0));
        Ok(writeln!(client, "stopping")?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(line_of(&client), "waiting", "{mixin}");
        server.shutdown();
        assert_eq!(line_of(&client), "stopping", "{mixin}");
        stops_cleanly(server);
    });
    stops_cleanly(silent);
}

#[test]
fn a_stop_that_is_out_of_time_is_an_error() {
    let silent = slow_echo(&Gate::default());
    let address = silent.local_addr().clone();
    let handler = handler_fn(move |client| {
        let upstream = client.connect(&address, LONG)?;
        writeln!(client, "waiting")?;
        let mut select = Select::new();
        client.flush()?;
        for _ in 0..2 {
            let stopped = select.wait(&[&upstream], None);
            assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
        }
        Ok(())
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(line_of(&client), "waiting", "{mixin}");
        let handle = server.handle();
        let report = server.stop(Duration::from_millis(500));
        // On a busy machine after the report.
        wait_until("the handler has ended", || handle.stats().finished == 1);
        assert_eq!(report.drained, 0, "{mixin}: {report:?}");
        assert_eq!(handle.stats().panicked, 0, "{mixin}");
    });
    stops_cleanly(silent);
}

#[test]
fn a_client_that_waits_for_an_answer_gets_it_before_the_wait() {
    let handler = handler_fn(|client| {
        let mut select = Select::new();
        writeln!(client, "hello")?;
        assert_eq!(select.wait(&[&*client], late())?, Some(0));
        client.read_line(&mut String::new())?;
        writeln!(client, "good")?;
        // What was sent is not sent again.
        assert_eq!(select.wait(&[&*client], now() + SHORT)?, None);
        assert_eq!(select.wait(&[&*client], now())?, None);
        client.write_all(b"bye\n")?;
        client.flush()?;
        assert_eq!(select.wait(&[&*client], late())?, Some(0));
        Ok(())
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(line_of(&client), "hello", "{mixin}");
        client.send("hi\n");
        assert_eq!([line_of(&client), line_of(&client)], ["good", "bye"], "{mixin}");
        client.shutdown(Shutdown::Write);
        assert_eq!(line_of(&client), "", "{mixin}");
        stops_cleanly(server);
    });
}

#[test]
fn more_sources_than_have_a_bit() {
    let upstream = serve(answers(|line, connection| Ok(writeln!(connection, "{line}")?)));
    let address = upstream.local_addr().clone();
    let handler = handler_fn(move |client| {
        let mut all = Vec::new();
        for _ in 0..70 {
            all.push(client.connect(&address, LONG)?);
        }
        let mut select = Select::new();
        for index in [69, 64, 63, 0] {
            writeln!(all[index], "{index}")?;
            all[index].flush()?;
            let sources: Vec<&dyn Source> = all.iter().map(|source| source as _).collect();
            assert_eq!(select.wait(&sources, late())?, Some(index));
            assert_eq!(select.wait(&sources, now())?, Some(index));
            all[index].read_line(&mut String::new())?;
        }
        Ok(writeln!(client, "all")?)
    });
    by_each_mixin((), handler, |mixin, server| {
        let client = Client::of(&server);
        assert_eq!(line_of(&client), "all", "{mixin}");
        drop(client);
        stops_cleanly(server);
    });
    stops_cleanly(upstream);
}

#[test]
fn a_connection_in_memory_is_always_ready() {
    let connection = Connection::in_memory("");
    assert_eq!(Select::new().wait(&[connection.as_ref()], None).unwrap(), Some(0));
}

/// A lost wake-up would leave both sides waiting.
#[test]
fn many_messages_between_many_fibers() {
    const CLIENTS: usize = 20;
    const MESSAGES: usize = 300;
    let count = Arc::new(AtomicUsize::new(0));
    let echo = serve(answers(|line, connection| Ok(writeln!(connection, "{line}")?)));
    let address = echo.local_addr().clone();
    let handler = {
        let count = count.clone();
        handler_fn(move |client| {
            let mut upstream = client.connect(&address, LONG)?;
            let (mut select, mut line) = (Select::new(), String::new());
            loop {
                let (from, to) = match select.wait(&[&*client, &upstream], late())? {
                    Some(0) => (&mut *client, &mut upstream),
                    Some(_) => (&mut upstream, &mut *client),
                    None => return Err("late".into()),
                };
                line.clear();
                if from.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                count.fetch_add(1, Ordering::SeqCst);
                to.write_all(line.as_bytes())?;
            }
        })
    };
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let server = crate::support::servers::serve_with(builder, handler);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = Client::of(&server);
                for number in 0..MESSAGES {
                    assert_eq!(ask(&client, &number.to_string()), number.to_string());
                }
            });
        }
    });
    assert_eq!(count.load(Ordering::SeqCst), 2 * CLIENTS * MESSAGES);
    wait_until("all have ended", || server.stats().active == 0);
    stops_cleanly(server);
    stops_cleanly(echo);
}
