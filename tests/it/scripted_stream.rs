//! A stream without a peer: it answers each read and write as a script says, keeps a journal, and
//! checks what a connection promises.

use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use std::vec;

use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use socketserver::extend::*;
use socketserver::*;

/// What handlers write: random letters, so that a lost, doubled or swapped one is noticed.
pub(crate) static LETTERS: LazyLock<String> = LazyLock::new(|| {
    let mut state = 1_u32;
    let letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    };
    std::iter::repeat_with(letter).take(3_000_000).collect()
});

/// What the stream does at a read or write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// Reads or writes at most so many bytes.
    Bytes(usize),
    Interrupted,
    /// `WouldBlock`, at a call that does not wait.
    NotReady,
    Reset,
}

/// The state of the stream.
pub(crate) struct Wire {
    input: Vec<u8>,
    reads: vec::IntoIter<Answer>,
    writes: vec::IntoIter<Answer>,
    /// The number of bytes of the input that the connection has read.
    pub(crate) delivered: usize,
    /// The same at the last read of the current operation, if there was one.
    pub(crate) asked: Option<usize>,
    sent: usize,
    /// The number of bytes that the handler has written and the connection has not sent, nor reported
    /// an error for.
    pub(crate) owed: usize,
    failure: Option<ErrorKind>,
    /// Whether the failure happened in the current operation.
    is_news: bool,
    ended: bool,
    broken_promise: Option<&'static str>,
    pub(crate) journal: Vec<String>,
}

impl Wire {
    /// After the last answer, the stream reads and writes all that there is.
    pub(crate) fn new(input: Vec<u8>, reads: Vec<Answer>, writes: Vec<Answer>) -> Wire {
        Wire {
            input,
            reads: reads.into_iter(),
            writes: writes.into_iter(),
            delivered: 0,
            asked: None,
            sent: 0,
            owed: 0,
            failure: None,
            is_news: false,
            ended: false,
            broken_promise: None,
            journal: Vec::new(),
        }
    }

    pub(crate) fn begin(&mut self, operation: String) {
        self.journal.push(operation);
        self.asked = None;
        self.is_news = false;
    }

    /// The handler has returned.
    pub(crate) fn end(&mut self) {
        self.begin("return".to_owned());
        if self.failure.is_some() {
            // No operation is left that could return the error.
            self.owed = 0;
        }
    }

    /// Whether an operation has returned the error of a failed write, of this or an earlier operation.
    pub(crate) fn excuses(&mut self, result: &io::Result<usize>) -> Result<bool, TestCaseError> {
        let told = match (result, self.failure) {
            (Err(error), Some(failure)) => {
                error.kind() == failure || !self.is_news && error.kind() == ErrorKind::BrokenPipe
            }
            _ => false,
        };
        prop_assert!(told || !self.is_news, "a write has failed, and no error was returned");
        if told {
            self.owed = 0;
        }
        Ok(told)
    }

    pub(crate) fn verdict(&self) -> TestCaseResult {
        self.broken_promise.map_or(Ok(()), |what| Err(TestCaseError::fail(what)))
    }

    pub(crate) fn verdict_at_the_end(&self) -> TestCaseResult {
        self.verdict()?;
        prop_assert!(self.owed == 0 || self.failure.is_some(), "not all was sent in the end");
        Ok(())
    }

    fn promise(&mut self, kept: bool, otherwise: &'static str) {
        if !kept {
            self.broken_promise.get_or_insert(otherwise);
        }
    }

    fn read(&mut self, buffer: &mut [u8], blocking: bool) -> io::Result<usize> {
        self.promise(self.owed == 0, "a read before all output was sent");
        self.asked = Some(self.delivered);
        let result = next(&mut self.reads, blocking).map(|most| {
            let rest = &self.input[self.delivered..];
            let length = most.min(buffer.len()).min(rest.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            self.delivered += length;
            length
        });
        self.journal.push(format!("  stream: read at most {}: {result:?}", buffer.len()));
        result
    }

    fn write(&mut self, pieces: &[IoSlice<'_>], blocking: bool) -> io::Result<usize> {
        self.promise(self.failure.is_none(), "a write after a failed write");
        self.promise(!self.ended, "a write after the shutdown of writes");
        let bytes = pieces.iter().map(|piece| &**piece).collect::<Vec<_>>().concat();
        let result = next(&mut self.writes, blocking).map(|most| {
            let length = most.min(bytes.len());
            let expected = &LETTERS.as_bytes()[self.sent..][..length];
            self.promise(bytes[..length] == *expected, "sent other bytes than were written");
            self.promise(length <= self.owed, "sent more than was written");
            self.sent += length;
            self.owed = self.owed.saturating_sub(length);
            length
        });
        let failure = match &result {
            Ok(0) => Some(ErrorKind::WriteZero),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(error.kind()),
            _ => None,
        };
        if failure.is_some() && self.failure.is_none() {
            self.failure = failure;
            self.is_news = true;
        }
        self.journal.push(format!("  stream: write {}: {result:?}", bytes.len()));
        result
    }

    fn shutdown(&mut self, how: Shutdown) {
        if how != Shutdown::Read {
            self.promise(self.owed == 0, "a shutdown of writes before all output was sent");
            self.ended = true;
        }
        self.journal.push(format!("  stream: shutdown {how:?}"));
    }
}

fn next(answers: &mut vec::IntoIter<Answer>, blocking: bool) -> io::Result<usize> {
    loop {
        return match answers.next() {
            None => Ok(usize::MAX),
            Some(Answer::Bytes(most)) => Ok(most),
            Some(Answer::Interrupted) => Err(ErrorKind::Interrupted.into()),
            Some(Answer::NotReady) if blocking => continue,
            Some(Answer::NotReady) => Err(ErrorKind::WouldBlock.into()),
            Some(Answer::Reset) => Err(ErrorKind::ConnectionReset.into()),
        };
    }
}

/// A transport whose only connection is this stream.
pub(crate) struct Listener {
    wire: Arc<Mutex<Wire>>,
    ready: UnixStream,
    _other: UnixStream,
}

struct WireStream(Listener);

impl Listener {
    pub(crate) fn new(wire: Arc<Mutex<Wire>>) -> Listener {
        // A socket with input is always readable and writable.
        let (ready, mut other) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut other, b"!").unwrap();
        Listener { wire, ready, _other: other }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Transport for Listener {
    type Handler = dyn StreamRequestHandler;

    fn bind(_: &Endpoint, _: &TransportOptions) -> socketserver::Result<Listener> {
        unreachable!("it is not bound")
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unix(UnixName::Unnamed))
    }

    fn accept(&self, _: &TransportOptions) -> io::Result<IncomingStream> {
        let stream = Box::new(WireStream(Listener::new(self.wire.clone())));
        Ok(IncomingStream { stream, peer: self.local_addr()? })
    }
}

impl Stream for WireStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.wire.lock().read(buffer, true)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.wire.lock().write(pieces, true)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.wire.lock().read(buffer, false)
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.wire.lock().write(pieces, false)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.wire.lock().shutdown(how);
        Ok(())
    }

    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.ready.as_fd())
    }
}

/// Runs a request on this thread, with blocking reads and writes, as a thread of its own would.
pub(crate) struct Here;

impl Mixin for Here {
    fn process_request(&self, _server: &BaseServer, request: Request) {
        let _outcome = request.finish();
    }
}
