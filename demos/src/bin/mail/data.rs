//! Receives and sends the text of a message: dots, line ends and limits
//! ([RFC 5321, 4.5.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2),
//! [RFC 1939, 3](https://www.rfc-editor.org/rfc/rfc1939#section-3)).

use std::io::{self, BufRead, ErrorKind, Read, Write};

/// A longer line is sent in pieces of about this size, in bytes.
const PIECE: u64 = 8 * 1024;

/// Why a message is refused.
pub(crate) enum Defect {
    BareLineEnd,
    Nul,
    TooLarge,
    /// The error of the writer of the text.
    NotWritten(io::Error),
}

/// Reads a message to its end, and writes its text up to the first defect. A line may be as long as
/// the message, although clients must not send more than 1000 bytes
/// ([RFC 5321, 4.5.3.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1)).
///
/// The end is CRLF, dot, CRLF and nothing else. If a bare CR or LF ended a line, a part of the text
/// could be read as commands ("SMTP smuggling"), so a message with one is refused, but read to its
/// end first.
///
/// # Errors
/// Those of the input; an early end is one.
pub(crate) fn receive(
    input: &mut impl BufRead,
    output: &mut impl Write,
    max_size: u64,
) -> io::Result<Result<(), Defect>> {
    let mut decoder = Decoder::new(max_size);
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let end = available.iter().position(|byte| decoder.is_end(*byte));
        let used = end.map_or(available.len(), |end| end + 1);
        input.consume(used);
        if let Err(error) = output.write_all(&decoder.text) {
            decoder.refuse(Defect::NotWritten(error));
        }
        decoder.text.clear();
        if end.is_some() {
            return Ok(decoder.defect.map_or(Ok(()), Err));
        }
    }
}

/// Decodes a message byte by byte.
struct Decoder {
    state: State,
    /// The decoded text that has not been written yet.
    text: Vec<u8>,
    left: u64,
    /// The first defect; the text after it is dropped.
    defect: Option<Defect>,
}

#[derive(Clone, Copy)]
enum State {
    LineStart,
    /// After a dot at the start of a line: an added one, or the first byte of the end.
    Dot,
    DotCr,
    Text,
    Cr,
}

impl Decoder {
    fn new(max_size: u64) -> Decoder {
        // The line `DATA` precedes the first line of the message.
        let state = State::LineStart;
        Decoder { state, text: Vec::new(), left: max_size, defect: None }
    }

    /// Decodes the next byte; whether it is the last one.
    fn is_end(&mut self, byte: u8) -> bool {
        self.state = match (self.state, byte) {
            (State::DotCr, b'\n') => return true,
            (State::Cr, b'\n') => {
                self.add(b"\r\n");
                State::LineStart
            }
            (_, b'\n') => self.refuse(Defect::BareLineEnd),
            (State::Cr | State::DotCr, b'\r') => {
                self.refuse(Defect::BareLineEnd);
                State::Cr
            }
            (State::Cr | State::DotCr, _) => self.refuse(Defect::BareLineEnd),
            (State::LineStart, b'.') => State::Dot,
            (State::Dot, b'\r') => State::DotCr,
            (_, b'\r') => State::Cr,
            (_, 0) => self.refuse(Defect::Nul),
            (_, byte) => {
                self.add(&[byte]);
                State::Text
            }
        };
        false
    }

    fn add(&mut self, bytes: &[u8]) {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => _ = self.refuse(Defect::TooLarge),
        }
        if self.defect.is_none() {
            self.text.extend_from_slice(bytes);
        }
    }

    /// A defect never ends a line, so the next state is within one.
    fn refuse(&mut self, defect: Defect) -> State {
        self.defect.get_or_insert(defect);
        State::Text
    }
}

/// Writes a message with a dot added before each line that begins with one, and a dot as the last
/// line: the head, and the body or this many lines of it.
pub(crate) fn send(
    message: &mut impl BufRead,
    output: &mut impl Write,
    mut body_lines: Option<u64>,
) -> io::Result<()> {
    let mut pieces = Pieces::new(message);
    let mut is_body = false;
    while let Some(Piece { text, begins_line, ends_line }) = pieces.next()? {
        if begins_line
            && is_body
            && let Some(left) = &mut body_lines
        {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => break,
            }
        }
        if begins_line && text.starts_with(b".") {
            output.write_all(b".")?;
        }
        output.write_all(text)?;
        if ends_line {
            output.write_all(b"\r\n")?;
            is_body |= begins_line && text.is_empty();
        }
    }
    output.write_all(b".\r\n")
}

/// The number of bytes that [`send`] writes for a whole message, without added dots and the last
/// line. It is larger than the file if lines end with LF, as those of other programs may.
pub(crate) fn size(message: &mut impl BufRead) -> io::Result<u64> {
    let mut pieces = Pieces::new(message);
    let mut size = 0;
    while let Some(piece) = pieces.next()? {
        size += piece.text.len() as u64 + if piece.ends_line { 2 } else { 0 };
    }
    Ok(size)
}

/// Splits a message into lines, which end with CRLF, LF or the message, and long lines into pieces.
struct Pieces<'a, R> {
    message: &'a mut R,
    buffer: Vec<u8>,
    /// A CR at the end of the last piece, which may begin a line end.
    has_cr: bool,
    is_in_line: bool,
}

/// A part of a line, without the line end.
struct Piece<'a> {
    text: &'a [u8],
    begins_line: bool,
    ends_line: bool,
}

impl<R: BufRead> Pieces<'_, R> {
    fn new(message: &mut R) -> Pieces<'_, R> {
        Pieces { message, buffer: Vec::new(), has_cr: false, is_in_line: false }
    }

    fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.buffer.clear();
        if std::mem::take(&mut self.has_cr) {
            self.buffer.push(b'\r');
        }
        let read = (&mut *self.message).take(PIECE).read_until(b'\n', &mut self.buffer)?;
        if read == 0 && !self.is_in_line {
            return Ok(None);
        }
        let ends_line = read == 0 || self.buffer.ends_with(b"\n");
        let text = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let without_cr = text.strip_suffix(b"\r");
        self.has_cr = without_cr.is_some() && !ends_line;
        let begins_line = !std::mem::replace(&mut self.is_in_line, !ends_line);
        Ok(Some(Piece { text: without_cr.unwrap_or(text), begins_line, ends_line }))
    }
}
