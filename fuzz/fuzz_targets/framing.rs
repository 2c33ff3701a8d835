//! Length-prefixed messages: any bytes read as a simple model says, and messages that were written
//! read back.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::{Connection, Error};

fuzz_target!(|data: &[u8]| {
    let Some((&[size, limit, shift, piece], bytes)) = data.split_first_chunk() else { return };
    let (prefix, size) = match size % 4 {
        0 => (Prefix::U8, 1),
        1 => (Prefix::U16, 2),
        2 => (Prefix::U32, 4),
        _ => (Prefix::U64, 8),
    };
    // Limits of every magnitude.
    let limit = usize::from(limit) << (u32::from(shift) % (usize::BITS - 7));
    let frames = LengthPrefixed::new(prefix).max_length(limit);
    decode(frames, size, limit, bytes, piece.into());
    round_trip(frames, size, limit, bytes, piece);
});

fn decode(frames: LengthPrefixed, size: usize, limit: usize, bytes: &[u8], piece: usize) {
    let mut reader = ShortReads { rest: bytes, piece, interrupted: false };
    let mut message = b"before".to_vec();
    let mut rest = bytes;
    loop {
        let result = frames.read(&mut reader, &mut message);
        // Whatever length was announced. A vector may double when it grows.
        assert!(message.capacity() <= 2 * limit.min(bytes.len()) + 64, "{}", message.capacity());
        match next_message(size, limit as u64, rest) {
            Next::Message(expected, after) => {
                assert!(result.unwrap());
                assert_eq!(message, expected);
                rest = after;
                assert_eq!(reader.rest, rest);
            }
            Next::End => return assert!(!result.unwrap()),
            Next::CutShort => {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
                return;
            }
            Next::TooLong(length) => {
                assert_is_too_long(&result.unwrap_err(), length, limit as u64);
                return assert_eq!(reader.rest, &rest[size..]);
            }
        }
    }
}

enum Next<'a> {
    Message(&'a [u8], &'a [u8]),
    End,
    CutShort,
    TooLong(u64),
}

fn next_message(size: usize, limit: u64, bytes: &[u8]) -> Next<'_> {
    if bytes.is_empty() {
        return Next::End;
    }
    let Some((prefix, rest)) = bytes.split_at_checked(size) else { return Next::CutShort };
    let length = prefix.iter().fold(0, |length, byte| 256 * length + u64::from(*byte));
    if length > limit {
        return Next::TooLong(length);
    }
    match rest.split_at_checked(length as usize) {
        Some((message, rest)) => Next::Message(message, rest),
        None => Next::CutShort,
    }
}

fn round_trip(frames: LengthPrefixed, size: usize, limit: usize, bytes: &[u8], piece: u8) {
    let max_length = (limit as u128).min((1 << (8 * size)) - 1) as u64;
    let long = bytes.repeat(piece.into());
    let messages = bytes.split(|byte| *byte == piece).chain([&long[..]]);

    let mut wire = Vec::new();
    let mut written = Vec::new();
    let mut connection = Connection::in_memory("");
    for message in messages {
        let length = message.len() as u64;
        match frames.write(connection.as_mut(), message) {
            Err(error) => {
                assert!(length > max_length);
                assert_is_too_long(&error, length, max_length);
            }
            Ok(()) => {
                assert!(length <= max_length);
                wire.extend_from_slice(&length.to_be_bytes()[8 - size..]);
                wire.extend_from_slice(message);
                written.push(message);
            }
        }
    }
    assert_eq!(connection.output(), wire);

    let mut connection = Connection::in_memory(wire);
    let mut message = Vec::new();
    for expected in written {
        assert!(frames.read(connection.as_mut(), &mut message).unwrap());
        assert_eq!(message, expected);
    }
    assert!(!frames.read(connection.as_mut(), &mut message).unwrap());
}

#[track_caller]
fn assert_is_too_long(error: &io::Error, length: u64, limit: u64) {
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let Some(Error::MessageTooLong { length: own, limit: named, .. }) = Error::of(error) else {
        panic!("{error}")
    };
    assert_eq!((*own, *named), (length, limit));
}

/// A reader that returns a few bytes at a time, and `Interrupted` before each of them.
struct ShortReads<'a> {
    rest: &'a [u8],
    piece: usize,
    interrupted: bool,
}

impl Read for ShortReads<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(1 + self.piece);
        self.rest.read(&mut buffer[..length])
    }
}
