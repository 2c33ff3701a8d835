//! The tied buffers of a connection: the results of any sequence of reads and writes, over a stream
//! with short and interrupted operations, are those of plain I/O without buffers; and a read that
//! waits has sent all output before.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseResult, TestRunner};
use socketserver::extend::*;
use socketserver::*;

use crate::scripted_stream::{Answer, Here, LETTERS, Listener, Wire};
use crate::support::bound_test;

/// The most operations of a handler.
const MAX_OPERATIONS: usize = 30;

/// The most bytes of one piece of input, read or write.
const MAX_PIECE: usize = 40_000;

#[test]
fn reads_and_writes_are_those_of_plain_io_and_a_read_that_waits_sends_output_first() {
    holds_for_every(scripts(answers(30)));
}

#[test]
fn after_a_write_has_failed_the_error_is_returned_and_nothing_more_is_sent() {
    let failure = prop_oneof![Just(Answer::Reset), Just(Answer::Bytes(0))];
    let until_one_fails = (answers(5), failure).prop_map(|(mut answers, failure)| {
        answers.push(failure);
        answers
    });
    holds_for_every(scripts(until_one_fails));
}

fn holds_for_every(scripts: impl Strategy<Value = Script>) {
    bound_test();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&scripts, |script| script.run());
    run.unwrap_or_else(|error| panic!("{error}"));
}

/// What the client sends, how the stream delivers it, and what the handler does.
#[derive(Clone)]
struct Script {
    /// Whether the connection has a [`Wait`], as [`Sequential`] gives it one.
    waits: bool,
    input: Vec<Piece>,
    /// What the stream does at each read; after the last of them, it reads all that there is.
    reads: Vec<Answer>,
    /// The same for writes.
    writes: Vec<Answer>,
    max_line_length: usize,
    operations: Vec<Operation>,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// So many letters.
    Text(usize),
    /// So many letters, and the end of the line.
    Line(usize),
    /// A character of four bytes, which a short read may split.
    Crab,
    NotUtf8,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Read(Reading),
    Write(Writing),
}

#[derive(Clone, Copy, Debug)]
enum Reading {
    /// `read`, with room for so many bytes.
    Once(usize),
    Exact(usize),
    /// `fill_buf`, and `consume` of at most so many bytes.
    Buffered(usize),
    /// `read_line` into a `Vec`.
    Line,
    /// `read_line` into a `String`.
    Text,
    Until(u8),
    ToEnd,
}

#[derive(Clone, Copy, Debug)]
enum Writing {
    /// `write`.
    Once(usize),
    All(usize),
    /// `write!`, in two parts.
    Formatted(usize, usize),
    Flush,
}

fn scripts(writes: impl Strategy<Value = Vec<Answer>>) -> impl Strategy<Value = Script> {
    let piece = prop_oneof![
        4 => size().prop_map(Piece::Line),
        2 => size().prop_map(Piece::Text),
        1 => Just(Piece::Crab),
        1 => Just(Piece::NotUtf8),
    ];
    // The longest line is one byte too long, or within the limit by up to two bytes.
    let spare = prop::option::weighted(0.3, 0..3_usize);
    let stream = (any::<bool>(), vec(piece, 0..20), answers(30), writes);
    (stream, spare, vec(operation(), 0..MAX_OPERATIONS)).prop_map(|(stream, spare, operations)| {
        let (waits, input, reads, writes) = stream;
        let bytes = bytes_of(&input);
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let longest = lines.map(<[u8]>::len).max().unwrap_or(0);
        let max_line_length = spare.map_or(usize::MAX, |spare| (longest + spare).saturating_sub(1));
        Script { waits, input, reads, writes, max_line_length, operations }
    })
}

fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let letters = &LETTERS.as_bytes()[bytes.len()..];
        match *piece {
            Piece::Text(length) => bytes.extend_from_slice(&letters[..length]),
            Piece::Line(length) => {
                bytes.extend_from_slice(&letters[..length]);
                bytes.push(b'\n');
            }
            Piece::Crab => bytes.extend_from_slice("\u{1F980}".as_bytes()),
            Piece::NotUtf8 => bytes.push(0xff),
        }
    }
    bytes
}

fn operation() -> impl Strategy<Value = Operation> {
    let reading = prop_oneof![
        4 => size().prop_map(Reading::Once),
        2 => size().prop_map(Reading::Exact),
        3 => size().prop_map(Reading::Buffered),
        2 => Just(Reading::Line),
        2 => Just(Reading::Text),
        1 => prop_oneof![Just(b'\n'), Just(b'a'), Just(0xff)].prop_map(Reading::Until),
        1 => Just(Reading::ToEnd),
    ];
    let writing = prop_oneof![
        3 => size().prop_map(Writing::Once),
        3 => size().prop_map(Writing::All),
        2 => (size(), size()).prop_map(|(first, second)| Writing::Formatted(first, second)),
        1 => Just(Writing::Flush),
    ];
    prop_oneof![reading.prop_map(Operation::Read), writing.prop_map(Operation::Write)]
}

fn answers(most: usize) -> impl Strategy<Value = Vec<Answer>> {
    let answer = prop_oneof![
        6 => size().prop_map(|length| Answer::Bytes(length.max(1))),
        1 => Just(Answer::Interrupted),
        1 => Just(Answer::NotReady),
    ];
    vec(answer, 0..most)
}

/// Mostly small, and often around the sizes of the buffers.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..100_usize,
        3 => 0..6000_usize,
        1 => 4090..4100_usize,
        1 => 16_380..16_390_usize,
        1 => 0..MAX_PIECE,
    ]
}

impl Script {
    fn run(&self) -> TestCaseResult {
        let input = bytes_of(&self.input);
        let wire = Wire::new(input.clone(), self.reads.clone(), self.writes.clone());
        let wire = Arc::new(Mutex::new(wire));
        let verdict = Arc::new(Mutex::new(Err(TestCaseError::fail("the handler panicked"))));
        let handler = {
            let (script, wire, verdict) = (self.clone(), wire.clone(), verdict.clone());
            handler_fn(move |connection| {
                *verdict.lock() = Player::new(&wire, connection, &input).play(&script);
                Ok(())
            })
        };
        let mixin: Box<dyn Mixin> = if self.waits { Box::new(Sequential) } else { Box::new(Here) };
        let builder = Server::<Listener, Sequential>::builder().mixin(mixin);
        let server = builder.from_listener(Listener::new(wire.clone()), handler).unwrap();
        assert_eq!(server.handle_request(), Handled::Request);
        drop(server);

        let (verdict, wire) = (verdict.lock().clone(), wire.lock());
        verdict.and_then(|()| wire.verdict_at_the_end()).map_err(|error| {
            let journal = wire.journal.join("\n  ");
            TestCaseError::fail(format!("{error}; what happened:\n  {journal}\n"))
        })
    }
}

/// One field in each line.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  waits: {}\n  input: {:?}", self.waits, self.input)?;
        writeln!(f, "  reads: {:?}", self.reads)?;
        writeln!(f, "  writes: {:?}", self.writes)?;
        writeln!(f, "  max_line_length: {}", self.max_line_length)?;
        write!(f, "  operations: {:?}", self.operations)
    }
}

/// The handler: performs the script, and compares each read with the same read of a model.
struct Player<'a> {
    wire: &'a Mutex<Wire>,
    connection: &'a mut Connection,
    input: &'a [u8],
    /// The model, read by std's `Read` and `BufRead`: the input that has not been read yet.
    rest: &'a [u8],
    /// What will be written.
    letters: &'static str,
}

impl<'a> Player<'a> {
    fn new(wire: &'a Mutex<Wire>, connection: &'a mut Connection, input: &'a [u8]) -> Player<'a> {
        Player { wire, connection, input, rest: input, letters: &LETTERS }
    }

    fn play(mut self, script: &Script) -> TestCaseResult {
        self.connection.set_max_line_length(script.max_line_length);
        // Zero counts as one.
        let limit = script.max_line_length.max(1);
        for operation in &script.operations {
            self.wire.lock().begin(format!("{operation:?}"));
            let goes_on = match *operation {
                Operation::Read(reading) => self.read(reading, limit)?,
                Operation::Write(writing) => self.write(writing).map(|()| true)?,
            };
            self.wire.lock().verdict()?;
            if !goes_on {
                break;
            }
        }
        self.wire.lock().end();
        Ok(())
    }

    fn write(&mut self, writing: Writing) -> TestCaseResult {
        let most = writing.length();
        self.wire.lock().owed += most;
        let result = writing.perform(self.connection, &self.letters[..most]);
        let mut wire = self.wire.lock();
        if wire.excuses(&result)? {
            return Ok(());
        }
        let length = result?;
        prop_assert!((most.min(1)..=most).contains(&length), "{} of {} were written", length, most);
        prop_assert!(most - length <= wire.owed, "sent more than it says was written");
        wire.owed -= most - length;
        self.letters = &self.letters[length..];
        prop_assert!(wire.owed == 0 || !matches!(writing, Writing::Flush), "not all was flushed");
        Ok(())
    }

    /// Returns whether the model is still exact. It is not after a line that could not be read whole,
    /// unless all that was read of it has been returned.
    fn read(&mut self, reading: Reading, limit: usize) -> Result<bool, TestCaseError> {
        let line_length = reading.line_length(self.rest);
        let (result, bytes) = reading.perform(self.connection, Connection::read_line);
        let mut wire = self.wire.lock();
        let before = self.input.len() - self.rest.len();
        if wire.excuses(&result)? {
            // It needed more than was available, and has consumed that.
            let (used, rest) = self.rest.split_at(wire.delivered - before);
            self.rest = rest;
            if matches!(reading, Reading::Line | Reading::Until(_) | Reading::ToEnd) {
                prop_assert!(bytes == [BEFORE, used].concat(), "an error has lost what was read");
            }
            return Ok(!matches!(reading, Reading::Text));
        }
        if line_length > limit {
            let error = result.err();
            let too_long = error.as_ref().and_then(Error::of);
            prop_assert!(matches!(too_long, Some(Error::LineTooLong { .. })), "{:?}", error);
            prop_assert!(bytes == BEFORE, "something of the line was kept");
            return Ok(false);
        }
        let (expected, expected_bytes) = reading
            .as_short_as(&result)
            .perform(&mut self.rest, |rest, line| rest.read_until(b'\n', line));
        let result = result.map_err(|error| error.kind());
        prop_assert_eq!(result, expected.map_err(|error| error.kind()));
        prop_assert!(bytes == expected_bytes, "read other bytes than were sent");

        let after = self.input.len() - self.rest.len();
        let enough = before + reading.needed(after - before);
        let patient = wire.asked.is_none_or(|had| had < enough);
        prop_assert!(patient || self.rest.is_empty(), "waited for more than was needed");
        Ok(true)
    }
}

/// What a line is appended to.
const BEFORE: &[u8] = b"before: ";

impl Reading {
    /// Returns also what was read.
    fn perform<R: BufRead>(
        self,
        from: &mut R,
        read_line: impl FnOnce(&mut R, &mut Vec<u8>) -> io::Result<usize>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let mut bytes = BEFORE.to_vec();
        let result = match self {
            Reading::Once(most) => {
                bytes = vec![0; most];
                from.read(&mut bytes)
            }
            Reading::Exact(length) => {
                bytes = vec![0; length];
                from.read_exact(&mut bytes).map(|()| length)
            }
            Reading::Buffered(most) => from.fill_buf().map(|available| {
                let length = most.min(available.len());
                bytes.extend_from_slice(&available[..length]);
                length
            }),
            Reading::Line => read_line(from, &mut bytes),
            Reading::Text => {
                let mut text = String::from_utf8_lossy(BEFORE).into_owned();
                let result = from.read_line(&mut text);
                bytes = text.into_bytes();
                result
            }
            Reading::Until(end) => from.read_until(end, &mut bytes),
            Reading::ToEnd => from.read_to_end(&mut bytes),
        };
        match (self, &result) {
            (Reading::Buffered(_), Ok(length)) => from.consume(*length),
            (Reading::Once(_), Ok(length)) => bytes.truncate(*length),
            // The content of the buffer is unspecified then.
            (Reading::Exact(_), Err(_)) => bytes.clear(),
            _ => {}
        }
        (result, bytes)
    }

    /// The same read, with the length that was read: it may be short, but not zero.
    fn as_short_as(self, result: &io::Result<usize>) -> Reading {
        match (self, result) {
            (Reading::Once(most), Ok(length)) => Reading::Once(most.min(1).max(*length)),
            (Reading::Buffered(most), Ok(length)) => Reading::Buffered(most.min(1).max(*length)),
            _ => self,
        }
    }

    /// The number of bytes that it needed, when it has consumed so many.
    fn needed(self, used: usize) -> usize {
        match self {
            Reading::Once(most) => most.min(1),
            Reading::Buffered(_) => 1,
            _ => used,
        }
    }

    /// The length of the line that it is about to read.
    fn line_length(self, rest: &[u8]) -> usize {
        let end = match self {
            Reading::Line | Reading::Text => b'\n',
            Reading::Until(end) => end,
            _ => return 0,
        };
        rest.iter().position(|byte| *byte == end).map_or(rest.len(), |at| at + 1)
    }
}

impl Writing {
    fn length(self) -> usize {
        match self {
            Writing::Once(length) | Writing::All(length) => length,
            Writing::Formatted(first, second) => first + second,
            Writing::Flush => 0,
        }
    }

    fn perform(self, to: &mut impl Write, letters: &str) -> io::Result<usize> {
        match self {
            Writing::Once(_) => return to.write(letters.as_bytes()),
            Writing::All(_) => to.write_all(letters.as_bytes())?,
            Writing::Formatted(first, _) => {
                let (first, second) = letters.split_at(first);
                write!(to, "{first}{second}")?;
            }
            Writing::Flush => to.flush()?,
        }
        Ok(letters.len())
    }
}
