//! The buffered reads and writes of a connection. The output is tied to the input: it is sent before
//! a read that needs the system.

use std::io::{self, BufRead, Read, Write};

use super::input::InputHalf;
use super::link::Link;
use super::output::OutputHalf;
use super::{Connection, line};

impl Connection {
    pub(super) fn link(&self) -> Link<'_> {
        Link { stream: &self.stream, server: &self.server, is_upstream: self.upstream.is_some() }
    }

    /// The input half, with the output tied to it.
    #[inline(always)]
    pub(super) fn input(&mut self) -> InputHalf<'_> {
        let (input, output) = self.halves();
        InputHalf { tied: Some(output.output), ..input }
    }

    #[inline(always)]
    pub(super) fn output(&mut self) -> OutputHalf<'_> {
        self.halves().1
    }

    /// Both halves, untied.
    #[inline(always)]
    pub(super) fn halves(&mut self) -> (InputHalf<'_>, OutputHalf<'_>) {
        let Connection { stream, server, input, output, upstream, .. } = self;
        let link = Link { stream, server, is_upstream: upstream.is_some() };
        (InputHalf { link, input, tied: None }, OutputHalf { link, output })
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input().read(buffer)
    }
}

impl BufRead for Connection {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.buffer.is_empty() {
            self.input().fill()?;
        }
        Ok(self.input.buffer.available())
    }

    fn consume(&mut self, length: usize) {
        self.input.buffer.consume(length);
    }

    fn read_until(&mut self, delimiter: u8, line: &mut Vec<u8>) -> io::Result<usize> {
        line::read_until(&mut self.input(), delimiter, line)
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        Connection::read_line(self, line)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output().write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output().write(bytes).map(drop)
    }

    /// Sends the output buffer, and the messages of the connection's [`Sender`](super::Sender)s.
    fn flush(&mut self) -> io::Result<()> {
        self.output().flush()
    }
}
