//! The input half of a connection: buffered reads, with their limits.

use std::io::{self, Read};

use super::buffer::{InputBuffer, MIN_BUFFER};
use super::link::Link;
use super::outcome::Outcome;
use super::output::{Output, OutputHalf};
use super::timeouts::Timeouts;
use crate::close_reason::CloseReason;
use crate::config::Settings;
use crate::error::Error;
use crate::net::{IoTimeout, SharedStream};

/// What reads change.
pub(super) struct Input {
    pub(super) buffer: InputBuffer,
    pub(super) max_line_length: usize,
    pub(super) timeouts: Timeouts,
    /// During a stop: how many of the bytes received before it are not read yet.
    pub(super) drain_remaining: Option<usize>,
    /// Something was read from the stream.
    pub(super) has_received: bool,
    pub(super) outcome: Outcome,
}

impl Input {
    pub(super) fn new(settings: &Settings) -> Input {
        Input {
            buffer: InputBuffer::default(),
            max_line_length: settings.max_line_length,
            timeouts: Timeouts::new(settings),
            drain_remaining: None,
            has_received: false,
            outcome: Outcome::default(),
        }
    }
}

/// The input half while it is used.
pub(super) struct InputHalf<'a> {
    pub(super) link: Link<'a>,
    pub(super) input: &'a mut Input,
    /// The output that is sent before a read that needs the system.
    pub(super) tied: Option<&'a mut Output>,
}

impl InputHalf<'_> {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.buffer.is_empty() && buffer.len() >= MIN_BUFFER {
            // Bypasses the input buffer.
            return self.receive(|_, source| source.read(buffer));
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut available = self.fill_buf()?;
        let length = available.read(buffer)?;
        self.input.buffer.consume(length);
        Ok(length)
    }

    pub(super) fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.buffer.is_empty() {
            self.fill()?;
        }
        Ok(self.input.buffer.available())
    }

    pub(super) fn fill(&mut self) -> io::Result<usize> {
        self.receive(|input, mut source| {
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

    /// Sends the tied output, then reads from the stream by `read`.
    fn receive(
        &mut self,
        read: impl FnOnce(&mut InputBuffer, InputSource<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let stream = self.link.stream;
        if let Some(output) = &mut self.tied {
            let mut output = OutputHalf { link: self.link, output };
            output.flush_buffer()?;
            if stream.needs_poll() {
                // A connection that waits holds no output buffer.
                output.release_buffer();
            }
        }
        let timeout = self.input.timeouts.for_read(stream.inner());
        let (timeout, limit) = self.record_failure(timeout)?;
        let max_length = self.receive_limit()?;
        match read(&mut self.input.buffer, InputSource { stream, timeout, max_length }) {
            Ok(length) => {
                self.record_received(length);
                Ok(length)
            }
            Err(error) if self.is_end(&error) => {
                self.record_received(0);
                Ok(0)
            }
            Err(error) => {
                let error = self.input.timeouts.name_timeout(error, limit);
                self.record_failure(Err(error))
            }
        }
    }

    /// How many bytes a read may return. During a stop the input ends after the bytes that were
    /// received when this connection first noticed the stop. Linux keeps receiving after
    /// `shutdown(SHUT_RD)`, and a client that never stops sending would never read EOF.
    #[inline(always)]
    pub(super) fn receive_limit(&mut self) -> io::Result<usize> {
        let (link, input) = (self.link, &mut *self.input);
        if input.drain_remaining.is_none() && link.server.is_stopping() && !link.is_upstream {
            link.check_shutdown();
            if !link.is_spared() {
                input.drain_remaining = Some(link.stream.inner().unread()?);
            }
        }
        Ok(input.drain_remaining.unwrap_or(usize::MAX).min(input.timeouts.max_length()))
    }

    /// Notes that so many bytes were read from the stream; 0 is EOF.
    pub(super) fn record_received(&mut self, length: usize) {
        let input = &mut *self.input;
        if length == 0 {
            let reason = self.link.closed_by_server().unwrap_or(CloseReason::Eof);
            input.outcome.record_success(Some(reason));
        } else {
            input.has_received = true;
            input.timeouts.add_received(length);
            self.link.stream.add_received(length);
            input.drain_remaining = input.drain_remaining.map(|remaining| remaining - length);
            input.outcome.record_success(None);
        }
    }

    /// Whether a read has failed because the input ended without a message that says so, and it was the
    /// server that has ended it: the parent of this process, for instance.
    #[cold]
    #[inline(never)]
    pub(super) fn is_end(&self, error: &io::Error) -> bool {
        matches!(Error::of(error), Some(Error::TlsTruncated))
            && self.link.closed_by_server().is_some()
    }

    /// Records what an error implies for the connection: the handler may ignore the error.
    #[inline(always)]
    pub(super) fn record_failure<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.input.outcome.record_failure(result, self.link)
    }

    /// Calls `read`, whose reads count as one message.
    pub(super) fn with_message_timeout<R>(&mut self, read: impl FnOnce(&mut Self) -> R) -> R {
        self.input.begin_message();
        let result = read(self);
        self.input.timeouts.end_message();
        result
    }
}

impl Input {
    pub(super) fn begin_message(&mut self) {
        self.timeouts.begin_message(self.buffer.available().len());
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
    fn wait(&mut self) -> io::Result<()> {
        if self.max_length == 0 { Ok(()) } else { self.stream.wait_for_input(&mut self.timeout) }
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
