//! Ending a connection without destroying the answer that is on its way.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;
use crate::close_reason::CloseReason;
use crate::net::IoTimeout;
use crate::sys::socket::retry_interrupted;

/// How long a close waits for a peer that is still sending.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// How much of what such a peer sends is read, and thrown away.
const LINGER_BYTES: usize = 1024 * 1024;

/// How late a stop may notice that a peer has got its last answer.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Connection {
    /// Sends what was written, and sees to it that it arrives when the connection is dropped.
    ///
    /// A socket closed with unread input resets the connection, and the peer may lose what it was
    /// being sent ([RFC 9293, 3.10.4](https://www.rfc-editor.org/rfc/rfc9293#section-3.10.4)). So
    /// where there is such input the sending side is closed first, and the input read and thrown
    /// away until the peer has closed too, within bounds.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        // Even where the handler left nothing to send, a broadcast may have.
        let flushed = self.send(&[]);
        if flushed.is_ok() {
            // Whatever goes wrong from here on, everything that could be sent is.
            let _ = if self.stream.is_read_shutdown() {
                self.wait_until_acked()
            } else {
                self.linger()
            };
        }
        flushed
    }

    fn linger(&mut self) -> io::Result<()> {
        if self.end_reason == Some(CloseReason::Eof) {
            return Ok(());
        }
        // Cheaper than a read that finds nothing.
        if self.stream.inner().unread()? == 0 {
            return Ok(());
        }
        let mut discarded = [0; 256];
        let unread = retry_interrupted(|| self.stream.inner().try_read(&mut discarded));
        match unread {
            Ok(length @ 1..) => self.drain_input(length),
            // Its end.
            _ => Ok(()),
        }
    }

    // Not a part of its caller, whose frame is there while a handler runs: an idle connection would
    // hold a page of stack for what is read here.
    #[inline(never)]
    fn drain_input(&mut self, already: usize) -> io::Result<()> {
        let mut discarded = [0; 4096];
        let give_up = Instant::now() + LINGER_TIME;
        let mut total = already;
        self.stream.inner().shutdown(Shutdown::Write)?;
        while total < LINGER_BYTES && Instant::now() < give_up {
            match self.stream.read(&mut discarded, IoTimeout::Deadline(give_up))? {
                0 => break,
                length => total += length,
            }
        }
        Ok(())
    }

    /// During a stop the end of the input is this side's doing, and what the peer still sends
    /// would make the close a reset: so the close waits until the peer has its answers, and as with
    /// any write, no longer than the write timeout for it to take some more. (The sending side
    /// stays open meanwhile: with both sides shut, Linux resets the connection at the next byte
    /// that comes in.)
    fn wait_until_acked(&mut self) -> io::Result<()> {
        match self.stream.inner().unsent()? {
            0 => Ok(()),
            unsent => self.poll_until_acked(unsent),
        }
    }

    /// Nothing tells when the peer has got them; it is looked for, at growing intervals.
    #[inline(never)]
    fn poll_until_acked(&mut self, mut unsent: usize) -> io::Result<()> {
        let state = self.server.state();
        let soon = Instant::now() + LINGER_TIME;
        // In a forked child the parent's deadline is not known; the parent keeps it.
        let latest = state.schedule().force;
        let give_up =
            || if state.is_stopping() { state.schedule().force.min(latest) } else { soon };
        let stream = self.stream.inner();
        let mut progress = Instant::now();
        let has_stalled =
            |since: Instant| self.timeouts.write.is_some_and(|limit| since.elapsed() >= limit);
        let mut pause = Duration::from_micros(500);
        let mut discarded = [0; 4096];
        while unsent > 0 && Instant::now() < give_up() && !has_stalled(progress) {
            // Read to make room, so that the peer comes to reading in turn.
            for _ in 0..LINGER_BYTES / discarded.len() {
                if !matches!(stream.try_read(&mut discarded), Ok(1..)) {
                    break;
                }
            }
            self.stream.sleep(pause);
            pause = (2 * pause).min(MAX_POLL_INTERVAL);
            let left = stream.unsent()?;
            if left < unsent {
                progress = Instant::now();
            }
            unsent = left;
        }
        Ok(())
    }
}
