//! One limit for several waits ([`Connection::within`]): no wait in it goes on after its end, none ends
//! early, and what had arrived in time counts.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{Domain, SockAddr, Socket, Type};
use socketserver::sync::Parker;
use socketserver::*;

use crate::mixins::{by_each_mixin, stops_cleanly};
use crate::support::clients::{Client, ask, line_of};
use crate::support::close_reasons::{LONG, Limits, SHORT, is_counted};
use crate::support::servers::answers;
use crate::support::{Gate, TempDir, next};

/// Calls `call` within [`SHORT`], and checks that it fails at the end of that, and not before.
#[track_caller]
fn times_out<T, E: Into<Error>>(
    connection: &mut Connection,
    call: impl FnOnce(&mut Connection) -> Result<T, E>,
) {
    let began = Instant::now();
    let error = connection.within(SHORT, call).err().expect("an error").into();
    assert!(matches!(error, Error::Timeout { limit: SHORT, .. }), "{error:?}");
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
}

fn read_line(connection: &mut Connection) -> io::Result<String> {
    let mut line = String::new();
    connection.read_line(&mut line).map(|_| line)
}

#[test]
fn a_read_ends_with_the_limit_and_the_connection_goes_on() {
    // A read timeout that is longer changes nothing.
    for read in [None, Some(LONG)] {
        let handler = answers(|line, connection| {
            times_out(connection, read_line);
            // The earlier deadline wins, whichever is the inner one.
            times_out(connection, |connection| connection.within(LONG, read_line));
            let limit = Duration::from_millis(10);
            let error = connection.within(LONG, |connection| connection.within(limit, read_line));
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let Some(Error::Timeout { limit: reached, .. }) = Error::of(&error) else {
                panic!("{error:?}")
            };
            assert_eq!(*reached, limit);
            Ok(writeln!(connection, "{line}")?)
        });
        by_each_mixin(Limits { read, ..Limits::default() }, handler, |mixin, server| {
            let client = Client::of(&server);
            for line in ["first", "second"] {
                assert_eq!(ask(&client, line), line, "{mixin}");
            }
            drop(client);
            stops_cleanly(server);
        });
    }
}

#[test]
fn a_shorter_read_timeout_is_reported_as_such() {
    let handler = handler_fn(|connection| {
        let error = connection.within(LONG, read_line).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { limit: SHORT, .. })));
        Ok(writeln!(connection, "silent")?)
    });
    by_each_mixin(Limits { read: Some(SHORT), ..Limits::default() }, handler, |_, server| {
        assert_eq!(line_of(&Client::of(&server)), "silent");
        stops_cleanly(server);
    });
}

#[test]
fn what_had_arrived_in_time_counts_and_what_comes_later_does_not() {
    let [begun, arrived, late, sent] = [(); 4].map(|()| Gate::default());
    let handler = {
        let gates = [&begun, &arrived, &late, &sent].map(Gate::clone);
        answers(move |_, connection| {
            let [begun, arrived, late, sent] = &gates;
            connection.within(SHORT, |connection| {
                begun.open();
                arrived.pass();
                // This side is late.
                thread::sleep(SHORT);
                assert_eq!(read_line(connection)?, "one\n");
                late.open();
                sent.pass();
                assert_eq!(read_line(connection)?, "two\n");
                let error = read_line(connection).unwrap_err();
                assert!(matches!(Error::of(&error), Some(Error::Timeout { .. })), "{error:?}");
                Ok::<_, io::Error>(())
            })?;
            gates.iter().for_each(Gate::close);
            let line = read_line(connection)?;
            Ok(connection.write_all(line.as_bytes())?)
        })
    };
    by_each_mixin((), handler, |_, server| {
        let client = Client::of(&server);
        for _ in 0..2 {
            client.send("go\n");
            begun.pass();
            client.send("one\ntwo\n");
            arrived.open();
            late.pass();
            client.send("three\n");
            sent.open();
            assert_eq!(line_of(&client), "three");
        }
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn a_client_that_sends_or_reads_without_end_has_no_longer() {
    let handler = handler_fn(|connection| {
        let line = read_line(connection)?;
        times_out(connection, |connection| -> io::Result<()> {
            loop {
                match line.trim_end() {
                    "read" => _ = connection.read(&mut [0; 4096])?,
                    _ => connection.write_all(&[b'x'; 4096])?,
                }
            }
        });
        Ok(())
    });
    by_each_mixin((), handler, |mixin, server| {
        for command in ["read", "write"] {
            let client = Client::of(&server);
            client.send(format!("{command}\n"));
            // Fails when the handler has ended.
            let floods = thread::scope(|scope| {
                let writes = scope.spawn(|| {
                    while command == "read" && (&mut &client).write_all(&[b'x'; 4096]).is_ok() {}
                });
                let read = io::copy(&mut &client, &mut io::sink());
                writes.join().unwrap();
                read
            });
            let _ = floods;
            assert_eq!(server.stats().panicked, 0, "{mixin} {command}");
        }
        server.stop(Duration::from_secs(5));
    });
}

#[test]
fn a_write_that_is_not_taken_ends_with_the_limit() {
    for write in [None, Some(LONG)] {
        let handler = answers(|_, connection| {
            let big = vec![b'x'; 64 * 1024 * 1024];
            times_out(connection, |connection| connection.write_all(&big));
            Err(connection
                .within(SHORT, |connection| connection.flush())
                .err()
                .map_or_else(|| Error::Stopped.into(), |error| error.into()))
        });
        by_each_mixin(Limits { write, ..Limits::default() }, handler, |_, server| {
            let client = Client::of(&server);
            client.send("please\n");
            is_counted(&server.handle(), &[CloseReason::Timeout]);
            stops_cleanly(server);
        });
    }
}

#[test]
fn waits_for_an_upstream_end_with_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let handler = answers(move |line, connection| {
        let mut upstream = connection.connect(address, LONG)?;
        times_out(connection, |_| read_line(&mut upstream));
        times_out(connection, |_| upstream.write_all(&vec![b'x'; 64 * 1024 * 1024]));
        let mut upstream = connection.connect(address, LONG)?;
        times_out(connection, |connection| connection.relay(&mut upstream));
        Ok(writeln!(connection, "{line}")?)
    });
    by_each_mixin((), handler, |_, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "hello"), "hello");
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn a_connect_ends_with_the_limit() {
    let directory = TempDir::new();
    let path = directory.join("full");
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    full.listen(0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let endpoint = format!("unix:{}", path.display());
    let handler = answers(move |line, connection| {
        times_out(connection, |connection| connection.connect(endpoint.as_str(), LONG));
        Ok(writeln!(connection, "{line}")?)
    });
    by_each_mixin((), handler, |_, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "hello"), "hello");
        drop(client);
        stops_cleanly(server);
    });
}

#[test]
fn waits_of_sync_end_with_the_limit() {
    let handler = answers(|line, connection| {
        times_out(connection, |_| Parker::new().park());
        times_out(connection, |_| Parker::new().park_timeout(LONG));
        // An earlier deadline is no error.
        let parked = connection.within(LONG, |_| Parker::new().park_timeout(SHORT))?;
        assert!(!parked);
        times_out(connection, |_| Fibers::sleep(LONG));
        // As the error of the handler it is the reason of the close.
        if line == "fail" {
            connection.within(SHORT, |_| Parker::new().park())?;
        }
        Ok(writeln!(connection, "{line}")?)
    });
    by_each_mixin((), handler, |_, server| {
        let client = Client::of(&server);
        assert_eq!(ask(&client, "hello"), "hello");
        assert_eq!(ask(&client, "fail"), "");
        is_counted(&server.handle(), &[CloseReason::Timeout]);
        stops_cleanly(server);
    });
}

#[test]
fn the_limit_of_one_request_is_not_that_of_another() {
    let (sender, entered) = mpsc::channel();
    let (sender, gate) = (Mutex::new(sender), Arc::new(Gate::default()));
    let handler = {
        let gate = gate.clone();
        answers(move |line, connection| {
            if line == "limited" {
                sender.lock().send(())?;
                times_out(connection, read_line);
                gate.open();
            }
            Ok(writeln!(connection, "{line}")?)
        })
    };
    by_each_mixin((), handler, |mixin, server| {
        if mixin == "sequential" {
            return stops_cleanly(server);
        }
        let (limited, other) = (Client::of(&server), Client::of(&server));
        assert_eq!(ask(&other, "hello"), "hello");
        limited.send("limited\n");
        next(&entered);
        gate.pass();
        thread::sleep(SHORT);
        assert_eq!(ask(&other, "still here"), "still here");
        assert_eq!(line_of(&limited), "limited");
        gate.close();
        drop((limited, other));
        stops_cleanly(server);
    });
}

/// A connection in memory never waits, and how much of its input has arrived is not known.
#[test]
fn a_connection_in_memory_has_the_limit_too() {
    let mut connection = Connection::in_memory("hello\n");
    times_out(connection.as_mut(), |connection| {
        assert_eq!(read_line(connection)?, "hello\n");
        thread::sleep(SHORT);
        connection.fill_buf().map(<[u8]>::len)
    });
}
