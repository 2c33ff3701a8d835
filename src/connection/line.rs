//! Reading lines of a bounded length.

use std::io;

use memchr::memchr;

use super::input::InputHalf;
use crate::error::Error;

/// What [`Connection::read_line`](super::Connection::read_line) can append to: a `Vec<u8>` for any bytes, a `String` for UTF-8.
/// Sealed.
pub trait Line: sealed::Line {}

impl Line for Vec<u8> {}
impl Line for String {}

mod sealed {
    use super::{InputHalf, io};

    // `InputHalf` stays inside this crate, as the trait does.
    #[allow(private_interfaces)]
    pub trait Line {
        fn append_from(&mut self, input: &mut InputHalf<'_>) -> io::Result<usize>;
    }
}

#[allow(private_interfaces)]
impl sealed::Line for Vec<u8> {
    fn append_from(&mut self, input: &mut InputHalf<'_>) -> io::Result<usize> {
        read_until(input, b'\n', self)
    }
}

#[allow(private_interfaces)]
impl sealed::Line for String {
    fn append_from(&mut self, input: &mut InputHalf<'_>) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let length = match read_until(input, b'\n', &mut bytes) {
            Ok(length) => length,
            Err(error) => {
                // The part read may end inside a character; the next call reads it again.
                if !bytes.is_empty() {
                    input.input.buffer.put_back(bytes);
                }
                return Err(error);
            }
        };
        let text = str::from_utf8(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.push_str(text);
        Ok(length)
    }
}

pub(super) fn read_until(
    input: &mut InputHalf<'_>,
    delimiter: u8,
    line: &mut Vec<u8>,
) -> io::Result<usize> {
    input.with_message_timeout(|input| {
        let read = append_until(input, delimiter, line);
        input.record_failure(read)
    })
}

fn append_until(input: &mut InputHalf<'_>, delimiter: u8, line: &mut Vec<u8>) -> io::Result<usize> {
    let limit = input.input.max_line_length;
    let mut length = 0;
    loop {
        let available = input.fill_buf()?;
        let found = memchr(delimiter, available);
        let used = found.map_or(available.len(), |index| index + 1);
        if length + used > limit {
            input.input.buffer.consume(used);
            line.truncate(line.len() - length);
            return Err(Error::LineTooLong { limit }.into());
        }
        line.extend_from_slice(&available[..used]);
        input.input.buffer.consume(used);
        length += used;
        if found.is_some() || used == 0 {
            return Ok(length);
        }
    }
}
