//! How long a server waits for a client: for the next message, within a message, until it is
//! complete, and until the client takes what it is sent. No limit is reached early, and each is
//! reported as what it is.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{Client, line_of, rest_of};
use crate::support::close_reasons::{Ending, LONG, Limits, SHORT, Visit, ends, no_error};
use crate::support::servers::flood;
use crate::support::{TIMEOUT, next, wait_until};

fn idle_timeout(limit: Duration) -> Ending {
    Ending(CloseReason::IdleTimeout, Some(format!("IdleTimeout {{ limit: {limit:?} }}")))
}

fn read_timeout(limit: Duration) -> Ending {
    Ending(CloseReason::ReadTimeout, Some(format!("ReadTimeout {{ limit: {limit:?} }}")))
}

fn deadline(limit: Duration) -> Ending {
    Ending(CloseReason::MessageTimeout, Some(format!("MessageTimeout {{ limit: {limit:?} }}")))
}

fn too_slow(rate: MinRate) -> Ending {
    let error = format!("TooSlow {{ bytes_per_second: {} }}", rate.bytes_per_second);
    Ending(CloseReason::TooSlow, Some(error))
}

fn write_timeout(limit: Duration) -> Ending {
    Ending(CloseReason::WriteTimeout, Some(format!("WriteTimeout {{ limit: {limit:?} }}")))
}

// Silent clients.

fn is_silent(visit: Visit) -> Option<Visit> {
    let begin = visit.begin;
    visit.ends_no_earlier(begin, SHORT)
}

#[test]
fn a_silent_client_is_closed_after_the_read_timeout() {
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    ends(Echo, limits, is_silent, read_timeout(SHORT));
}

#[test]
fn a_handler_may_set_its_own_read_timeout() {
    let limits = Limits { read: Some(LONG), ..Limits::default() };
    let sets_timeout = handler_fn(|connection| {
        connection.set_read_timeout(Some(SHORT));
        StreamRequestHandler::handle(&Echo, connection)
    });
    ends(sets_timeout, limits, is_silent, read_timeout(SHORT));
}

#[test]
fn between_messages_the_idle_timeout_counts() {
    let limits = Limits { idle: Some(SHORT), read: Some(LONG), ..Limits::default() };
    ends(Echo, limits, is_silent, idle_timeout(SHORT));
}

#[test]
fn within_a_message_the_read_timeout_counts() {
    let limits = Limits { idle: Some(LONG), read: Some(SHORT), ..Limits::default() };
    let stops_in_a_message = |visit: Visit| {
        thread::sleep(3 * SHORT);
        visit.echoes("whole");
        thread::sleep(3 * SHORT);
        let begin = Instant::now();
        visit.send("half");
        visit.ends_no_earlier(begin, SHORT)
    };
    ends(Echo, limits, stops_in_a_message, read_timeout(SHORT));
}

#[test]
fn an_idle_timeout_that_is_set_within_a_message_counts_after_it() {
    let limits = Limits { idle: Some(LONG), read: Some(LONG), ..Limits::default() };
    let sets_timeout = handler_fn(|connection| {
        connection.with_message_timeout(|connection| {
            connection.read_exact(&mut [0])?;
            connection.set_idle_timeout(Some(SHORT));
            writeln!(connection, "go on")?;
            connection.read_line(&mut String::new())
        })?;
        StreamRequestHandler::handle(&Echo, connection)
    });
    let pauses_in_a_message = |visit: Visit| {
        visit.send("?");
        visit.reads("go on");
        thread::sleep(3 * SHORT);
        let begin = Instant::now();
        visit.send("the rest\n");
        visit.ends_no_earlier(begin, SHORT)
    };
    ends(sets_timeout, limits, pauses_in_a_message, idle_timeout(SHORT));
}

// Messages that take too long.

fn deadline_limits() -> Limits {
    Limits { message: Some(SHORT), read: Some(LONG), ..Limits::default() }
}

#[test]
fn a_message_has_a_deadline_though_each_byte_is_in_time() {
    ends(Echo, deadline_limits(), |visit| visit.drips(b"x", SHORT), deadline(SHORT));
}

/// Reads lines up to an empty one, as one message.
fn head(connection: &mut Connection) -> io::Result<()> {
    connection.with_message_timeout(|connection| {
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 1 {
            line.clear();
        }
        Ok(())
    })
}

#[test]
fn a_message_of_many_lines_has_one_deadline() {
    let reads_a_head = || handler_fn(|connection| Ok(head(connection)?));
    ends(reads_a_head(), deadline_limits(), |visit| visit.drips(b"a: b\n", SHORT), deadline(SHORT));
    // Also when there is always something to read.
    let floods = |visit: Visit| visit.floods(&b"a: b\n".repeat(1000), SHORT);
    ends(reads_a_head(), deadline_limits(), floods, deadline(SHORT));
}

#[test]
fn a_frame_has_a_deadline() {
    let frames = LengthPrefixed::new(Prefix::U16);
    let reads_a_frame = handler_fn(move |connection| {
        let mut message = Vec::new();
        while connection.read_message(&frames, &mut message)? {
            connection.write_message(&frames, &message)?;
        }
        Ok(())
    });
    let drips = |visit: Visit| {
        visit.send(b"\0\x02hi");
        let mut answer = [0; 4];
        (&visit.client).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\0\x02hi");
        visit.drips(b"\xff", SHORT)
    };
    ends(reads_a_frame, deadline_limits(), drips, deadline(SHORT));
}

#[test]
fn bytes_that_were_received_with_the_message_before_begin_the_next() {
    let sends_one_and_a_half = |visit: Visit| {
        let begin = Instant::now();
        visit.send("one\ntw");
        visit.reads("one");
        visit.ends_no_earlier(begin, SHORT)
    };
    ends(Echo, deadline_limits(), sends_one_and_a_half, deadline(SHORT));
    let limits = Limits { read: Some(SHORT), idle: Some(LONG), ..Limits::default() };
    ends(Echo, limits, sends_one_and_a_half, read_timeout(SHORT));
}

#[test]
fn each_message_has_its_own_deadline() {
    let limits = Limits { message: Some(LONG), ..Limits::default() };
    let sets_deadline = handler_fn(|connection| {
        let mut line = Vec::new();
        connection.read_line(&mut line)?;
        connection.set_message_timeout(Some(SHORT));
        connection.write_all(&line)?;
        StreamRequestHandler::handle(&Echo, connection)
    });
    let takes_its_time = |visit: Visit| {
        visit.send("long ");
        thread::sleep(3 * SHORT);
        visit.echoes_rest("long ", "ago");
        // A pause before a message does not count.
        thread::sleep(3 * SHORT);
        visit.echoes("at once");
        let begin = Instant::now();
        visit.send("slow");
        visit.ends_no_earlier(begin, SHORT)
    };
    ends(sets_deadline, limits, takes_its_time, deadline(SHORT));
}

#[test]
fn a_deadline_ends_with_its_message() {
    let limits = Limits { message: Some(LONG), ..Limits::default() };
    let reads_on = handler_fn(|connection| {
        let mut line = Vec::new();
        connection.read_line(&mut line)?;
        connection.set_message_timeout(Some(SHORT));
        connection.set_read_timeout(Some(3 * SHORT));
        connection.write_all(&line)?;
        // A read outside of a message has no deadline.
        connection.read_exact(&mut [0; 10])?;
        Ok(())
    });
    let sends_a_line_and_is_silent = |visit: Visit| {
        visit.send("in two ");
        thread::sleep(SHORT);
        let begin = Instant::now();
        visit.echoes_rest("in two ", "pieces");
        visit.ends_no_earlier(begin, 3 * SHORT)
    };
    ends(reads_on, limits, sends_a_line_and_is_silent, read_timeout(3 * SHORT));
}

#[test]
fn what_arrived_in_time_is_read_though_the_server_is_late() {
    // More than one read returns, and no more than the client sends before it waits.
    let rest = "x".repeat(20_000);
    let is_late = || {
        handler_fn(|connection| {
            connection.with_message_timeout(|connection| {
                // The time of a message runs from its second read on.
                connection.read_exact(&mut [0; 600])?;
                connection.read_exact(&mut [0; 600])?;
                thread::sleep(3 * SHORT);
                let mut line = Vec::new();
                connection.read_line(&mut line)?;
                connection.write_all(&line)
            })?;
            StreamRequestHandler::handle(&Echo, connection)
        })
    };
    let sends_all_at_once = |visit: Visit| {
        visit.send([&"x".repeat(1200), &*rest, "\n"].concat());
        visit.reads(&rest);
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    ends(is_late(), deadline_limits(), sends_all_at_once, no_error(CloseReason::Eof));
    // What comes later is not.
    let sends_the_end_too_late = |visit: Visit| {
        visit.send(["x".repeat(1200), rest.clone()].concat());
        let begin = Instant::now();
        visit.ends_no_earlier(begin, SHORT)
    };
    ends(is_late(), deadline_limits(), sends_the_end_too_late, deadline(SHORT));
}

// Rates.

#[test]
fn a_message_that_arrives_too_slowly_ends_its_connection() {
    let rate = MinRate { bytes_per_second: 10_000, grace: SHORT };
    let limits = Limits { rate: Some(rate), read: Some(LONG), ..Limits::default() };
    ends(Echo, limits, |visit| visit.drips(b"x", SHORT), too_slow(rate));
}

#[test]
fn a_handler_may_lift_the_minimum_rate() {
    let rate = MinRate { bytes_per_second: 10_000, grace: SHORT };
    let limits = Limits { rate: Some(rate), read: Some(LONG), ..Limits::default() };
    let lifts_rate = handler_fn(|connection| {
        connection.set_min_rate(None);
        connection.set_message_timeout(Some(3 * SHORT));
        StreamRequestHandler::handle(&Echo, connection)
    });
    ends(lifts_rate, limits, |visit| visit.drips(b"x", 3 * SHORT), deadline(3 * SHORT));
}

#[test]
fn a_message_that_arrives_fast_enough_may_take_long() {
    // A thousand bytes may take a hundred seconds.
    let rate = MinRate { bytes_per_second: 10, grace: SHORT };
    let limits = Limits { rate: Some(rate), ..Limits::default() };
    let pauses = |visit: Visit| {
        let begin = "x".repeat(1000);
        visit.send(&begin);
        thread::sleep(3 * SHORT);
        visit.echoes_rest(&begin, "x");
        // The rate does not count between messages.
        thread::sleep(3 * SHORT);
        visit.echoes("and another");
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    ends(Echo, limits, pauses, no_error(CloseReason::Eof));
}

/// Writes without end after the first line.
fn floods() -> impl StreamRequestHandler {
    handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        flood(connection)
    })
}

const FAST: MinRate = MinRate { bytes_per_second: 1_000_000_000, grace: SHORT };

/// Reads an endless answer in small pieces, until the server closes the connection.
fn reads_slowly(visit: Visit) -> Option<Visit> {
    let begin = Instant::now();
    visit.send("please\n");
    while visit.server.stats().finished == 0 {
        assert!(begin.elapsed() < TIMEOUT, "the server does not close the connection");
        let _ = (&visit.client).read(&mut [0; 1000]);
        thread::sleep(SHORT / 10);
    }
    visit.ends_no_earlier(begin, SHORT)
}

#[test]
fn a_client_that_takes_its_answer_too_slowly_is_closed() {
    let limits = Limits { rate: Some(FAST), write: Some(LONG), ..Limits::default() };
    ends(floods(), limits, reads_slowly, too_slow(FAST));
}

#[test]
fn a_handler_may_set_its_own_minimum_rate() {
    let sets_rate = handler_fn(move |connection| {
        connection.set_min_rate(Some(FAST));
        floods().handle(connection)
    });
    let limits = Limits { write: Some(LONG), ..Limits::default() };
    ends(sets_rate, limits, reads_slowly, too_slow(FAST));
}

#[test]
fn what_the_kernel_has_buffered_is_not_taken() {
    // What a Unix socket buffers would be good for ten seconds, and a TCP socket buffers more.
    let rate = MinRate { bytes_per_second: 20_000, grace: SHORT };
    let limits = Limits { rate: Some(rate), write: Some(LONG), ..Limits::default() };
    let writes_once = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        Ok(connection.write_all(&vec![b'x'; 8 * 1024 * 1024])?)
    });
    let does_not_read = |visit: Visit| {
        let visit = does_not_read(visit)?;
        assert!(visit.begin.elapsed() < Duration::from_secs(9), "{:?}", visit.begin.elapsed());
        Some(visit)
    };
    ends(writes_once, limits, does_not_read, too_slow(rate));
}

/// Longer than a busy machine delays a client.
const STEADY: Duration = Duration::from_millis(1500);

/// Reads for twice the timeout, much less than what wakes a blocked write: a third of the send buffer
/// of a TCP socket, three quarters of a Unix socket's.
fn reads_steadily(visit: Visit) -> Option<Visit> {
    let mut piece = vec![0; 12 * 1024];
    if let Client::Tcp(stream) = &visit.client {
        // Linux may let it grow to 6 MiB, and opens a window that was closed only when a sixteenth of
        // the buffer is free: more than is read here.
        SockRef::from(stream).set_recv_buffer_size(128 * 1024).unwrap();
        // A closed window also opens only when there is room for a whole segment, of 64 KiB on the
        // loopback interface. Two may have to be read for that: eleven times 12 KiB, 1.6 s.
        piece.resize(32 * 1024, 0);
    }
    visit.send("please\n");
    for _ in 0..20 {
        (&visit.client).read_exact(&mut piece).unwrap();
        assert_eq!(visit.server.stats().finished, 0, "{:?}", visit.begin.elapsed());
        thread::sleep(STEADY / 10);
    }
    visit.resets()
}

#[test]
fn a_client_that_reads_slowly_but_steadily_is_not_cut_off() {
    let rate = MinRate { bytes_per_second: 10_000, grace: STEADY };
    thread::scope(|scope| {
        for rate in [None, Some(rate)] {
            scope.spawn(move || {
                let limits = Limits { write: Some(STEADY), rate, ..Limits::default() };
                ends(floods(), limits, reads_steadily, no_error(CloseReason::Reset));
            });
        }
    });
}

// Clients that do not read.

fn does_not_read(visit: Visit) -> Option<Visit> {
    let begin = Instant::now();
    visit.send("please\n");
    wait_until("the connection is closed", || visit.server.stats().finished == 1);
    assert!(begin.elapsed() >= SHORT, "after {:?}", begin.elapsed());
    Some(visit)
}

#[test]
fn a_client_that_does_not_read_is_closed_after_the_write_timeout() {
    let limits = Limits { write: Some(SHORT), ..Limits::default() };
    ends(floods(), limits, does_not_read, write_timeout(SHORT));
    // A minimum rate that is missed too does not change what is reported.
    let rate = Some(MinRate { bytes_per_second: 1, grace: LONG });
    let limits = Limits { write: Some(SHORT), rate, ..Limits::default() };
    ends(floods(), limits, does_not_read, write_timeout(SHORT));
}

#[test]
fn a_handler_may_set_its_own_write_timeout() {
    let limits = Limits { write: Some(LONG), ..Limits::default() };
    let sets_timeout = handler_fn(|connection| {
        connection.set_write_timeout(Some(SHORT));
        floods().handle(connection)
    });
    ends(sets_timeout, limits, does_not_read, write_timeout(SHORT));
}

#[test]
fn nothing_is_sent_after_a_write_that_timed_out_in_part() {
    let room = Broadcast::new();
    let (failed, has_failed) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let is_a_member = handler_fn(move |connection| {
        let member = room.join(connection)?;
        let error = floods().handle(connection).unwrap_err();
        failed.send(())?;
        may_go.lock().recv()?;
        room.send(&b"a message"[..]);
        member.leave();
        Err(error)
    });
    let reads_later = |visit: Visit| {
        visit.send("please\n");
        next(&has_failed);
        // The socket buffers have room again, in the middle of what the handler has written.
        (&visit.client).read_exact(&mut [0; 128 * 1024]).unwrap();
        go.send(()).unwrap();
        let rest = rest_of(&visit.client);
        assert!(rest.iter().all(|byte| *byte == b'x'), "a message after a gap");
        Some(visit)
    };
    let limits = Limits { write: Some(SHORT), ..Limits::default() };
    ends(is_a_member, limits, reads_later, write_timeout(SHORT));
}

// Handlers that go on after a timeout.

#[test]
fn a_handler_may_return_ok_after_a_timeout() {
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    let says_goodbye = handler_fn(|connection| {
        let error = connection.read_line(&mut String::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { limit: SHORT, .. })));
        writeln!(connection, "goodbye")?;
        Ok(())
    });
    let reads_it = |visit: Visit| {
        visit.reads("goodbye");
        Some(visit)
    };
    ends(says_goodbye, limits, reads_it, no_error(CloseReason::ReadTimeout));
}

/// Reads on after each timeout. Returns at end-of-file, or after the first line.
fn reads_on(returns_after_a_line: bool) -> impl StreamRequestHandler {
    handler_fn(move |connection| {
        let mut line = Vec::new();
        loop {
            match connection.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => connection.write_all(&std::mem::take(&mut line))?,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    writeln!(connection, "are you there?")?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if returns_after_a_line {
                return Ok(());
            }
        }
    })
}

/// Waits for a timeout, sends a line, and ends its side.
fn is_late(visit: Visit) -> Option<Visit> {
    visit.reads("are you there?");
    visit.send("yes\n");
    let mut answer = String::new();
    while answer != "yes" {
        answer = line_of(&visit.client);
    }
    visit.client.shutdown(Shutdown::Write);
    Some(visit)
}

#[test]
fn end_of_file_after_a_timeout_is_the_reason() {
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    ends(reads_on(false), limits, is_late, no_error(CloseReason::Eof));
}

#[test]
fn a_return_after_a_timeout_is_the_reason() {
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    ends(reads_on(true), limits, is_late, no_error(CloseReason::Completed));
}
