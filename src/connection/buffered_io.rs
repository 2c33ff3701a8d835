//! The buffered reads and writes of a connection. The output is tied to the input: it is sent before
//! a read that needs the system.

use std::io::{self, BufRead, Read, Write};

use super::buffer::{self, InputBuffer};
use super::buffer_cache::BufferCache;
use super::timeouts::Limit;
use super::{Connection, line};
use crate::close_reason::CloseReason;
use crate::net::{IoTimeout, SharedStream, WriteProgress};

impl Connection {
    /// Sends the output buffer and then `more`.
    pub(super) fn send(&mut self, more: &[u8]) -> io::Result<()> {
        self.check_shutdown();
        let mut progress =
            WriteProgress::new(self.timeouts.write, self.timeouts.rate, self.written);
        let sent = self.stream.write_all([&self.output, more], &mut progress);
        self.written = progress.total();
        let sent = sent.map_err(|error| {
            let limit = if progress.exceeds_rate() { Limit::Rate } else { Limit::Write };
            self.timeouts.name_timeout(error, limit)
        });
        self.is_broken |= sent.is_err();
        self.output.clear();
        self.record_failure(sent)
    }

    /// Sends the output, then reads from the stream by `read`.
    fn receive(
        &mut self,
        read: impl FnOnce(&mut InputBuffer, InputSource<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.flush()?;
        if self.stream.needs_poll() {
            // A connection that waits holds no output buffer.
            OUTPUT_CACHE.with(|cache| cache.put(&mut self.output));
        }
        let timeout = self.timeouts.for_read(self.stream.inner());
        let (timeout, limit) = self.record_failure(timeout)?;
        let max_length = self.receive_limit()?;
        match read(&mut self.input, InputSource { stream: &self.stream, timeout, max_length }) {
            Ok(0) => {
                self.record_success(Some(self.closed_by_server().unwrap_or(CloseReason::Eof)));
                Ok(0)
            }
            Ok(length) => {
                self.has_received = true;
                self.timeouts.add_received(length);
                self.drain_remaining = self.drain_remaining.map(|remaining| remaining - length);
                self.record_success(None);
                Ok(length)
            }
            Err(error) => self.record_failure(Err(self.timeouts.name_timeout(error, limit))),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.receive(|input, source| {
            loop {
                if source.stream.needs_poll() {
                    // Nor an input buffer.
                    input.release();
                    source.wait()?;
                }
                if let Some(length) = input.fill(|buffer| source.read_input(buffer))? {
                    return Ok(length);
                }
            }
        })
    }
}

/// The stream, with the limits of the next read.
struct InputSource<'a> {
    stream: &'a SharedStream,
    timeout: IoTimeout,
    /// With 0 the read returns EOF.
    max_length: usize,
}

impl InputSource<'_> {
    fn wait(&self) -> io::Result<()> {
        if self.max_length == 0 { Ok(()) } else { self.stream.wait_for_input(self.timeout) }
    }

    fn read_input(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match buffer.len().min(self.max_length) {
            0 => Ok(Some(0)),
            length => self.stream.read_input(&mut buffer[..length], self.timeout),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match buffer.len().min(self.max_length) {
            0 => Ok(0),
            length => self.stream.read(&mut buffer[..length], self.timeout),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && buffer.len() >= buffer::MIN_BUFFER {
            // Bypasses the input buffer.
            return self.receive(|_, source| source.read(buffer));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut available = self.fill_buf()?;
        let length = available.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Connection {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.is_empty() {
            self.fill()?;
        }
        Ok(self.input.available())
    }

    fn consume(&mut self, length: usize) {
        self.input.consume(length);
    }

    fn read_until(&mut self, delimiter: u8, line: &mut Vec<u8>) -> io::Result<usize> {
        line::read_until(self, delimiter, line)
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        Connection::read_line(self, line)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.output.len() + bytes.len() <= OUTPUT_CAPACITY {
            if self.output.capacity() == 0 {
                self.output = OUTPUT_CACHE.with(BufferCache::take);
            }
            self.output.extend_from_slice(bytes);
        } else {
            self.send(bytes)?;
        }
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        // `write` takes all bytes or fails.
        self.write(bytes).map(drop)
    }

    /// Sends the output buffer.
    fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() { Ok(()) } else { self.send(&[]) }
    }
}

thread_local! {
    static OUTPUT_CACHE: BufferCache = const { BufferCache::new() };
}

/// Initializes the thread's buffer caches, which its first connection would do otherwise. The
/// registration of thread-local destructors is slow in the C library; a forking server pays for it
/// once instead of in each child.
pub(crate) fn prepare_thread() {
    OUTPUT_CACHE.with(|_| {});
    buffer::prepare_thread();
}

/// The output is sent before it gets longer than this.
const OUTPUT_CAPACITY: usize = 8 * 1024;
