//! [`Outbox`]: the messages of a connection's senders that are not written yet.

pub(crate) mod log;
mod room;
mod writer;

use std::io::{self, IoSlice};
use std::mem;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::shared_stream::{Sent, SharedStream};
use crate::close_reason::CloseReason;
use crate::error::{Error, Result};
use log::{Chunk, Log};

#[cfg(all(test, not(shuttle)))]
pub(crate) use room::RETRY_INTERVAL;
pub(crate) use room::wait_for_room;
pub(crate) use writer::{OutboxWriter, WriterHandle};

/// The maximal number of slices in one write.
pub(crate) const MAX_SLICES: usize = 64;

/// A queue that any thread appends to, without waiting, and that the [`OutboxWriter`] empties.
///
/// A write of the handler empties it too, and goes behind its messages.
pub(crate) struct Outbox {
    /// Weak: a sender does not keep the socket open.
    stream: Weak<SharedStream>,
    writer: WriterHandle,
    /// Never locked during a write to the socket.
    queue: Mutex<Queue>,
    /// Locked before `queue`, also during writes, none of which blocks.
    batch: Mutex<Batch>,
}

#[derive(Default)]
struct Queue {
    chunks: Vec<Chunk>,
    /// The position after the last message.
    end: u64,
    /// The position up to which messages are written.
    written: u64,
    capacity: usize,
    /// The writer has it on its list.
    is_scheduled: bool,
    closed: Option<Closed>,
}

/// What was taken from the queue.
#[derive(Default)]
struct Batch {
    log: Log,
    /// The messages before this position are written.
    position: u64,
    /// The last write was cut short: the stream may hold the rest of a message.
    cut_short: bool,
}

/// Why no more messages are taken.
#[derive(Clone, Copy)]
enum Closed {
    /// The client was too far behind.
    SlowConsumer { limit: usize },
    /// The connection has ended.
    Ended,
}

/// What the writer has to do next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing: all is written, or the outbox is closed.
    Idle,
    /// There are new messages.
    Write,
    /// It waits for room.
    Wait,
}

impl Outbox {
    pub(super) fn new(stream: Weak<SharedStream>, writer: WriterHandle) -> Outbox {
        Outbox { stream, writer, queue: Mutex::default(), batch: Mutex::default() }
    }

    pub(crate) fn set_capacity(&self, bytes: usize) {
        self.queue.lock().capacity = bytes;
    }

    pub(crate) fn send(self: &Arc<Outbox>, message: &[u8]) -> Result<()> {
        let mut queue = self.queue.lock();
        queue.check()?;
        if message.is_empty() {
            return Ok(());
        }
        let end = queue.end;
        queue.end = log::append(&mut queue.chunks, end, message);
        let is_full = queue.is_full();
        let was_scheduled = mem::replace(&mut queue.is_scheduled, true);
        drop(queue);
        if !was_scheduled {
            self.writer.schedule(self.clone());
        }
        if is_full { self.catch_up() } else { Ok(()) }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.lock().closed.is_some()
    }

    /// Takes no more messages. Those that it has are written by the next write of the handler.
    pub(crate) fn close(&self) {
        if self.set_closed(Closed::Ended) {
            // The writer releases the stream, whose room it may be waiting for.
            self.writer.wake();
        }
    }

    /// Moves all messages to the end of `pending`, which is about to be written.
    pub(super) fn take_into(&self, pending: &mut Vec<u8>) {
        let mut batch = self.batch.lock();
        let mut queue = self.queue.lock();
        batch.log.extend(mem::take(&mut queue.chunks));
        queue.written = queue.end;
        drop(queue);
        let end = batch.log.end();
        batch.log.pieces(batch.position..end).for_each(|piece| pending.extend_from_slice(piece));
        batch.advance_to(end);
        batch.cut_short = false;
    }

    /// Writes in the sender's thread. A client that is then still too far behind is disconnected.
    // poll(2) reports room to the writer only when a third of the send buffer is free; and a writer
    // that had no time to run yet is not the client's fault.
    #[cold]
    fn catch_up(&self) -> Result<()> {
        let Some(stream) = self.stream.upgrade() else { return Err(Closed::Ended.error()) };
        while self.queue.lock().is_full() {
            if self.write(&stream) == Next::Wait {
                break;
            }
        }
        let mut queue = self.queue.lock();
        queue.check()?;
        if !queue.is_full() {
            return Ok(());
        }
        let limit = queue.capacity;
        queue.close(Closed::SlowConsumer { limit });
        drop(queue);
        ::log::info!("{} is too slow for its sender; disconnected", stream.peer());
        stream.close(Shutdown::Both, CloseReason::Limit);
        self.writer.wake();
        Err(Closed::SlowConsumer { limit }.error())
    }

    /// Writes what the queue has now, as far as there is room.
    fn write(&self, stream: &SharedStream) -> Next {
        let mut batch = self.batch.lock();
        batch.log.extend(mem::take(&mut self.queue.lock().chunks));
        let written = batch.write(stream);
        let mut queue = self.queue.lock();
        queue.written = batch.position;
        match written {
            _ if queue.closed.is_some() => Next::Idle,
            Ok(true) => Next::Wait,
            Ok(false) if queue.chunks.is_empty() => {
                queue.is_scheduled = false;
                Next::Idle
            }
            Ok(false) => Next::Write,
            Err(_) => {
                queue.close(Closed::Ended);
                drop(queue);
                // A client that misses messages is disconnected.
                stream.close(Shutdown::Both, CloseReason::Reset);
                Next::Idle
            }
        }
    }

    /// Whether it was open.
    fn set_closed(&self, reason: Closed) -> bool {
        let mut queue = self.queue.lock();
        let was_open = queue.closed.is_none();
        queue.closed.get_or_insert(reason);
        was_open
    }
}

impl Queue {
    fn check(&self) -> Result<()> {
        self.closed.map_or(Ok(()), |closed| Err(closed.error()))
    }

    /// Whether more than `capacity` bytes are not written.
    fn is_full(&self) -> bool {
        self.closed.is_none() && self.end - self.written > self.capacity as u64
    }

    /// Discards the messages.
    fn close(&mut self, reason: Closed) {
        self.closed.get_or_insert(reason);
        self.chunks = Vec::new();
        self.written = self.end;
    }
}

impl Closed {
    fn error(self) -> Error {
        match self {
            Closed::SlowConsumer { limit } => Error::SlowConsumer { limit },
            Closed::Ended => Error::ConnectionClosed,
        }
    }
}

impl Batch {
    /// Whether there is more to write, for which the stream has no room.
    fn write(&mut self, stream: &SharedStream) -> io::Result<bool> {
        let end = self.log.end();
        while self.position < end || self.cut_short {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(self.log.pieces(self.position..end)) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let rest = |sent| self.log.rest_of_message(self.position + sent as u64);
            let Sent { bytes, blocked } = try_send(stream, &slices[..count], rest)?;
            self.advance_to(self.position + bytes as u64);
            self.cut_short = blocked;
            if blocked {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn advance_to(&mut self, position: u64) {
        self.position = position;
        self.log.discard_before(position);
    }
}

/// Sends without blocking. A user-defined stream may panic, which counts as an error.
pub(crate) fn try_send<'log>(
    stream: &SharedStream,
    pieces: &[IoSlice<'_>],
    rest: impl FnOnce(usize) -> &'log [u8],
) -> io::Result<Sent> {
    catch_unwind(AssertUnwindSafe(|| stream.try_send(pieces, rest)))
        .unwrap_or_else(|_| Err(io::Error::other("the stream panicked")))
}
