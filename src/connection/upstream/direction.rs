//! One direction of a relay.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Instant;

use crate::connection::Connection;
use crate::net::{Interest, SharedStream, WaitSource, WriteProgress};
use crate::sys::splice::SplicePipe;

/// How much is read at a time, and so the most that is held while the receiver is slow.
const PIECE: usize = 32 * 1024;

/// How much a direction carries by copying before it begins to splice: for less, a pipe costs more than
/// it saves.
const SPLICE_AFTER: u64 = 64 * 1024;

/// A piece that is large enough to splice: a small one is copied with fewer system calls.
const LARGE: usize = 8 * 1024;

/// After so many smaller pieces in turn a direction copies again.
const MAX_SMALL: u32 = 8;

thread_local! {
    /// What is being carried, between a read and the write after it. A fiber does not suspend there.
    static PIECE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// From one connection to another.
pub(super) struct Direction {
    /// What was read, or written to the receiver's buffer, and could not be sent yet.
    pending: Vec<u8>,
    sent: usize,
    splicing: Splicing,
    /// How many of the last pieces were not large.
    small: u32,
    carried: u64,
    /// There may be input: none was looked for yet, or the last piece filled its buffer, or a wait has
    /// found some. Otherwise a read would fail with `WouldBlock`.
    may_have_input: bool,
    has_spliced: bool,
    /// The receiver's stream itself holds some of what was sent, or of the end.
    is_held: bool,
    input_has_ended: bool,
    has_ended: bool,
    /// The receiver was told that the input has ended.
    is_complete: bool,
    /// Why nothing can be written any more.
    failure: Option<io::Error>,
    /// Of the writes that are blocked.
    progress: WriteProgress,
}

enum Splicing {
    /// It copies.
    Off,
    On(SplicePipe),
    /// It copies, since it cannot splice.
    Never,
}

/// What one step of a direction has done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It has carried something.
    Carried,
    /// The input has ended, and the receiver was told so.
    Ended,
    /// It waits for input, or for room.
    Blocked,
}

impl Direction {
    /// Takes what is buffered on the way.
    pub(super) fn new(from: &mut Connection, to: &mut Connection) -> Direction {
        to.output.settle();
        let mut pending = std::mem::take(&mut to.output.buffer);
        let input = from.input.buffer.available();
        pending.extend_from_slice(input);
        let (carried, length) = (input.len() as u64, input.len());
        from.input.buffer.consume(length);
        let both = [&*from, &*to].map(|connection| connection.stream.inner().can_splice());
        let splicing = if both == [true; 2] { Splicing::Off } else { Splicing::Never };
        let progress = to.output.progress();
        Direction {
            pending,
            sent: 0,
            splicing,
            small: 1,
            carried,
            may_have_input: true,
            has_spliced: false,
            is_held: to.stream.has_pending_output(),
            input_has_ended: false,
            has_ended: false,
            is_complete: false,
            failure: None,
            progress,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether the receiver has been sent everything, and the end.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether a write has failed, which has ended it.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// How many bytes were read.
    pub(super) fn carried(&self) -> u64 {
        self.carried
    }

    /// Whether sockets were made non-blocking, which blocking reads and writes do not expect.
    pub(super) fn has_spliced(&self) -> bool {
        self.has_spliced
    }

    /// Carries a piece, without blocking. With `from_failed` the other direction could not be written:
    /// what `from` has sent before is carried yet, but its EOF may stand for a reset.
    ///
    /// # Errors
    /// Those of reads.
    pub(super) fn step(
        &mut self,
        from: &mut Connection,
        to: &Connection,
        from_failed: bool,
    ) -> io::Result<Step> {
        from.stream.yield_now();
        if self.is_waiting_for_room() {
            let sent = self.send(&to.stream);
            let is_blocked = self.is_waiting_for_room();
            if self.input_has_ended && !is_blocked {
                (self.is_complete, self.has_ended) = (!self.has_failed(), true);
            }
            return Ok(match sent {
                _ if self.has_ended => Step::Ended,
                0 if is_blocked => Step::Blocked,
                _ => Step::Carried,
            });
        }
        if !self.may_have_input {
            return Ok(Step::Blocked);
        }
        let length = match from.input().receive_limit()? {
            // A stop: what comes now was not received before it.
            0 => Some(0),
            max => match self.receive(from, to, max) {
                Err(error) if from.input().is_end(&error) => Some(0),
                received => received?,
            },
        };
        let Some(length) = length else {
            self.may_have_input = false;
            return Ok(Step::Blocked);
        };
        from.input().record_received(length);
        if length == 0 {
            self.input_has_ended = true;
            if !from_failed {
                // Fails if the receiver is gone, which the other direction finds.
                let _ = to.stream.shutdown(Shutdown::Write);
                self.is_held = to.stream.has_pending_output();
                self.is_complete = !self.is_held;
            }
            self.has_ended = !self.is_held;
            return Ok(if self.has_ended { Step::Ended } else { Step::Carried });
        }
        self.carried += length as u64;
        if self.has_ended {
            return Ok(Step::Ended);
        }
        self.small = if length < LARGE { self.small.saturating_add(1) } else { 0 };
        self.choose(&from.stream, &to.stream);
        Ok(Step::Carried)
    }

    /// Whether it waits for room; otherwise for input, unless it has ended.
    pub(super) fn is_waiting_for_room(&self) -> bool {
        let in_pipe = match &self.splicing {
            Splicing::On(pipe) => pipe.len(),
            _ => 0,
        };
        !self.has_ended && (self.sent < self.pending.len() || in_pipe > 0 || self.is_held)
    }

    /// Sends what is held.
    fn send(&mut self, to: &SharedStream) -> usize {
        if self.sent < self.pending.len() {
            let sent = try_send(to, &self.pending[self.sent..]);
            let sent = self.note_sent(sent, to);
            self.sent += sent;
            if self.sent == self.pending.len() {
                (self.pending, self.sent) = (Vec::new(), 0);
            }
            sent
        } else if let Splicing::On(pipe) = &mut self.splicing {
            let sent = to.try_send_pipe(pipe);
            self.note_sent(sent, to)
        } else {
            let sent = try_send(to, &[]);
            self.note_sent(sent, to)
        }
    }

    /// Notes how much a write has sent. An error ends this direction, not the other, in which there may
    /// be an answer yet.
    fn note_sent(&mut self, sent: io::Result<usize>, to: &SharedStream) -> usize {
        self.is_held = to.has_pending_output();
        match sent {
            Ok(0) => 0,
            Ok(length) => {
                self.progress.add_written(length);
                length
            }
            Err(error) => {
                self.failure = Some(error);
                self.has_ended = true;
                0
            }
        }
    }

    /// Begins or ends to splice.
    fn choose(&mut self, from: &SharedStream, to: &SharedStream) {
        match &self.splicing {
            Splicing::Off if self.small == 0 && self.carried >= SPLICE_AFTER => {
                self.splicing = begin_splicing(from, to);
                self.has_spliced |= matches!(self.splicing, Splicing::On(_));
            }
            Splicing::On(pipe) if self.small >= MAX_SMALL && pipe.len() == 0 => {
                self.splicing = Splicing::Off;
            }
            _ => {}
        }
    }

    /// Reads a piece of at most `max` bytes, and sends what there is room for. `None` if there is none.
    fn receive(
        &mut self,
        from: &Connection,
        to: &Connection,
        max: usize,
    ) -> io::Result<Option<usize>> {
        if let Splicing::On(pipe) = &mut self.splicing {
            let length = from.stream.try_fill_pipe(pipe, max)?;
            if length > 0 {
                self.send(&to.stream);
                return Ok(Some(length));
            }
        }
        PIECE_BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(PIECE, 0);
            let max = max.min(PIECE);
            let received = from.stream.try_read(&mut buffer[..max])?;
            if let Some(length @ 1..) = received {
                self.may_have_input = length == max || !from.stream.inner().short_read_empties();
                let sent = self.note_sent(try_send(&to.stream, &buffer[..length]), &to.stream);
                self.pending.extend_from_slice(&buffer[sent..length]);
            }
            Ok(received)
        })
    }

    /// A wait has found input.
    pub(super) fn set_readable(&mut self, from: &SharedStream) {
        self.may_have_input = true;
        from.set_readable();
    }

    /// Until when to wait for room, if the direction waits for that; an error if the receiver takes
    /// nothing for longer than it may.
    pub(super) fn blocked(&mut self, to: &Connection) -> io::Result<Option<Instant>> {
        if !self.is_waiting_for_room() {
            return Ok(None);
        }
        let blocked = self.progress.blocked(to.stream.inner());
        blocked.map_err(|error| to.output.name_timeout(error, &self.progress))
    }

    /// What it waits for; `None` if it has ended.
    pub(super) fn source<'a>(
        &self,
        from: &'a SharedStream,
        to: &'a SharedStream,
    ) -> Option<WaitSource<'a>> {
        if self.has_ended {
            None
        } else if self.is_waiting_for_room() {
            Some(to.source(Interest::Write))
        } else {
            Some(from.source(Interest::Read))
        }
    }
}

/// Sends as much as there is room for.
fn try_send(to: &SharedStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(to.try_send(&[IoSlice::new(bytes)], |_| &[])?.bytes)
}

/// Splices, unless there are no descriptors for a pipe.
fn begin_splicing(from: &SharedStream, to: &SharedStream) -> Splicing {
    let begun = [from, to].into_iter().try_for_each(|stream| stream.set_nonblocking(true));
    match begun.and_then(|()| SplicePipe::new()) {
        Ok(pipe) => Splicing::On(pipe),
        Err(error) => {
            log::debug!("a relay copies, because it cannot splice: {error}");
            for stream in [from, to].into_iter().filter(|stream| !stream.uses_wait()) {
                let _ = stream.set_nonblocking(false);
            }
            Splicing::Never
        }
    }
}
