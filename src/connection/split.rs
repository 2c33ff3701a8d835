//! [`Reader`] and [`Writer`]: the two halves of a connection, for two threads.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::thread;

use super::input::InputHalf;
use super::output::OutputHalf;
use super::{Connection, Line, line};
use crate::framing::LengthPrefixed;

/// The input of a [`Connection`]: see [`Connection::split`].
pub struct Reader<'a>(pub(super) InputHalf<'a>);

/// The output of a [`Connection`]: see [`Connection::split`].
pub struct Writer<'a>(pub(super) OutputHalf<'a>);

impl Connection {
    /// The input and the output apart, so that two threads can read and write at the same time. The
    /// halves borrow the connection, which is whole again when both are dropped.
    ///
    /// They have the buffers, limits and timeouts of the connection, but are not tied: a read does not
    /// send the output. The writer sends it when its buffer is full, on [`flush`](Write::flush), and
    /// when it is dropped; an error of that last time is lost. A stop ends the input, as it does of
    /// the whole.
    ///
    /// ```
    /// use std::io::{BufRead, Write};
    /// use std::thread;
    /// use socketserver::{Connection, HandlerResult};
    ///
    /// /// Counts the lines while it sends a greeting that the client need not read first.
    /// fn handle(connection: &mut Connection) -> HandlerResult {
    ///     let (reader, mut writer) = connection.split();
    ///     let lines = thread::scope(|scope| {
    ///         scope.spawn(move || writer.write_all(b"hello\n"));
    ///         reader.lines().count()
    ///     });
    ///     writeln!(connection, "{lines} lines")?;
    ///     Ok(())
    /// }
    ///
    /// let mut connection = Connection::in_memory("one\ntwo\n");
    /// handle(connection.as_mut()).unwrap();
    /// assert_eq!(connection.output(), b"hello\n2 lines\n");
    /// ```
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let (input, output) = self.halves();
        (Reader(input), Writer(output))
    }
}

impl<'a> Reader<'a> {
    /// [`Connection::read_line`].
    ///
    /// # Errors
    /// Those of [`Connection::read_line`].
    pub fn read_line<L: Line + ?Sized>(&mut self, line: &mut L) -> io::Result<usize> {
        line.append_from(&mut self.0)
    }

    /// [`Connection::read_message`].
    ///
    /// # Errors
    /// Those of [`Connection::read_message`].
    pub fn read_message(
        &mut self,
        frames: &LengthPrefixed,
        message: &mut Vec<u8>,
    ) -> io::Result<bool> {
        self.with_message_timeout(|reader| {
            let read = frames.read(&mut *reader, message);
            reader.0.record_failure(read)
        })
    }

    /// [`Connection::with_message_timeout`].
    pub fn with_message_timeout<R>(&mut self, read: impl FnOnce(&mut Reader<'a>) -> R) -> R {
        self.0.input.begin_message();
        let result = read(self);
        self.0.input.timeouts.end_message();
        result
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.0.input.buffer.consume(length);
    }

    fn read_until(&mut self, delimiter: u8, line: &mut Vec<u8>) -> io::Result<usize> {
        line::read_until(&mut self.0, delimiter, line)
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        Reader::read_line(self, line)
    }
}

impl Writer<'_> {
    /// [`Connection::write_message`].
    ///
    /// # Errors
    /// Those of [`Connection::write_message`].
    pub fn write_message(&mut self, frames: &LengthPrefixed, message: &[u8]) -> io::Result<()> {
        frames.write(self, message)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes).map(drop)
    }

    /// Sends the output buffer, and the messages of the connection's [`Sender`](crate::Sender)s.
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !thread::panicking() && !self.0.output.outcome.is_broken {
            // The connection records a failure.
            let _ = self.0.flush();
        }
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reader").field(self.0.link.stream.peer()).finish()
    }
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(self.0.link.stream.peer()).finish()
    }
}
