//! Binary messages on a byte stream: of a fixed size, or with a length prefix.
//!
//! The functions take any [`Read`] and [`Write`] by value, so also `&mut reader` or `&stream` of a
//! client's `TcpStream`. A handler uses
//! [`Connection::read_message`](crate::Connection::read_message), which also applies the timeouts
//! of a message, and [`Connection::write_message`](crate::Connection::write_message).
//!
//! ```
//! use socketserver::framing::{LengthPrefixed, Prefix};
//! use socketserver::{Connection, Error};
//!
//! let frames = LengthPrefixed::new(Prefix::U16).max_length(1000);
//! let mut connection = Connection::in_memory(b"\0\x02hi\xff\xff...");
//!
//! let mut message = Vec::new();
//! assert!(frames.read(connection.as_mut(), &mut message)?);
//! assert_eq!(message, b"hi");
//! frames.write(connection.as_mut(), b"hello")?;
//! assert_eq!(connection.output(), b"\0\x05hello");
//!
//! let error = frames.read(connection.as_mut(), &mut message).unwrap_err();
//! let limit = Error::of(&error);
//! assert!(matches!(limit, Some(Error::MessageTooLong { length: 65_535, limit: 1000, .. })));
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io::{self, Read, Write};

use crate::error::Error;

/// Reads a message of the size of `message`. Returns `false` at EOF before the first byte.
///
/// # Errors
/// `UnexpectedEof` at EOF inside the message, and those of the reader.
pub fn read_fixed(mut reader: impl Read, message: &mut [u8]) -> io::Result<bool> {
    let mut length = 0;
    while length < message.len() {
        match reader.read(&mut message[length..]) {
            Ok(0) if length == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The size of a length prefix, which is in big-endian order (network byte order).
///
/// Non-exhaustive: some protocols have prefixes of other sizes, such as three bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prefix {
    /// One byte: messages of up to 255 bytes.
    U8,
    /// Two bytes: messages of up to 65,535 bytes.
    U16,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
}

impl Prefix {
    fn size(self) -> usize {
        match self {
            Prefix::U8 => 1,
            Prefix::U16 => 2,
            Prefix::U32 => 4,
            Prefix::U64 => 8,
        }
    }

    /// The greatest length it can express.
    fn max(self) -> u64 {
        u64::MAX >> (64 - 8 * self.size())
    }
}

/// The format of length-prefixed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LengthPrefixed {
    prefix: Prefix,
    max_length: u64,
}

impl LengthPrefixed {
    /// Messages of up to 64 KiB, or of what the prefix can express if that is less.
    pub const fn new(prefix: Prefix) -> LengthPrefixed {
        LengthPrefixed { prefix, max_length: 64 * 1024 }
    }

    /// Sets the maximal length of a message in bytes, without its prefix. With zero, only empty
    /// messages are allowed.
    #[must_use]
    pub const fn max_length(mut self, bytes: usize) -> LengthPrefixed {
        self.max_length = bytes as u64;
        self
    }

    /// Reads a message into `message`, replacing its contents. Returns `false` at EOF before the
    /// first byte.
    ///
    /// # Errors
    /// `InvalidData` with [`Error::MessageTooLong`] when the prefix is over the limit. The message
    /// is then neither read nor allocated, and the next read would take its bytes for a prefix, so
    /// the caller should close the connection. `UnexpectedEof` at EOF inside a message, and those
    /// of the reader.
    pub fn read(&self, mut reader: impl Read, message: &mut Vec<u8>) -> io::Result<bool> {
        let mut prefix = [0; 8];
        message.clear();
        if !read_fixed(&mut reader, &mut prefix[8 - self.prefix.size()..])? {
            return Ok(false);
        }
        let length = u64::from_be_bytes(prefix);
        self.check(length, self.max_length)?;
        // `read_to_end` allocates as bytes arrive, not what the prefix announces.
        if (reader.take(length).read_to_end(message)? as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(true)
    }

    /// Writes a message with its prefix.
    ///
    /// # Errors
    /// `InvalidData` with [`Error::MessageTooLong`] when the message is over the limit, or over
    /// what the prefix can express; nothing is written then. And those of the writer.
    pub fn write(&self, mut writer: impl Write, message: &[u8]) -> io::Result<()> {
        let length = message.len() as u64;
        self.check(length, self.max_length.min(self.prefix.max()))?;
        writer.write_all(&length.to_be_bytes()[8 - self.prefix.size()..])?;
        writer.write_all(message)
    }

    fn check(&self, length: u64, limit: u64) -> io::Result<()> {
        if length > limit { Err(Error::MessageTooLong { length, limit }.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_every_prefix_are_read_as_they_were_written() {
        for (prefix, wire) in [
            (Prefix::U8, &b"\x03abc"[..]),
            (Prefix::U16, b"\0\x03abc"),
            (Prefix::U32, b"\0\0\0\x03abc"),
            (Prefix::U64, b"\0\0\0\0\0\0\0\x03abc"),
        ] {
            let frames = LengthPrefixed::new(prefix);
            let mut written = Vec::new();
            frames.write(&mut written, b"abc").unwrap();
            assert_eq!(written, wire);
            let mut message = b"old".to_vec();
            let mut reader = &written[..];
            assert!(frames.read(&mut reader, &mut message).unwrap());
            assert_eq!(message, b"abc");
            assert!(!frames.read(&mut reader, &mut message).unwrap());
        }
    }

    #[test]
    fn a_length_over_the_limit_allocates_nothing_and_reads_nothing_more() {
        let frames = LengthPrefixed::new(Prefix::U32).max_length(4);
        let mut reader = &b"\xff\xff\xff\xffrest"[..];
        let mut message = Vec::new();
        let error = frames.read(&mut reader, &mut message).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(matches!(
            Error::of(&error),
            Some(Error::MessageTooLong { length: 0xffff_ffff, limit: 4 })
        ));
        assert_eq!((reader, message.capacity()), (&b"rest"[..], 0));
    }

    #[test]
    fn a_message_too_long_for_its_prefix_is_not_written() {
        let mut written = Vec::new();
        let error = LengthPrefixed::new(Prefix::U8).write(&mut written, &[0; 256]).unwrap_err();
        assert!(matches!(
            Error::of(&error),
            Some(Error::MessageTooLong { length: 256, limit: 255 })
        ));
        assert!(written.is_empty());
    }

    #[test]
    fn eof_inside_a_message_is_an_error() {
        for input in [&b"\0"[..], b"\0\x03ab"] {
            let result = LengthPrefixed::new(Prefix::U16).read(input, &mut Vec::new());
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{input:?}");
        }
        assert!(!read_fixed(&b""[..], &mut [0; 2]).unwrap());
        let error = read_fixed(&b"a"[..], &mut [0; 2]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
