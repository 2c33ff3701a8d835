//! The command lines of both protocols: printable ASCII that ends with CRLF.

use std::io::{self, BufRead, ErrorKind};

use socketserver::Connection;

pub(crate) enum Line {
    /// Without its end.
    Command {
        text: String,
        /// Whether more input had been received with it. If not, more may still be on its way.
        is_followed: bool,
    },
    /// Longer than allowed, and discarded.
    TooLong,
    /// Not printable ASCII, and discarded.
    NotText,
    /// A bare CR or LF. A relay may see one command where this server sees two, so the rest of the
    /// input cannot be trusted.
    BareLineEnd,
}

/// Reads the next line, of at most `limit` bytes with its end. `None` at the end of the input, also
/// within a line, and when a timeout has passed, which [`Connection::close_reason`] tells apart.
pub(crate) fn read(connection: &mut Connection, limit: usize) -> io::Result<Option<Line>> {
    connection.with_message_timeout(|connection| {
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
