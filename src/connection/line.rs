//! Reading lines of a bounded length.

use std::io::{self, BufRead};

use memchr::memchr;

use super::Connection;
use crate::error::Error;

/// What [`Connection::read_line`] can append to: a `Vec<u8>` for any bytes, a `String` for UTF-8.
/// Sealed.
pub trait Line: sealed::Line {}

impl Line for Vec<u8> {}
impl Line for String {}

mod sealed {
    use super::{Connection, io};

    pub trait Line {
        fn append_from(&mut self, connection: &mut Connection) -> io::Result<usize>;
    }
}

impl sealed::Line for Vec<u8> {
    fn append_from(&mut self, connection: &mut Connection) -> io::Result<usize> {
        read_until(connection, b'\n', self)
    }
}

impl sealed::Line for String {
    fn append_from(&mut self, connection: &mut Connection) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let length = match read_until(connection, b'\n', &mut bytes) {
            Ok(length) => length,
            Err(error) => {
                // The part read may end inside a character; the next call reads it again.
                if !bytes.is_empty() {
                    connection.input.put_back(bytes);
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
    connection: &mut Connection,
    delimiter: u8,
    line: &mut Vec<u8>,
) -> io::Result<usize> {
    connection.with_message_timeout(|connection| {
        let read = append_until(connection, delimiter, line);
        connection.record_failure(read)
    })
}

fn append_until(
    connection: &mut Connection,
    delimiter: u8,
    line: &mut Vec<u8>,
) -> io::Result<usize> {
    let limit = connection.max_line_length;
    let mut length = 0;
    loop {
        let available = connection.fill_buf()?;
        let found = memchr(delimiter, available);
        let used = found.map_or(available.len(), |index| index + 1);
        if length + used > limit {
            connection.consume(used);
            line.truncate(line.len() - length);
            return Err(Error::LineTooLong { limit }.into());
        }
        line.extend_from_slice(&available[..used]);
        connection.consume(used);
        length += used;
        if found.is_some() || used == 0 {
            return Ok(length);
        }
    }
}
