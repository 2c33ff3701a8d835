//! Receives and sends the text of a message: dots, line ends and limits
//! ([RFC 5321, 4.5.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2),
//! [RFC 1939, 3](https://www.rfc-editor.org/rfc/rfc1939#section-3)).

use std::io::{self, BufRead, ErrorKind, Write};

/// With its CRLF, and without a dot that was added before it.
const MAX_LINE_LENGTH: usize = 1000;

/// Why a message is refused.
pub(crate) enum Defect {
    BareLineEnd,
    Nul,
    LineTooLong,
    TooLarge,
    /// The error of the writer of the text.
    NotWritten(io::Error),
}

/// Reads a message to its end, and writes its text up to the first defect.
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
    line_length: usize,
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
        Decoder { state, text: Vec::new(), line_length: 0, left: max_size, defect: None }
    }

    /// Decodes the next byte; whether it is the last one.
    fn is_end(&mut self, byte: u8) -> bool {
        self.state = match (self.state, byte) {
            (State::DotCr, b'\n') => return true,
            (State::Cr, b'\n') => {
                self.add(b"\r\n");
                self.line_length = 0;
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
        self.line_length += bytes.len();
        if self.line_length > MAX_LINE_LENGTH {
            self.refuse(Defect::LineTooLong);
        }
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
    let mut line = Vec::new();
    let mut is_body = false;
    while message.read_until(b'\n', &mut line)? > 0 {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if is_body && let Some(left) = &mut body_lines {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => break,
            }
        }
        if text.starts_with(b".") {
            output.write_all(b".")?;
        }
        output.write_all(text)?;
        output.write_all(b"\r\n")?;
        is_body |= text.is_empty();
        line.clear();
    }
    output.write_all(b".\r\n")
}
