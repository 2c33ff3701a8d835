//! Lines of clients that speak Telnet: which bytes are a line, which are answered, and what the
//! limits of a line are.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::services::Telnet;
use socketserver::*;

use crate::support::clients::line_of;
use crate::support::close_reasons::{Ending, LONG, Limits, SHORT, Visit, ends, no_error};

const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;

/// Reads all lines, as they are appended, each into the same buffer.
fn lines_of(connection: &mut Connection) -> io::Result<Vec<Vec<u8>>> {
    let (mut telnet, mut buffer, mut lines) = (Telnet::new(), b"before".to_vec(), Vec::new());
    loop {
        let start = buffer.len();
        let length = telnet.read_line(connection, &mut buffer)?;
        assert_eq!(buffer.len() - start, length);
        if length == 0 {
            return Ok(lines);
        }
        lines.push(buffer[start..].to_vec());
    }
}

/// The lines of this input, and the answers to it, if it arrives at once.
#[track_caller]
fn reads_at_once(input: &[u8], lines: &[&[u8]], answers: &[u8]) {
    let mut connection = Connection::in_memory(input);
    assert_eq!(lines_of(connection.as_mut()).unwrap(), lines);
    assert_eq!(connection.output(), answers);
}

/// The same, however it arrives.
#[track_caller]
fn reads(input: &[u8], lines: &[&[u8]], answers: &[u8]) {
    reads_at_once(input, lines, answers);

    // In two parts: the connection's buffer has 512 bytes at first.
    for split in 1..input.len() {
        let filler = vec![b'-'; 512 - split];
        let mut in_two = Connection::in_memory([&filler, input].concat());
        in_two.as_mut().read_exact(&mut vec![0; filler.len()]).unwrap();
        assert_eq!(lines_of(in_two.as_mut()).unwrap(), lines, "split at {split}");
        assert_eq!(in_two.output(), answers, "split at {split}");
    }

    // Byte by byte.
    let (mut served, mut client) = Connection::in_memory_pair();
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in input {
                client.write_all(&[*byte]).unwrap();
                client.flush().unwrap();
                thread::yield_now();
            }
            client.shutdown(Shutdown::Write).unwrap();
            let mut received = Vec::new();
            client.read_to_end(&mut received).unwrap();
            assert_eq!(received, answers);
        });
        assert_eq!(lines_of(served.as_mut()).unwrap(), lines);
        drop(served);
    });
}

#[test]
fn lines_of_plain_clients_are_as_they_were_sent() {
    let lines: &[&[u8]] =
        &[b"one\n", b"\n", b"t\xc3\xbcr\r\n", b"\r\n", b"a\rb\r\r\n", b"nul\0\n", b"end"];
    reads(&lines.concat(), lines, b"");
}

#[test]
fn cr_nul_ends_a_line() {
    reads(b"one\r\0\r\0two\r\0three\r\n", &[b"one\r\n", b"\r\n", b"two\r\n", b"three\r\n"], b"");
    reads(b"end\r", &[b"end\r"], b"");
}

#[test]
fn a_command_may_be_anywhere_in_a_line() {
    const NOP: &[u8] = b"\xff\xf1";
    let line = b"text\r\0";
    for at in 0..=line.len() {
        reads(&[&line[..at], NOP, &line[at..]].concat(), &[b"text\r\n"], b"");
    }
}

#[test]
fn each_option_is_refused_once_for_each_request() {
    for option in (0..=255).filter(|option| *option != 6) {
        let requests = [255, 253, option, 255, 251, option, 255, 253, option];
        let refusals = [255, 252, option, 255, 254, option, 255, 252, option];
        reads_at_once(&[&requests, &b"line\n"[..]].concat(), &[b"line\n"], &refusals);
        // An answer that were answered would go to and fro for ever.
        reads_at_once(&[255, 252, option, 255, 254, option, b'\n'], &[b"\n"], b"");
    }
}

#[test]
fn a_timing_mark_is_set_after_ctrl_c_and_the_line_is_dropped() {
    reads(b"half a line\xff\xf4\xff\xfd\x06whole\n", &[b"whole\n"], b"\xff\xfb\x06");
    for command in [b"\xff\xf3", b"\xff\xee"] {
        reads(&[b"half\r", &command[..], b"\0\n"].concat(), &[b"\0\n"], b"");
    }
    // A client may offer it as well.
    reads(b"\xff\xfb\x06\n", &[b"\n"], b"\xff\xfe\x06");
}

#[test]
fn are_you_there_is_answered() {
    reads(b"li\xff\xf6ne\r\xff\xf6\n", &[b"line\r\n"], b"\r\n[Yes]\r\n\r\n[Yes]\r\n");
}

#[test]
fn characters_and_lines_are_erased() {
    reads(b"ab\xff\xf7c\n", &[b"ac\n"], b"");
    reads("z\u{e4}\u{20ac}\u{1f980}".as_bytes(), &["z\u{e4}\u{20ac}\u{1f980}".as_bytes()], b"");
    let crab = ["zw\u{1f980}".as_bytes(), b"\xff\xf7\xff\xf7\n"].concat();
    reads(&crab, &[b"z\n"], b"");
    // No further than to the begin of the line, and no line that has ended.
    reads(b"first\na\xff\xf7\xff\xf7\xff\xf7b\n", &[b"first\n", b"b\n"], b"");
    reads(b"first\nwrong\xff\xf8right\n", &[b"first\n", b"right\n"], b"");
    // Bytes that are no characters.
    reads(b"\x80\x80\xff\xf7a\n", &[b"a\n"], b"");
}

#[test]
fn subnegotiations_are_skipped() {
    reads(b"\xff\xfa\x18\x00xterm\r\n\0\xff\xf0line\n", &[b"line\n"], b"");
    // A doubled IAC is a byte of it.
    reads(b"a\xff\xfa\x1f\xff\xff\xf0\xff\xf0b\n", &[b"ab\n"], b"");
    // Its end is missing: a command ends it.
    reads(b"\xff\xfa\x18\xff\xfd\x06line\n", &[b"line\n"], b"\xff\xfb\x06");
}

#[test]
fn a_doubled_iac_is_a_byte_of_the_line() {
    reads(b"a\xff\xffb\n", &[b"a\xffb\n"], b"");
    reads(b"\xff\xff\xfd\x06\n", &[b"\xff\xfd\x06\n"], b"");
}

#[test]
fn an_iac_before_what_is_no_command_is_dropped() {
    // A Synch, whose Data Mark is not in the input.
    reads(b"\xff\xf4\xffline\n", &[b"line\n"], b"");
    reads(b"a\xff\nb\xff\r\n\xff\0\n", &[b"a\n", b"b\r\n", b"\0\n"], b"");
}

/// What PuTTY sends when it has connected, recorded from release 0.78.
const PUTTY: &[u8] =
    b"\xff\xfb\x1f\xff\xfb\x20\xff\xfb\x18\xff\xfb\x27\xff\xfd\x01\xff\xfb\x03\xff\xfd\x03";

#[test]
fn the_negotiation_that_putty_begins_with_is_no_part_of_its_line() {
    let refusals =
        b"\xff\xfe\x1f\xff\xfe\x20\xff\xfe\x18\xff\xfe\x27\xff\xfc\x01\xff\xfe\x03\xff\xfc\x03";
    reads(&[PUTTY, b"ada\r\n"].concat(), &[b"ada\r\n"], refusals);
}

/// Echoes lines.
fn echo(connection: &mut Connection) -> HandlerResult {
    let (mut telnet, mut line) = (Telnet::new(), Vec::new());
    while telnet.read_line(connection, &mut line)? > 0 {
        connection.write_all(&line)?;
        line.clear();
    }
    Ok(())
}

#[test]
fn commands_are_answered_before_the_line_ends() {
    let asks = |visit: Visit| {
        visit.send(b"half\xff\xfd\x06");
        let mut answer = [0; 3];
        (&visit.client).read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"\xff\xfb\x06");
        visit.send("line\r\0");
        assert_eq!(line_of(&visit.client), "halfline\r");
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    ends(handler_fn(echo), Limits::default(), asks, no_error(CloseReason::Eof));
}

#[test]
fn lines_and_subnegotiations_have_a_maximal_length() {
    let limits = Limits { line: Some(10), ..Limits::default() };
    let limit = Ending(CloseReason::Limit, Some("LineTooLong { limit: 10 }".to_owned()));
    ends(
        handler_fn(echo),
        limits.clone(),
        |visit| {
            // Commands do not count.
            visit.send(b"12345\xff\xf16789\n\xff\xfa123456789\xff\xff\xff\xf0ok\n");
            assert_eq!([line_of(&visit.client), line_of(&visit.client)], ["123456789", "ok"]);
            visit.send("12345678901");
            visit.client.shutdown(Shutdown::Write);
            Some(visit)
        },
        limit,
    );
    let keeps_the_error = handler_fn(|connection| {
        let mut line = b"before".to_vec();
        let error = Telnet::new().read_line(connection, &mut line).unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: 10, .. })));
        assert_eq!((error.kind(), &*line), (io::ErrorKind::InvalidData, &b"before"[..]));
        Ok(())
    });
    let never_ends = |visit: Visit| {
        visit.send([&[IAC, SB], &b"12345678901"[..]].concat());
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    ends(keeps_the_error, limits, never_ends, no_error(CloseReason::Limit));
}

#[test]
fn a_subnegotiation_without_end_takes_no_memory() {
    const LENGTH: usize = 64 * 1024;
    let mut input = vec![IAC, SB];
    input.resize(LENGTH + 2, b'x');
    let mut ended = Connection::in_memory([&input[..], &[IAC, SE], b"line\n"].concat());
    assert_eq!(lines_of(ended.as_mut()).unwrap(), [b"line\n"]);
    input.push(b'x');
    let mut line = Vec::new();
    let mut endless = Connection::in_memory(input);
    let error = Telnet::new().read_line(endless.as_mut(), &mut line).unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::LineTooLong { limit: LENGTH, .. })));
    assert_eq!(line.capacity(), 0);
}

#[test]
fn a_line_has_a_deadline_though_each_byte_is_in_time() {
    let limits = Limits { message: Some(SHORT), read: Some(LONG), ..Limits::default() };
    let ending =
        Ending(CloseReason::MessageTimeout, Some(format!("MessageTimeout {{ limit: {SHORT:?} }}")));
    ends(handler_fn(echo), limits.clone(), |visit| visit.drips(b"x", SHORT), ending);
    // So has a subnegotiation.
    let ending =
        Ending(CloseReason::MessageTimeout, Some(format!("MessageTimeout {{ limit: {SHORT:?} }}")));
    let drips = |visit: Visit| {
        visit.send([IAC, SB]);
        visit.drips(b"x", SHORT)
    };
    ends(handler_fn(echo), limits, drips, ending);
}

#[test]
fn a_client_that_sends_nop_to_keep_its_connection_open_is_idle() {
    let limits = Limits { message: Some(SHORT), idle: Some(LONG), ..Limits::default() };
    let keeps_alive = |visit: Visit| {
        let begin = Instant::now();
        while begin.elapsed() < 3 * SHORT {
            visit.send(b"\xff\xf1");
            thread::sleep(Duration::from_millis(5));
        }
        visit.echoes("still here");
        visit.client.shutdown(Shutdown::Write);
        Some(visit)
    };
    ends(handler_fn(echo), limits, keeps_alive, no_error(CloseReason::Eof));
}

#[test]
fn a_line_goes_on_after_a_timeout() {
    let (mut served, mut client) = Connection::in_memory_pair();
    let connection = served.as_mut();
    connection.set_read_timeout(Duration::from_millis(1));
    let (mut telnet, mut line) = (Telnet::new(), Vec::new());
    for part in [&b"a\xff"[..], b"\xfd", b"\x06b\r", b"\0"] {
        client.write_all(part).unwrap();
        client.flush().unwrap();
        if part != b"\0" {
            let error = telnet.read_line(connection, &mut line).unwrap_err();
            assert!(matches!(Error::of(&error), Some(Error::ReadTimeout { .. })), "{error}");
        }
    }
    assert_eq!(telnet.read_line(connection, &mut line).unwrap(), 1);
    assert_eq!(line, b"ab\r\n");
}
