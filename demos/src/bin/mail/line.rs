//! The lines that clients of both protocols send, as strictly as they are defined: printable ASCII
//! that ends in CRLF.

use std::io::{self, BufRead, ErrorKind};

use socketserver::Connection;

pub(crate) enum Line {
    /// Without its end.
    Command {
        text: String,
        /// Whether more had come with it already. More may be on its way where this is `false`.
        is_followed: bool,
    },
    /// It was longer than allowed, and is gone.
    TooLong,
    /// It was no printable ASCII, and is gone.
    NotText,
    /// A CR or an LF by itself. Whoever relayed it may see one command where others see two, so
    /// nothing that follows is to be trusted.
    BareLineEnd,
}

/// The next line, of at most so many bytes with its end. `None` at the end of the input, also where
/// that comes within a line: half a command is none. So is silence, for longer than is allowed: it
/// is no error, and [`Connection::close_reason`] tells it apart.
pub(crate) fn read(connection: &mut Connection, limit: usize) -> io::Result<Option<Line>> {
    connection.one_message(|connection| {
        let mut text = String::new();
        let (mut is_too_long, mut is_text, mut after_cr) = (false, true, false);
        loop {
            let available = match connection.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            };
            let is_followed = available.len() > 1;
            let Some(byte) = available.first().copied() else { return Ok(None) };
            connection.consume(1);
            match (after_cr, byte) {
                (true, b'\n') if is_too_long => return Ok(Some(Line::TooLong)),
                (true, b'\n') if !is_text => return Ok(Some(Line::NotText)),
                (true, b'\n') => return Ok(Some(Line::Command { text, is_followed })),
                (true, _) | (false, b'\n') => return Ok(Some(Line::BareLineEnd)),
                (false, b'\r') => after_cr = true,
                (false, _) if text.len() + 2 >= limit => is_too_long = true,
                (false, b' '..=b'~') => text.push(char::from(byte)),
                (false, _) => is_text = false,
            }
        }
    })
}
