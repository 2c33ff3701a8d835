//! Lines, read in every way and between raw reads, against the input split by hand.
#![no_main]

use std::io::{self, BufRead, Read};

use libfuzzer_sys::fuzz_target;
use socketserver::{Connection, Error};

fuzz_target!(|data: &[u8]| {
    let Some((&[limit, before_edge, ref steps @ ..], input)) = data.split_first_chunk::<8>() else {
        return;
    };
    // A connection's buffer has 4 KiB at first; the input is to lie across its end.
    let filler = vec![b'-'; 4096 - usize::from(before_edge)];
    let mut connection = Connection::in_memory([&filler, input].concat());
    let connection = connection.as_mut();
    connection.read_exact(&mut vec![0; filler.len()]).unwrap();
    connection.set_max_line_length(limit.into());

    let mut rest = input;
    for step in steps.iter().cycle() {
        let taken = match step % 5 {
            0 => raw_read(connection, *step, rest),
            _ => line_read(connection, *step, rest, limit.into()),
        };
        match taken {
            Some(length) => rest = &rest[length..],
            None => break,
        }
    }
});

/// How much of the rest was read; `None` at its end.
fn raw_read(connection: &mut Connection, step: u8, rest: &[u8]) -> Option<usize> {
    // Either so much at once that the connection does without its buffer, or little.
    let mut buffer = vec![0; if step == 0 { 4096 } else { step.into() }];
    let length = connection.read(&mut buffer).unwrap();
    assert!(rest.starts_with(&buffer[..length]));
    assert_eq!(length == 0, rest.is_empty());
    (length > 0).then_some(length)
}

/// How much of the rest was read; `None` at its end, and after a line that is too long.
fn line_read(connection: &mut Connection, step: u8, rest: &[u8], limit: usize) -> Option<usize> {
    let end = if step % 5 == 1 { step } else { b'\n' };
    let length = rest.iter().position(|byte| *byte == end).map_or(rest.len(), |at| at + 1);
    let line = &rest[..length];
    let (read, expected) = match step % 5 {
        1 => (until(connection, end), Some(line.to_vec())),
        2 => (bytes(connection), Some(line.to_vec())),
        3 => (text(connection), str::from_utf8(line).ok().map(Vec::from)),
        _ => (lines(connection), str::from_utf8(line).ok().map(with_plain_end)),
    };
    if length <= limit {
        assert_eq!(read.ok(), expected, "of {line:?}");
        return (length > 0).then_some(length);
    }
    let error = read.expect_err("over the limit");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let Some(Error::LineTooLong { limit: named, .. }) = Error::of(&error) else {
        panic!("{error}")
    };
    assert_eq!(*named, limit);
    // What is left begins somewhere in the line.
    let mut left = Vec::new();
    connection.read_to_end(&mut left).unwrap();
    assert!(rest.ends_with(&left));
    assert!((limit + 1..=length).contains(&(rest.len() - left.len())));
    None
}

fn until(connection: &mut Connection, end: u8) -> io::Result<Vec<u8>> {
    let mut line = b"before".to_vec();
    let length = connection.read_until(end, &mut line);
    appended(length, &line)
}

fn bytes(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut line = b"before".to_vec();
    let length = connection.read_line(&mut line);
    appended(length, &line)
}

fn text(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut line = String::from("before");
    let length = connection.read_line(&mut line);
    appended(length, line.as_bytes())
}

/// What a read has added to a line; one that failed has added nothing.
fn appended(length: io::Result<usize>, line: &[u8]) -> io::Result<Vec<u8>> {
    let appended = line.strip_prefix(b"before").expect("what was there before");
    assert_eq!(appended.len(), *length.as_ref().unwrap_or(&0));
    length.map(|_| appended.to_vec())
}

/// The next one, with `\n` put back, which tells an empty line from none.
fn lines(connection: &mut Connection) -> io::Result<Vec<u8>> {
    match connection.lines().next().transpose()? {
        Some(line) => Ok([&line, "\n"].concat().into_bytes()),
        None => Ok(Vec::new()),
    }
}

/// What [`lines`] makes of a line: `\n` alone is its end, whether it was that, `\r\n` or none.
fn with_plain_end(line: &str) -> Vec<u8> {
    let content = line.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    match content.unwrap_or(line) {
        "" if line.is_empty() => Vec::new(),
        content => [content, "\n"].concat().into_bytes(),
    }
}
