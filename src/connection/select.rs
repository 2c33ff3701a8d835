//! A connection as a source of a [`Select`](crate::Select).

use std::io;

use super::Connection;

impl Connection {
    /// Whether a read does not block. See [`SharedStream::is_readable`](crate::net::SharedStream::is_readable) for
    /// `is_last`. `skips_poll`: only what this connection knows by itself counts, if its reads block.
    pub(crate) fn has_input(&self, is_last: bool, skips_poll: bool) -> bool {
        if !self.input.buffer.is_empty() || self.input.drain_remaining == Some(0) {
            return true;
        }
        if skips_poll && !self.stream.uses_wait() {
            let is_always_ready = || self.stream.inner().as_fd().is_none();
            return self.stream.has_input_beyond_fd().unwrap_or_else(is_always_ready);
        }
        self.stream.is_readable(is_last)
    }

    /// Sends the output buffer.
    pub(crate) fn flush_shared(&self) -> io::Result<()> {
        self.output.send_shared(self.link())
    }
}
