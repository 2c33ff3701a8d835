//! The text of a message on its way in and out: dots, line ends and limits
//! ([RFC 5321, 4.5.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2),
//! [RFC 1939, 3](https://www.rfc-editor.org/rfc/rfc1939#section-3)).

use std::io::{self, BufRead, ErrorKind, Write};

/// How long a line may be, its CRLF included, and a dot that was put before it not.
const MAX_LINE_LENGTH: usize = 1000;

/// Why a message cannot be taken.
pub(crate) enum Defect {
    BareLineEnd,
    Nul,
    LineTooLong,
    TooLarge,
    /// The error is that of the writer that the text went to.
    NotWritten(io::Error),
}

/// Reads a message to its end, whatever it contains, and writes its text as far as that is good.
///
/// The end is CRLF, dot, CRLF and nothing else. A reader that took a bare LF or CR for a line's end
/// would find commands in what the sender meant for text ("SMTP smuggling"), so a message that has
/// any is refused, after its true end.
///
/// # Errors
/// Those of the input, whose early end is one.
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

/// Goes through what comes, a byte at a time.
struct Decoder {
    state: State,
    /// What it has made of it, to be taken away now and then.
    text: Vec<u8>,
    line_length: usize,
    left: u64,
    /// The first one; after it there is no more text.
    defect: Option<Defect>,
}

#[derive(Clone, Copy)]
enum State {
    LineStart,
    /// After a dot that begins a line: one too many, or the begin of the end.
    Dot,
    DotCr,
    Text,
    Cr,
}

impl Decoder {
    fn new(max_size: u64) -> Decoder {
        // The line that said DATA is what the first one follows.
        let state = State::LineStart;
        Decoder { state, text: Vec::new(), line_length: 0, left: max_size, defect: None }
    }

    /// Takes the next byte; whether it is the last one.
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

    /// Whatever is wrong, it is not where a line ends.
    fn refuse(&mut self, defect: Defect) -> State {
        self.defect.get_or_insert(defect);
        State::Text
    }
}

/// Writes a message out, with a dot before each line that begins with one, and the last line, which
/// is a dot: its head, and all of its body or so many lines of it.
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
