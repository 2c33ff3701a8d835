//! Why a connection has ended: each reason, as `finish` and `handle_error` are told, and as it is
//! counted. The reasons that have to do with time are in `deadlines.rs`.

mod common;
#[path = "common/endings.rs"]
mod endings;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use common::{Client, PATIENCE, bounded, next, on_every_stream_server, rest_of, wait_until};
use endings::{Ending, Limits, Visit, Watched, by_reason, ends, is_counted};
use parking_lot::Mutex;
use socket2::SockRef;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::transport::Transport;
use socketserver::*;

/// An ending that `handle_error` hears nothing of.
fn quietly(reason: CloseReason) -> Ending {
    Ending(reason, None)
}

/// Echoes one line.
fn once(connection: &mut Connection) -> HandlerResult {
    let mut line = Vec::new();
    connection.read_line(&mut line)?;
    Ok(connection.write_all(&line)?)
}

// The client's doing.

#[test]
fn a_client_that_ends_its_side() {
    let _bound = bounded();
    let half_closes = |visit: Visit| {
        visit.echoes("hello");
        visit.client.shutdown(Shutdown::Write);
        assert!(rest_of(&visit.client).is_empty());
        Some(visit)
    };
    ends(Echo, Limits::default(), half_closes, quietly(CloseReason::Eof));
    let closes = |visit: Visit| {
        visit.echoes("hello");
        None
    };
    ends(Echo, Limits::default(), closes, quietly(CloseReason::Eof));
    // In the middle of something, which is an error, but a normal end.
    let frames = LengthPrefixed::new(Prefix::U16);
    let closes_within = |visit: Visit| {
        visit.send(b"\0\x10only so much");
        None
    };
    for way in 0..4 {
        let reads = handler_fn(move |connection| {
            let mut message = Vec::new();
            match way {
                0 => connection.read_message(&frames, &mut message).map(drop)?,
                1 => frames.read(connection, &mut message).map(drop)?,
                2 => connection.read_exact(&mut [0; 100])?,
                _ => connection
                    .with_message_timeout(|connection| connection.read_exact(&mut [0; 100]))?,
            }
            unreachable!("it was whole");
        });
        ends(reads, Limits::default(), closes_within, quietly(CloseReason::Eof));
    }
}

#[test]
fn a_client_that_resets() {
    let _bound = bounded();
    let is_reading = handler_fn(|connection| {
        writeln!(connection, "hello")?;
        connection.read_line(&mut String::new())?;
        unreachable!("a line came");
    });
    ends(is_reading, Limits::default(), Visit::resets, quietly(CloseReason::Reset));
    let is_writing = handler_fn(|connection| {
        loop {
            connection.write_all(&[b'x'; 65_536])?;
        }
    });
    ends(is_writing, Limits::default(), Visit::resets, quietly(CloseReason::Reset));
    // A handler that keeps it to itself does not change that.
    let keeps_quiet = handler_fn(|connection| {
        writeln!(connection, "hello")?;
        let _ = connection.read_line(&mut String::new());
        Ok(())
    });
    ends(keeps_quiet, Limits::default(), Visit::resets, quietly(CloseReason::Reset));
}

#[test]
fn a_line_over_the_limit() {
    let _bound = bounded();
    let limits = Limits { line: Some(10), ..Limits::default() };
    let goes_on = |visit: Visit| {
        visit.echoes("fits so.x");
        visit.send("does not fit\n");
        assert!(rest_of(&visit.client).is_empty());
        Some(visit)
    };
    let error = "LineTooLong { limit: 10 }";
    ends(Echo, limits.clone(), goes_on, Ending(CloseReason::Limit, Some(error.into())));
    let keeps_quiet = handler_fn(|connection| {
        once(connection)?;
        let error = connection.read_line(&mut String::new()).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: 10, .. })));
        Ok(())
    });
    ends(keeps_quiet, limits, goes_on, quietly(CloseReason::Limit));
}

#[test]
fn a_frame_over_the_limit() {
    let _bound = bounded();
    let frames = LengthPrefixed::new(Prefix::U16).max_length(10);
    for own in [true, false] {
        let reads_frames = handler_fn(move |connection| {
            let mut message = Vec::new();
            let is_there = match own {
                true => connection.read_message(&frames, &mut message)?,
                false => frames.read(connection, &mut message)?,
            };
            assert!(!is_there, "it was read");
            Ok(())
        });
        let announces_much = |visit: Visit| {
            visit.send(b"\xff\xff");
            assert!(rest_of(&visit.client).is_empty());
            Some(visit)
        };
        let error = "MessageTooLong { length: 65535, limit: 10 }";
        let ending = Ending(CloseReason::Limit, Some(error.into()));
        ends(reads_frames, Limits::default(), announces_much, ending);
    }
}

#[test]
fn a_member_that_is_too_slow_for_a_broadcast() {
    let _bound = bounded();
    for reads in [true, false] {
        let is_flooded = handler_fn(move |connection| {
            let room = Broadcast::with_capacity(64 * 1024);
            let _member = room.join(connection)?;
            while room.slow_members() == 0 {
                room.send(&[b'x'; 16 * 1024][..]);
            }
            match reads {
                true => assert_eq!(connection.read_line(&mut String::new())?, 0),
                false => connection.write_all(&[b'y'; 65_536])?,
            }
            Ok(())
        });
        ends(is_flooded, Limits::default(), Some, quietly(CloseReason::Limit));
    }
}

// The server's doing.

#[test]
fn a_handler_that_is_done() {
    let _bound = bounded();
    let asks = |visit: Visit| {
        visit.echoes("hello");
        Some(visit)
    };
    ends(once, Limits::default(), asks, quietly(CloseReason::Completed));
}

/// Writes without end to a client that asks for it, and otherwise reads.
fn busy(connection: &mut Connection) -> HandlerResult {
    let mut line = String::new();
    while connection.read_line(&mut line)? > 0 {
        writeln!(connection, "at your service")?;
        if line == "flood\n" {
            loop {
                connection.write_all(&[b'x'; 65_536])?;
            }
        }
        line.clear();
    }
    Ok(())
}

#[test]
fn a_connection_that_is_disconnected() {
    let _bound = bounded();
    for request in ["wait\n", "flood\n"] {
        let is_disconnected = |visit: Visit| {
            visit.send(request);
            visit.reads("at your service");
            let id = visit.server.connections()[0].id;
            assert!(visit.server.disconnect(id));
            visit.reads_to_the_end();
            Some(visit)
        };
        ends(busy, Limits::default(), is_disconnected, quietly(CloseReason::Stopped));
    }
}

#[test]
fn a_connection_that_the_stop_of_its_server_ends() {
    let _bound = bounded();
    let waits = |visit: Visit| {
        visit.send("wait\n");
        visit.reads("at your service");
        assert!(visit.server.stop(PATIENCE).is_clean());
        assert!(rest_of(&visit.client).is_empty());
        Some(visit)
    };
    ends(busy, Limits::default(), waits, quietly(CloseReason::Stopped));
}

/// By one thread, and by several.
fn on_tcp_servers(handler: fn(&mut Connection) -> HandlerResult, test: impl Fn(RunningServer)) {
    for mixin in [Box::new(Sequential) as Box<dyn Spawnable>, Box::new(Threading::new())] {
        let builder = TcpServer::builder().mixin(mixin);
        test(builder.bind("127.0.0.1:0", handler).unwrap().spawn().unwrap());
    }
}

#[test]
fn a_connection_that_the_stop_of_its_server_cuts_off() {
    let _bound = bounded();
    on_tcp_servers(busy, |server| {
        let client = Client::of(&server);
        client.send("flood\n");
        assert_eq!(common::line_of(&client), "at your service");
        let handle = server.handle();
        assert_eq!(server.stop(Duration::ZERO).forced, 1);
        is_counted(&handle, &[CloseReason::Stopped]);
    });
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_resets() {
    let _bound = bounded();
    /// Answers with more than a client takes that does not read, and as much as a socket does.
    fn large_answer(connection: &mut Connection) -> HandlerResult {
        connection.write_all(&vec![b'x'; 1024 * 1024])?;
        while connection.read_line(&mut String::new())? > 0 {}
        Ok(())
    }
    on_tcp_servers(large_answer, |server| {
        let Client::Tcp(client) = Client::of(&server) else { unreachable!() };
        // It has come, and waits for its client.
        client.peek(&mut [0]).unwrap();
        let handle = server.handle();
        let stop = std::thread::spawn(move || server.stop(PATIENCE));
        wait_until("the stop begins", || handle.is_stopping());
        // While it takes no more of its answer it is waited for, and then no longer.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stop.is_finished());
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let report = stop.join().unwrap();
        assert!(report.is_clean(), "{report:?}");
        is_counted(&handle, &[CloseReason::Stopped]);
    });
}

#[test]
fn an_access_list_and_a_handler_that_deny() {
    let _bound = bounded();
    struct Closed;
    impl common::Settings for Closed {
        fn set<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
            builder.access(Access::closed())
        }
    }
    struct Denies;
    impl StreamRequestHandler for Denies {
        fn verify_request(&self, connection: &Connection) -> bool {
            assert_eq!(connection.close_reason(), None);
            false
        }

        fn handle(&self, _: &mut Connection) -> HandlerResult {
            unreachable!("it was denied");
        }
    }
    let is_denied = |server: &RunningServer| {
        for times in 1..=3 {
            assert!(rest_of(&Client::of(server)).is_empty());
            is_counted(server, &vec![CloseReason::Denied; times]);
        }
    };
    let (handler, words) = Watched::new(Echo);
    on_every_stream_server(handler, Closed, is_denied);
    assert!(words.recv().is_err(), "a hook was told");
    let (handler, words) = Watched::new(Denies);
    on_every_stream_server(handler, (), is_denied);
    assert!(words.recv().is_err(), "a hook was told");
}

// The handler's doing.

#[test]
fn errors_and_panics_in_each_method() {
    let _bound = bounded();
    /// Fails in its `method`, in this way.
    struct Fails(&'static str, fn() -> HandlerResult);
    impl Fails {
        fn at(&self, method: &str) -> HandlerResult {
            if method == self.0 { (self.1)() } else { Ok(()) }
        }
    }
    impl StreamRequestHandler for Fails {
        fn setup(&self, _: &mut Connection) -> HandlerResult {
            self.at("setup")
        }

        fn handle(&self, connection: &mut Connection) -> HandlerResult {
            once(connection)?;
            self.at("handle")
        }

        fn finish(&self, _: &mut Connection) -> HandlerResult {
            self.at("finish")
        }
    }
    let ways: [(fn() -> HandlerResult, _, _); 3] = [
        (|| Err("no such thing".into()), CloseReason::Failed, "no such thing"),
        (
            || Ok(std::fs::read("/nonexistent").map(drop)?),
            CloseReason::Failed,
            "No such file or directory (os error 2)",
        ),
        (|| panic!("oh no"), CloseReason::Panicked, "Panicked { message: \"oh no\" }"),
    ];
    for (fail, reason, error) in ways {
        for method in ["setup", "handle", "finish"] {
            let (handler, words) = Watched::new(Fails(method, fail));
            let words = Mutex::new(words);
            on_every_stream_server(handler, (), |server| {
                let client = Client::of(server);
                let words = words.lock();
                // The hooks are told what was known before.
                let known = if method == "finish" { CloseReason::Completed } else { reason };
                if method != "setup" {
                    assert_eq!(common::ask(&client, "hello"), "hello");
                    assert_eq!(next(&words), format!("finish: {known:?}"));
                }
                assert_eq!(next(&words), format!("{known:?}: {error}"));
                is_counted(server, &[reason]);
            });
        }
    }
}

/// What a handler is told of a connection of its own that was reset, or has ended too soon.
fn upstream(is_reset: bool) -> HandlerResult {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    if is_reset {
        SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    }
    drop(server);
    client.read_exact(&mut [0])?;
    unreachable!("a byte came");
}

#[test]
fn a_connection_of_the_handlers_own_that_hangs_up_is_not_the_clients() {
    let _bound = bounded();
    for (is_reset, error) in
        [(true, "Connection reset by peer (os error 104)"), (false, "failed to fill whole buffer")]
    {
        let asks_upstream = move |connection: &mut Connection| -> HandlerResult {
            once(connection)?;
            connection.flush()?;
            upstream(is_reset)
        };
        is_an_error(asks_upstream, error, |_| {});
    }
    // Also where the client has said all that it wanted to say, and waits for the answer.
    let reads_all = |connection: &mut Connection| -> HandlerResult {
        let mut all = Vec::new();
        connection.read_to_end(&mut all)?;
        connection.write_all(&all)?;
        connection.flush()?;
        upstream(true)
    };
    is_an_error(reads_all, "Connection reset by peer (os error 104)", |client| {
        client.shutdown(Shutdown::Write);
    });
}

#[track_caller]
fn is_an_error(handler: impl StreamRequestHandler, error: &str, then: impl Fn(&Client)) {
    let (handler, words) = Watched::new(handler);
    let words = Mutex::new(words);
    on_every_stream_server(handler, (), |server| {
        let client = Client::of(server);
        client.send("hello\n");
        then(&client);
        assert_eq!(rest_of(&client), b"hello\n");
        let words = words.lock();
        assert_eq!(next(&words), "finish: Failed");
        assert_eq!(next(&words), format!("Failed: {error}"));
        is_counted(server, &[CloseReason::Failed]);
    });
}

// Requests that no handler was given.

#[test]
fn a_request_that_no_thread_can_be_had_for() {
    let _bound = bounded();
    // More than there are addresses.
    let mixin = Threading::new().stack_size(1 << 60);
    let builder = ThreadingTcpServer::builder().mixin(mixin);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    assert!(rest_of(&Client::of(&server)).is_empty());
    wait_until("it is refused", || server.stats().refused == 1 && server.stats().active == 0);
    // No connection has ended by that.
    assert!(by_reason(&server.stats()).iter().all(|(_, counted)| *counted == 0));
}
