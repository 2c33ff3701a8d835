//! Closing a connection without losing the answer that is still on its way (lingering close).

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Connection;
use crate::close_reason::CloseReason;
use crate::net::{IoTimeout, WriteProgress, WriteTotal};
use crate::state::ServerState;

/// How long a close waits for a peer that keeps sending.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many bytes of such a peer are read and discarded.
const MAX_DISCARDED: usize = 1024 * 1024;

/// The first interval between two looks at the unacknowledged bytes.
const MIN_POLL_INTERVAL: Duration = Duration::from_micros(500);

/// The longest interval between two looks at the unacknowledged bytes, and so the longest delay
/// of a stop after the last acknowledgement.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Connection {
    /// Sends the buffered output, and makes sure that closing the socket afterwards does not
    /// destroy it.
    ///
    /// Closing a socket with unread input sends RST, and so does input that arrives later; the peer
    /// may lose data that it has not read yet
    /// ([RFC 9293, 3.10.4](https://www.rfc-editor.org/rfc/rfc9293#section-3.10.4)). That there is no
    /// input at the moment proves nothing about the next. So where the peer may still be sending, the
    /// write side is shut first, and input is read and discarded until EOF, within bounds of time and
    /// size.
    ///
    /// The peer may be sending unless it has shut its write side, or has never sent anything and has
    /// acknowledged all output. Not covered are a peer that sends its first bytes after that, and one
    /// that takes longer than the bounds.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.close_senders();
        // Not `flush`: a broadcast may have left the rest of a message.
        let mut flushed = self.output().send(&[]);
        if flushed.is_ok() && !self.stream.resets_on_close() {
            flushed = self.end_output();
        }
        if flushed.is_ok() {
            // Errors from here on lose nothing: all output has been sent.
            let _ = if self.stream.is_read_shutdown() || self.stream.resets_on_close() {
                self.wait_until_acked()
            } else if self.io_close_reason() != Some(CloseReason::Eof) && self.peer_may_be_sending()
            {
                self.linger()
            } else {
                Ok(())
            };
        }
        flushed
    }

    /// Says to the peer that no output follows, where the protocol has a message for that. What was
    /// written was sent.
    pub(super) fn end_output(&mut self) -> io::Result<()> {
        let mut progress = self.output.progress();
        let ended = self.stream.end_output(&mut progress);
        ended.map_err(|error| self.output.name_timeout(error, &progress))
    }

    fn peer_may_be_sending(&self) -> bool {
        self.input.has_received
            || self.stream.has_input()
            || self.stream.inner().unsent().is_ok_and(|unsent| unsent > 0)
    }

    // Not inlined: the buffer would enlarge the caller's frame, which an idle connection keeps in
    // memory while its handler runs.
    #[inline(never)]
    pub(crate) fn linger(&self) -> io::Result<()> {
        self.stream.begin_linger();
        if self.stream.is_read_shutdown() {
            // A stop has begun just now.
            return self.wait_until_acked();
        }
        self.stream.inner().shutdown(Shutdown::Write)?;
        let mut discarded = [0; 4096];
        let deadline = Instant::now() + LINGER_TIMEOUT;
        let mut total = 0;
        while total < MAX_DISCARDED && Instant::now() < deadline {
            match self.stream.read(&mut discarded, IoTimeout::Deadline(deadline))? {
                0 => break,
                length => total += length,
            }
        }
        Ok(())
    }

    /// During a stop the read side is shut by this server, and input that arrives later would make
    /// the close send RST. So the close first waits until the peer has acknowledged all output,
    /// giving up after the write timeout without progress. The write side stays open meanwhile:
    /// with both sides shut, Linux answers the next input with RST at once.
    pub(super) fn wait_until_acked(&self) -> io::Result<()> {
        match self.stream.inner().unsent()? {
            0 => Ok(()),
            _ => self.poll_until_acked(),
        }
    }

    /// Polls, at growing intervals: there is no event for acknowledgements.
    #[inline(never)]
    fn poll_until_acked(&self) -> io::Result<()> {
        let deadline = AckDeadline::new(self.server.state());
        let mut progress = WriteProgress::new(self.output.timeout, None, WriteTotal::default());
        let mut interval = MIN_POLL_INTERVAL;
        while Instant::now() < deadline.get() && !self.stream.is_hung_up() {
            self.discard_input();
            if self.stream.inner().unsent()? == 0 || progress.blocked(self.stream.inner()).is_err()
            {
                break;
            }
            self.stream.sleep(interval);
            interval = (2 * interval).min(MAX_POLL_INTERVAL);
            // A server with one thread has no other to shut the connection down.
            self.link().check_shutdown();
        }
        Ok(())
    }

    /// Makes room for a peer that is blocked in a write, and does not read before it ends.
    fn discard_input(&self) {
        let mut discarded = [0; 4096];
        for _ in 0..MAX_DISCARDED / discarded.len() {
            if !matches!(self.stream.inner().try_read(&mut discarded), Ok(1..)) {
                break;
            }
        }
    }
}

/// Until when a close waits for acknowledgements.
struct AckDeadline<'a> {
    state: &'a ServerState,
    /// Without a stop.
    linger: Instant,
    /// During a stop: its end, as of the start of the wait. A forked child does not know the parent's
    /// schedule, and would compute a later one each time. The wait mostly ends earlier, when the
    /// server, or the parent, shuts the connection down.
    end: Instant,
}

impl AckDeadline<'_> {
    fn new(state: &ServerState) -> AckDeadline<'_> {
        AckDeadline { state, linger: Instant::now() + LINGER_TIMEOUT, end: state.schedule().end }
    }

    /// A stop may have begun, or been brought forward.
    fn get(&self) -> Instant {
        if self.state.is_stopping() { self.state.schedule().end.min(self.end) } else { self.linger }
    }
}
