//! How long a server waits for a client: for its next message, within one, until one is whole, and
//! until it takes what it is sent. No limit is reached early, and each has a name of its own.

mod common;
#[path = "common/endings.rs"]
mod endings;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{bounded, next};
use endings::{Ending, LONG, Limits, SHORT, Visit, ends};
use parking_lot::Mutex;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::*;

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

// Silence.

fn is_silent(visit: Visit) -> Option<Visit> {
    let begin = visit.begin;
    visit.ends_no_earlier(begin, SHORT)
}

#[test]
fn a_silent_client_is_cut_off_after_the_read_timeout() {
    let _bound = bounded();
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    ends(Echo, limits, is_silent, read_timeout(SHORT));
}

#[test]
fn a_handler_has_a_read_timeout_of_its_own() {
    let _bound = bounded();
    let limits = Limits { read: Some(LONG), ..Limits::default() };
    let impatient = handler_fn(|connection| {
        connection.set_read_timeout(Some(SHORT));
        StreamRequestHandler::handle(&Echo, connection)
    });
    ends(impatient, limits, is_silent, read_timeout(SHORT));
}

#[test]
fn between_messages_the_idle_timeout_counts_and_within_one_the_read_timeout() {
    let _bound = bounded();
    let limits = Limits { idle: Some(SHORT), read: Some(LONG), ..Limits::default() };
    ends(Echo, limits, is_silent, idle_timeout(SHORT));

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
fn an_idle_timeout_does_not_count_within_a_message() {
    let _bound = bounded();
    let limits = Limits { idle: Some(LONG), read: Some(LONG), ..Limits::default() };
    let becomes_impatient = handler_fn(|connection| {
        connection.with_message_timeout(|connection| {
            connection.read_exact(&mut [0])?;
            // The client has all the time it needs until it knows.
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
    ends(becomes_impatient, limits, pauses_in_a_message, idle_timeout(SHORT));
}

// Messages that take too long.

fn deadline_limits() -> Limits {
    Limits { message: Some(SHORT), read: Some(LONG), ..Limits::default() }
}

#[test]
fn a_client_that_drips_is_cut_off_at_the_deadline_though_each_byte_is_in_time() {
    let _bound = bounded();
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
    let _bound = bounded();
    let reads_a_head = || handler_fn(|connection| Ok(head(connection)?));
    ends(reads_a_head(), deadline_limits(), |visit| visit.drips(b"a: b\n", SHORT), deadline(SHORT));
    // Even where there is always something to read.
    let floods = |visit: Visit| visit.floods(&b"a: b\n".repeat(1000), SHORT);
    ends(reads_a_head(), deadline_limits(), floods, deadline(SHORT));
}

#[test]
fn a_frame_has_a_deadline() {
    let _bound = bounded();
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
fn what_came_with_the_message_before_begins_the_next() {
    let _bound = bounded();
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
fn each_message_has_a_deadline_of_its_own() {
    let _bound = bounded();
    let limits = Limits { message: Some(LONG), ..Limits::default() };
    let becomes_impatient = handler_fn(|connection| {
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
        // One that comes at once is in time, whenever it comes.
        thread::sleep(3 * SHORT);
        visit.echoes("at once");
        let begin = Instant::now();
        visit.send("slow");
        visit.ends_no_earlier(begin, SHORT)
    };
    ends(becomes_impatient, limits, takes_its_time, deadline(SHORT));
}

#[test]
fn a_deadline_is_over_with_its_message() {
    let _bound = bounded();
    let limits = Limits { message: Some(LONG), ..Limits::default() };
    let reads_on = handler_fn(|connection| {
        let mut line = Vec::new();
        connection.read_line(&mut line)?;
        connection.set_message_timeout(Some(SHORT));
        connection.set_read_timeout(Some(3 * SHORT));
        connection.write_all(&line)?;
        // What is no message by itself has no deadline.
        connection.read_exact(&mut [0; 10])?;
        Ok(())
    });
    let speaks_and_is_silent = |visit: Visit| {
        visit.send("in two ");
        thread::sleep(SHORT);
        let begin = Instant::now();
        visit.echoes_rest("in two ", "pieces");
        visit.ends_no_earlier(begin, 3 * SHORT)
    };
    ends(reads_on, limits, speaks_and_is_silent, read_timeout(3 * SHORT));
}

// Rates.

#[test]
fn a_message_that_comes_too_slowly_is_cut_off() {
    let _bound = bounded();
    let rate = MinRate { bytes_per_second: 10_000, grace: SHORT };
    let limits = Limits { rate: Some(rate), read: Some(LONG), ..Limits::default() };
    ends(Echo, limits.clone(), |visit| visit.drips(b"x", SHORT), too_slow(rate));
    // Unless the handler minds less.
    let patient = handler_fn(|connection| {
        connection.set_min_rate(None);
        connection.set_message_timeout(Some(3 * SHORT));
        StreamRequestHandler::handle(&Echo, connection)
    });
    ends(patient, limits, |visit| visit.drips(b"x", 3 * SHORT), deadline(3 * SHORT));
}

#[test]
fn a_message_that_comes_fast_enough_may_take_its_time() {
    let _bound = bounded();
    // A thousand bytes may take a hundred seconds.
    let rate = MinRate { bytes_per_second: 10, grace: SHORT };
    let limits = Limits { rate: Some(rate), ..Limits::default() };
    let pauses = |visit: Visit| {
        let begin = "x".repeat(1000);
        visit.send(&begin);
        thread::sleep(3 * SHORT);
        visit.echoes_rest(&begin, "x");
        // Between messages there is no rate.
        thread::sleep(3 * SHORT);
        visit.echoes("and another");
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    ends(Echo, limits, pauses, Ending(CloseReason::Eof, None));
}

/// Writes without end once it is asked to.
fn flood() -> impl StreamRequestHandler {
    handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        loop {
            connection.write_all(&[b'x'; 65_536])?;
        }
    })
}

#[test]
fn a_client_that_takes_its_answer_too_slowly_is_cut_off() {
    let _bound = bounded();
    let rate = MinRate { bytes_per_second: 1_000_000_000, grace: SHORT };
    let sips = |visit: Visit| {
        let begin = Instant::now();
        visit.send("please\n");
        let mut client = &visit.client;
        while visit.server.stats().finished == 0 {
            assert!(begin.elapsed() < common::PATIENCE, "nobody minds");
            let _ = client.read(&mut [0; 1000]);
            thread::sleep(SHORT / 10);
        }
        visit.ends_no_earlier(begin, SHORT)
    };
    let limits = Limits { rate: Some(rate), write: Some(LONG), ..Limits::default() };
    ends(flood(), limits, sips, too_slow(rate));
    // A handler has a rate of its own.
    let impatient = handler_fn(move |connection| {
        connection.set_min_rate(Some(rate));
        flood().handle(connection)
    });
    let limits = Limits { write: Some(LONG), ..Limits::default() };
    ends(impatient, limits, sips, too_slow(rate));
}

// Clients that take nothing.

fn takes_nothing(visit: Visit) -> Option<Visit> {
    let begin = Instant::now();
    visit.send("please\n");
    common::wait_until("it is over", || visit.server.stats().finished == 1);
    assert!(begin.elapsed() >= SHORT, "after {:?}", begin.elapsed());
    Some(visit)
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_after_the_write_timeout() {
    let _bound = bounded();
    let limits = Limits { write: Some(SHORT), ..Limits::default() };
    ends(flood(), limits, takes_nothing, write_timeout(SHORT));
    // A rate that is not reached by then does not change its name.
    let rate = Some(MinRate { bytes_per_second: 1, grace: LONG });
    let limits = Limits { write: Some(SHORT), rate, ..Limits::default() };
    ends(flood(), limits, takes_nothing, write_timeout(SHORT));
}

#[test]
fn a_handler_has_a_write_timeout_of_its_own() {
    let _bound = bounded();
    let limits = Limits { write: Some(LONG), ..Limits::default() };
    let impatient = handler_fn(|connection| {
        connection.set_write_timeout(Some(SHORT));
        flood().handle(connection)
    });
    ends(impatient, limits, takes_nothing, write_timeout(SHORT));
}

#[test]
fn nothing_follows_what_a_client_did_not_take_whole() {
    let _bound = bounded();
    let room = Broadcast::new();
    let (failed, has_failed) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let may_go = Mutex::new(may_go);
    let is_a_member = handler_fn(move |connection| {
        let member = room.join(connection)?;
        let error = flood().handle(connection).unwrap_err();
        failed.send(())?;
        may_go.lock().recv()?;
        room.send(&b"a message"[..]);
        member.leave();
        Err(error)
    });
    let takes_some_later = |visit: Visit| {
        visit.send("please\n");
        next(&has_failed);
        // There is room again, in the middle of what the handler has written.
        (&visit.client).read_exact(&mut [0; 128 * 1024]).unwrap();
        go.send(()).unwrap();
        let rest = common::rest_of(&visit.client);
        assert!(rest.iter().all(|byte| *byte == b'x'), "torn");
        Some(visit)
    };
    let limits = Limits { write: Some(SHORT), ..Limits::default() };
    ends(is_a_member, limits, takes_some_later, write_timeout(SHORT));
}

// Handlers that do not mind.

#[test]
fn a_handler_that_is_told_of_a_timeout_may_end_without_an_error() {
    let _bound = bounded();
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    let says_goodbye = handler_fn(|connection| {
        let error = connection.read_line(&mut String::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { limit: SHORT, .. })));
        writeln!(connection, "goodbye")?;
        Ok(())
    });
    let is_told = |visit: Visit| {
        visit.reads("goodbye");
        Some(visit)
    };
    ends(says_goodbye, limits, is_told, Ending(CloseReason::ReadTimeout, None));
}

#[test]
fn a_client_that_speaks_again_after_a_timeout_ends_for_its_later_reason() {
    let _bound = bounded();
    /// Asks again and again; one line is enough for `one_is_enough`.
    fn asks_again(one_is_enough: bool) -> impl StreamRequestHandler {
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
                if one_is_enough {
                    return Ok(());
                }
            }
        })
    }
    let speaks_again = |visit: Visit| {
        visit.reads("are you there?");
        visit.send("yes\n");
        let mut answer = String::new();
        while answer != "yes" {
            answer = common::line_of(&visit.client);
        }
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    let limits = Limits { read: Some(SHORT), ..Limits::default() };
    ends(asks_again(false), limits.clone(), speaks_again, Ending(CloseReason::Eof, None));
    ends(asks_again(true), limits, speaks_again, Ending(CloseReason::Completed, None));
}
