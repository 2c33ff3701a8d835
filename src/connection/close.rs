//! Ending a connection without destroying the answer that is on its way.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;

/// How long a close waits for a peer that is still sending.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// How much of what such a peer sends is read, and thrown away.
const LINGER_BYTES: usize = 1024 * 1024;

impl Connection {
    /// Sends what was written, and closes.
    ///
    /// A socket closed with unread input resets the connection, and the peer may lose what it was
    /// being sent ([RFC 9293, 3.10.4](https://www.rfc-editor.org/rfc/rfc9293#section-3.10.4)). So
    /// where there is such input the sending side is closed first, and the input read and thrown
    /// away until the peer has closed too, within bounds.
    pub(crate) fn close(mut self) -> io::Result<()> {
        // Even where the handler left nothing to send, a broadcast may have.
        let flushed = self.send(&[]);
        if flushed.is_ok() && !self.input.has_ended() {
            // Whatever goes wrong from here on, everything that could be sent is.
            let _ = self.linger();
        }
        flushed
    }

    fn linger(&mut self) -> io::Result<()> {
        let mut waste = [0; 4096];
        let mut length = match self.link.stream().try_read(&mut waste) {
            Ok(length) => length,
            Err(_nothing_unread) => return Ok(()),
        };
        let give_up = Instant::now() + LINGER_TIME;
        let mut total = length;
        self.link.stream().shutdown(Shutdown::Write)?;
        while length > 0 && total < LINGER_BYTES {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.link.set_read_timeout(Some(left))?;
            length = self.link.read(&mut waste)?;
            total += length;
        }
        Ok(())
    }
}
