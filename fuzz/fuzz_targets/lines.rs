//! Lines, read by every method and between raw reads, against a naive split of the input.
#![no_main]

use std::io::{self, BufRead, Read};

use libfuzzer_sys::fuzz_target;
use socketserver::{Connection, Error};

fuzz_target!(|data: &[u8]| {
    let Some((&[limit, offset, ref steps @ ..], input)) = data.split_first_chunk::<8>() else {
        return;
    };
    // A limit of zero counts as one.
    let limit = limit.max(1);
    // The connection's buffer has 512 bytes at first, and the input lies across its end.
    let filler = vec![b'-'; 512 - usize::from(offset)];
    let mut connection = Connection::in_memory([&filler, input].concat());
    let connection = connection.as_mut();
    connection.read_exact(&mut vec![0; filler.len()]).unwrap();
    connection.set_max_line_length(limit.into());

    let mut rest = input;
    for step in steps.iter().cycle() {
        let length = match step % 5 {
            0 => raw_read(connection, *step, rest),
            _ => line_read(connection, *step, rest, limit.into()),
        };
        match length {
            Some(length) => rest = &rest[length..],
            None => break,
        }
    }
});

/// Returns how much of the rest was read; `None` at EOF.
fn raw_read(connection: &mut Connection, step: u8, rest: &[u8]) -> Option<usize> {
    // Either a read that is large enough to bypass the connection's buffer, or a small one.
    let mut buffer = vec![0; if step == 0 { 4096 } else { step.into() }];
    let length = connection.read(&mut buffer).unwrap();
    assert!(rest.starts_with(&buffer[..length]));
    assert_eq!(length == 0, rest.is_empty());
    (length > 0).then_some(length)
}

/// Returns how much of the rest was read; `None` at EOF, and after a line that is too long.
fn line_read(connection: &mut Connection, step: u8, rest: &[u8], limit: usize) -> Option<usize> {
    let end = if step % 5 == 1 { step } else { b'\n' };
    let length = rest.iter().position(|byte| *byte == end).map_or(rest.len(), |at| at + 1);
    let line = &rest[..length];
    let (read, expected) = match step % 5 {
        1 => (read_until(connection, end), Some(line.to_vec())),
        2 => (read_line_as_bytes(connection), Some(line.to_vec())),
        3 => (read_line_as_text(connection), str::from_utf8(line).ok().map(Vec::from)),
        _ => (next_of_lines(connection), str::from_utf8(line).ok().map(with_newline)),
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
    // The unread rest begins in this line, after more bytes than the limit.
    let mut left = Vec::new();
    connection.read_to_end(&mut left).unwrap();
    assert!(rest.ends_with(&left));
    assert!((limit + 1..=length).contains(&(rest.len() - left.len())));
    None
}

fn read_until(connection: &mut Connection, end: u8) -> io::Result<Vec<u8>> {
    let mut line = b"before".to_vec();
    let length = connection.read_until(end, &mut line);
    appended(length, &line)
}

fn read_line_as_bytes(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut line = b"before".to_vec();
    let length = connection.read_line(&mut line);
    appended(length, &line)
}

fn read_line_as_text(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut line = String::from("before");
    let length = connection.read_line(&mut line);
    appended(length, line.as_bytes())
}

/// The bytes that a read has appended. A failed one has appended none.
fn appended(length: io::Result<usize>, line: &[u8]) -> io::Result<Vec<u8>> {
    let appended = line.strip_prefix(b"before").expect("earlier content is kept");
    assert_eq!(appended.len(), *length.as_ref().unwrap_or(&0));
    length.map(|_| appended.to_vec())
}

/// The next item of `lines`, with `\n` appended, which distinguishes an empty line from none.
fn next_of_lines(connection: &mut Connection) -> io::Result<Vec<u8>> {
    match connection.lines().next().transpose()? {
        Some(line) => Ok([&line, "\n"].concat().into_bytes()),
        None => Ok(Vec::new()),
    }
}

/// The line as [`next_of_lines`] returns it: `\n` replaces its end, which may also be `\r\n` or
/// missing.
fn with_newline(line: &str) -> Vec<u8> {
    let content = line.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    match content.unwrap_or(line) {
        "" if line.is_empty() => Vec::new(),
        content => [content, "\n"].concat().into_bytes(),
    }
}
