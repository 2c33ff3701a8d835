//! Ending a connection without destroying the answer that is on its way.

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;
use crate::close_reason::CloseReason;
use crate::link::Until;
use crate::sys::socket::retry_interrupted;

/// How long a close waits for a peer that is still sending.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// How much of what such a peer sends is read, and thrown away.
const LINGER_BYTES: usize = 1024 * 1024;

/// How late a stop may notice that a peer has got its last answer.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

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
            let _ = if self.link.is_read_shut() { self.see_off() } else { self.linger() };
        }
        flushed
    }

    fn linger(&mut self) -> io::Result<()> {
        if self.ended == Some(CloseReason::Eof) {
            return Ok(());
        }
        // Cheaper than a read that finds nothing.
        if self.link.stream().unread()? == 0 {
            return Ok(());
        }
        let mut waste = [0; 256];
        let unread = retry_interrupted(|| self.link.stream().try_read(&mut waste));
        match unread {
            Ok(length @ 1..) => self.read_to_its_end(length),
            // Its end.
            _ => Ok(()),
        }
    }

    // Not a part of its caller, whose frame is there while a handler runs: an idle connection would
    // hold a page of stack for what is read here.
    #[inline(never)]
    fn read_to_its_end(&mut self, already: usize) -> io::Result<()> {
        let mut waste = [0; 4096];
        let give_up = Instant::now() + LINGER_TIME;
        let mut total = already;
        self.link.stream().shutdown(Shutdown::Write)?;
        while total < LINGER_BYTES && Instant::now() < give_up {
            match self.link.read(&mut waste, Until::Instant(give_up))? {
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
    fn see_off(&mut self) -> io::Result<()> {
        match self.link.stream().unsent()? {
            0 => Ok(()),
            unsent => self.wait_for_receipt(unsent),
        }
    }

    /// Nothing tells when the peer has got them; it is looked for, at growing intervals.
    #[inline(never)]
    fn wait_for_receipt(&mut self, mut unsent: usize) -> io::Result<()> {
        let control = self.server.control();
        let soon = Instant::now() + LINGER_TIME;
        // In a forked child the parent's deadline is not known; the parent keeps it.
        let latest = control.deadline().force;
        let give_up =
            || if control.is_stopping() { control.deadline().force.min(latest) } else { soon };
        let stream = self.link.stream();
        let mut progress = Instant::now();
        let has_stalled =
            |since: Instant| self.patience.write.is_some_and(|limit| since.elapsed() >= limit);
        let mut pause = Duration::from_micros(500);
        let mut waste = [0; 4096];
        while unsent > 0 && Instant::now() < give_up() && !has_stalled(progress) {
            // Read to make room, so that the peer comes to reading in turn.
            for _ in 0..LINGER_BYTES / waste.len() {
                if !matches!(stream.try_read(&mut waste), Ok(1..)) {
                    break;
                }
            }
            self.link.pause(pause);
            pause = (2 * pause).min(LONGEST_PAUSE);
            let left = stream.unsent()?;
            if left < unsent {
                progress = Instant::now();
            }
            unsent = left;
        }
        Ok(())
    }
}
