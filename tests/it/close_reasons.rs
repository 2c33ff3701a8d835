//! Why a connection has ended: each reason, as `finish` and `handle_error` see it, and as it is
//! counted. The reasons that depend on time are in `timeouts.rs`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{Client, ask, line_of, read_until_closed, reset, rest_of, tcp};
use crate::support::close_reasons::{Ending, Limits, Visit, by_reason, ends, is_counted, no_error};
use crate::support::recorder::{Call, Recorder, next_finish};
use crate::support::servers::{
    Settings, both_mixins, echo_once, flood, on_every_stream_server, serve_with,
};
use crate::support::{TIMEOUT, next, wait_until};

// Ended by the client.

#[test]
fn a_client_that_shuts_down_its_writes_ends_with_eof() {
    let shuts_down = |visit: Visit| {
        visit.echoes("hello");
        visit.client.shutdown(Shutdown::Write);
        assert!(rest_of(&visit.client).is_empty());
        Some(visit)
    };
    ends(Echo, Limits::default(), shuts_down, no_error(CloseReason::Eof));
}

#[test]
fn a_client_that_closes_ends_with_eof() {
    let closes = |visit: Visit| {
        visit.echoes("hello");
        None
    };
    ends(Echo, Limits::default(), closes, no_error(CloseReason::Eof));
}

/// The client closes before this handler has read all that it waits for. The read fails, but this is
/// an ordinary end, and not reported as an error.
fn closes_within(read: impl Fn(&mut Connection) -> io::Result<()> + Send + Sync + 'static) {
    let reads = handler_fn(move |connection| {
        read(connection)?;
        unreachable!("the client has sent only a part");
    });
    let closes = |visit: Visit| {
        visit.send(b"\0\x10only a part");
        None
    };
    ends(reads, Limits::default(), closes, no_error(CloseReason::Eof));
}

#[test]
fn a_client_that_closes_within_a_frame_ends_with_eof() {
    let frames = LengthPrefixed::new(Prefix::U16);
    closes_within(move |connection| frames.read(connection, &mut Vec::new()).map(drop));
    closes_within(move |connection| connection.read_message(&frames, &mut Vec::new()).map(drop));
}

#[test]
fn a_client_that_closes_within_read_exact_ends_with_eof() {
    closes_within(|connection| connection.read_exact(&mut [0; 100]));
}

#[test]
fn a_client_that_closes_within_one_message_ends_with_eof() {
    closes_within(|connection| {
        connection.with_message_timeout(|connection| connection.read_exact(&mut [0; 100]))
    });
}

#[test]
fn a_reset_while_the_handler_reads() {
    let reads = handler_fn(|connection| {
        writeln!(connection, "hello")?;
        connection.read_line(&mut String::new())?;
        unreachable!("a line came");
    });
    ends(reads, Limits::default(), Visit::resets, no_error(CloseReason::Reset));
}

#[test]
fn a_reset_while_the_handler_writes() {
    ends(handler_fn(flood), Limits::default(), Visit::resets, no_error(CloseReason::Reset));
}

#[test]
fn a_reset_that_the_handler_does_not_return_is_still_the_reason() {
    let returns_ok = handler_fn(|connection| {
        writeln!(connection, "hello")?;
        let _ = connection.read_line(&mut String::new());
        Ok(())
    });
    ends(returns_ok, Limits::default(), Visit::resets, no_error(CloseReason::Reset));
}

/// Sends a line of ten bytes, which is echoed, and a longer one.
fn sends_a_long_line(visit: Visit) -> Option<Visit> {
    visit.echoes("ten bytes");
    visit.send("more than ten\n");
    assert!(rest_of(&visit.client).is_empty());
    Some(visit)
}

#[test]
fn a_line_over_the_limit() {
    let limits = Limits { line: Some(10), ..Limits::default() };
    let error = "LineTooLong { limit: 10 }".to_owned();
    ends(Echo, limits, sends_a_long_line, Ending(CloseReason::Limit, Some(error)));
}

#[test]
fn a_line_over_the_limit_whose_error_the_handler_does_not_return() {
    let limits = Limits { line: Some(10), ..Limits::default() };
    let returns_ok = handler_fn(|connection| {
        echo_once(connection)?;
        let error = connection.read_line(&mut String::new()).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: 10, .. })));
        Ok(())
    });
    ends(returns_ok, limits, sends_a_long_line, no_error(CloseReason::Limit));
}

#[test]
fn a_frame_over_the_limit() {
    let frames = LengthPrefixed::new(Prefix::U16).max_length(10);
    for by_connection in [true, false] {
        let reads_frames = handler_fn(move |connection| {
            let mut message = Vec::new();
            let is_read = match by_connection {
                true => connection.read_message(&frames, &mut message)?,
                false => frames.read(connection, &mut message)?,
            };
            assert!(!is_read);
            Ok(())
        });
        let announces_a_long_frame = |visit: Visit| {
            visit.send(b"\xff\xff");
            assert!(rest_of(&visit.client).is_empty());
            Some(visit)
        };
        let error = "MessageTooLong { length: 65535, limit: 10 }".to_owned();
        let ending = Ending(CloseReason::Limit, Some(error));
        ends(reads_frames, Limits::default(), announces_a_long_frame, ending);
    }
}

#[test]
fn a_member_that_is_too_slow_for_a_broadcast() {
    for reads in [true, false] {
        let gets_too_much = handler_fn(move |connection| {
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
        ends(gets_too_much, Limits::default(), Some, no_error(CloseReason::Limit));
    }
}

// Ended by the server.

#[test]
fn a_handler_that_returns() {
    let asks = |visit: Visit| {
        visit.echoes("hello");
        Some(visit)
    };
    ends(echo_once, Limits::default(), asks, no_error(CloseReason::Completed));
}

/// Writes without end to a client that asks for it, and else reads.
fn busy(connection: &mut Connection) -> HandlerResult {
    let mut line = String::new();
    while connection.read_line(&mut line)? > 0 {
        writeln!(connection, "at your service")?;
        if line == "flood\n" {
            return flood(connection);
        }
        line.clear();
    }
    Ok(())
}

#[test]
fn a_connection_that_is_disconnected() {
    for request in ["wait\n", "flood\n"] {
        let is_disconnected = |visit: Visit| {
            visit.send(request);
            visit.reads("at your service");
            let id = visit.server.connections()[0].id;
            assert!(visit.server.disconnect(id));
            read_until_closed(&visit.client);
            Some(visit)
        };
        ends(busy, Limits::default(), is_disconnected, no_error(CloseReason::Stopped));
    }
}

#[test]
fn a_connection_that_a_stop_drains() {
    let waits = |visit: Visit| {
        visit.send("wait\n");
        visit.reads("at your service");
        assert!(visit.server.stop(TIMEOUT).is_clean());
        assert!(rest_of(&visit.client).is_empty());
        Some(visit)
    };
    ends(busy, Limits::default(), waits, no_error(CloseReason::Stopped));
}

fn on_tcp_servers(handler: fn(&mut Connection) -> HandlerResult, test: impl Fn(RunningServer)) {
    for mixin in both_mixins() {
        test(serve_with(TcpServer::builder().mixin(mixin), handler));
    }
}

#[test]
fn a_connection_that_a_stop_forces() {
    on_tcp_servers(busy, |server| {
        let client = Client::of(&server);
        client.send("flood\n");
        assert_eq!(line_of(&client), "at your service");
        let handle = server.handle();
        assert_eq!(server.stop(Duration::ZERO).forced, 1);
        is_counted(&handle, &[CloseReason::Stopped]);
    });
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_resets() {
    /// Writes more than fits into the receive buffer of the client, which does not read, and no more
    /// than fits into the send buffer.
    fn large_answer(connection: &mut Connection) -> HandlerResult {
        connection.write_all(&vec![b'x'; 1024 * 1024])?;
        while connection.read_line(&mut String::new())? > 0 {}
        Ok(())
    }
    on_tcp_servers(large_answer, |server| {
        let client = tcp(server.local_addr());
        // The answer has begun to arrive.
        client.peek(&mut [0]).unwrap();
        let handle = server.handle();
        let stop = std::thread::spawn(move || server.stop(TIMEOUT));
        wait_until("the stop begins", || handle.is_stopping());
        // The stop waits for the client to take the rest of the answer.
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stop.is_finished());
        reset(client);
        let report = stop.join().unwrap();
        assert!(report.is_clean(), "{report:?}");
        is_counted(&handle, &[CloseReason::Stopped]);
    });
}

/// Three connections are denied, and no hook but `verify_request` is called.
fn is_denied(handler: impl StreamRequestHandler, settings: impl Settings) {
    let (handler, calls) = Recorder::new(handler);
    on_every_stream_server(handler, settings, |server| {
        for times in 1..=3 {
            assert!(rest_of(&Client::of(server)).is_empty());
            is_counted(&server.handle(), &vec![CloseReason::Denied; times]);
        }
    });
    assert!(calls.recv().is_err(), "a hook was called");
}

#[test]
fn an_access_list_that_denies() {
    struct Closed;
    impl Settings for Closed {
        fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
            builder.access(Access::closed())
        }
    }
    is_denied(Echo, Closed);
}

#[test]
fn a_handler_that_denies() {
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
    is_denied(Denies, ());
}

// Ended by the handler.

#[test]
fn errors_and_panics_in_each_hook() {
    /// Fails in this hook, in this way.
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
            echo_once(connection)?;
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
        (|| panic!("oh no"), CloseReason::Panicked, "handler panicked: oh no"),
    ];
    for (fail, reason, error) in ways {
        for method in ["setup", "handle", "finish"] {
            let (handler, calls) = Recorder::new(Fails(method, fail));
            let calls = Mutex::new(calls);
            on_every_stream_server(handler, (), |server| {
                let client = Client::of(server);
                let calls = calls.lock();
                // A hook sees the reason as it was known before.
                let known = if method == "finish" { CloseReason::Completed } else { reason };
                if method == "setup" {
                    assert_eq!(next(&calls), Call::Setup);
                } else {
                    assert_eq!(ask(&client, "hello"), "hello");
                    assert_eq!(next_finish(&calls), known);
                }
                is_told(&calls, known, error);
                is_counted(&server.handle(), &[reason]);
            });
        }
    }
}

/// The next call is of `handle_error`, with this reason and error.
#[track_caller]
fn is_told(calls: &Receiver<Call>, expected: CloseReason, error: &str) {
    let Call::Error { reason, text, .. } = next(calls) else { panic!("no error") };
    assert_eq!((reason, text.as_str()), (Some(expected), error));
}

/// The error of a connection that the handler itself has opened, which was reset or ended early.
fn upstream(is_reset: bool) -> HandlerResult {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    match is_reset {
        true => reset(server),
        false => drop(server),
    }
    client.read_exact(&mut [0])?;
    unreachable!("a byte came");
}

#[test]
fn an_error_of_an_upstream_connection_is_not_the_clients() {
    for (is_reset, error) in
        [(true, "Connection reset by peer (os error 104)"), (false, "failed to fill whole buffer")]
    {
        let asks_upstream = move |connection: &mut Connection| -> HandlerResult {
            echo_once(connection)?;
            connection.flush()?;
            upstream(is_reset)
        };
        is_an_error(asks_upstream, error, |_| {});
    }
}

#[test]
fn an_error_of_an_upstream_connection_after_the_clients_eof_is_not_the_clients() {
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
    let (handler, calls) = Recorder::new(handler);
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, (), |server| {
        let client = Client::of(server);
        client.send("hello\n");
        then(&client);
        assert_eq!(rest_of(&client), b"hello\n");
        let calls = calls.lock();
        assert_eq!(next_finish(&calls), CloseReason::Failed);
        is_told(&calls, CloseReason::Failed, error);
        is_counted(&server.handle(), &[CloseReason::Failed]);
    });
}

// Requests that no handler was called for.

#[test]
fn a_request_that_no_thread_can_be_started_for() {
    // More than the address space.
    let mixin = Threading::new().stack_size(1 << 60);
    let builder = ThreadingTcpServer::builder().mixin(mixin);
    let server = serve_with(builder, Echo);
    assert!(rest_of(&Client::of(&server)).is_empty());
    wait_until("the request is refused", || {
        server.stats().refused == 1 && server.stats().active == 0
    });
    // It does not count as a connection that has ended.
    assert!(by_reason(&server.stats()).iter().all(|(_, counted)| *counted == 0));
}
