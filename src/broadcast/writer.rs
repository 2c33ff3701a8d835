//! The background thread of a broadcast: takes batches from the mailbox and sends each member its
//! messages in as few writes as possible, none of which blocks.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::iter;
use std::net::Shutdown;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Batch, Event, Shared};
use crate::close_reason::CloseReason;
use crate::id::MemberId;
use crate::net::outbox::log::Log;
use crate::net::outbox::{MAX_SLICES, try_send, wait_for_room};
use crate::net::{Sent, SharedStream};

#[cfg(all(test, not(shuttle)))]
mod tests;

/// How long a batch is delayed to collect more messages, per member: a fraction of the time of a
/// write.
const BATCH_WINDOW: Duration = Duration::from_micros(1);

pub(super) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    subscribers: HashMap<MemberId, Subscriber>,
}

/// A member as the writer sees it.
struct Subscriber {
    stream: Arc<SharedStream>,
    /// The messages before this position are sent.
    position: u64,
    /// The messages after `position` that the member does not receive: its own.
    skips: VecDeque<Range<u64>>,
    /// The stream had no room; cleared when it may have room again.
    blocked: bool,
    /// The last write was cut short: the stream may hold the rest of a message.
    cut_short: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Writer {
        Writer { shared, log: Log::default(), subscribers: HashMap::new() }
    }

    pub(super) fn run(mut self) {
        while let Some(Batch { chunks, events }) = self.wait() {
            self.log.extend(chunks);
            for event in events {
                self.apply(event);
            }
            self.flush_all();
            let slow = self.drop_slow();

            let mut mailbox = self.shared.mailbox.lock();
            mailbox.batches_written = mailbox.batches_taken;
            mailbox.slow_members += slow;
            let leaving = std::mem::take(&mut mailbox.leaving);
            drop(mailbox);
            leaving.iter().for_each(|current| current.unpark());
        }
    }

    /// Waits until the mailbox is not empty, or a blocked stream has room, and takes the batch.
    /// `None` when the broadcast has been dropped.
    fn wait(&mut self) -> Option<Batch> {
        let mut mailbox = self.shared.mailbox.lock();
        let idle = mailbox.is_empty();
        if idle && mailbox.closed {
            return None;
        }
        mailbox.writer_sleeps = idle;
        drop(mailbox);
        // If the mailbox is not empty, this only polls the blocked streams.
        if idle || self.subscribers.values().any(|subscriber| subscriber.blocked) {
            self.sleep(if idle { None } else { Some(Instant::now()) });
        }
        if idle {
            self.collect_messages();
        }
        let mut mailbox = self.shared.mailbox.lock();
        mailbox.writer_sleeps = false;
        let was_full = mailbox.is_full(self.shared.capacity);
        let batch = mailbox.take();
        drop(mailbox);
        if was_full {
            // Wakes blocked senders.
            self.shared.progress.notify_all();
        }
        Some(batch)
    }

    /// Waits for messages of other senders, to send them in the same batch: until none has arrived
    /// for a sixteenth of the batch window, or the window is over.
    fn collect_messages(&self) {
        let started = Instant::now();
        let window = BATCH_WINDOW * self.subscribers.len().try_into().unwrap_or(u32::MAX);
        let (mut last_arrival, mut end) = (started, self.shared.mailbox.lock().end);
        loop {
            thread::yield_now();
            let now = Instant::now();
            let previous_end = std::mem::replace(&mut end, self.shared.mailbox.lock().end);
            if end != previous_end {
                last_arrival = now;
            }
            if now - last_arrival >= window / 16 || now - started >= window {
                return;
            }
        }
    }

    /// Waits for the waker and for room in the blocked streams, and clears `blocked` where there
    /// may be room.
    fn sleep(&mut self, deadline: Option<Instant>) {
        let Some(waker) = self.shared.waker.get() else { return };
        let mut blocked: Vec<_> =
            self.subscribers.values_mut().filter(|subscriber| subscriber.blocked).collect();
        let streams: Vec<_> = blocked.iter().map(|subscriber| &*subscriber.stream).collect();
        let has_room = wait_for_room(waker, &streams, deadline);
        for (subscriber, has_room) in blocked.iter_mut().zip(has_room) {
            subscriber.blocked = !has_room;
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join(id, stream, position) => {
                let subscriber = Subscriber {
                    stream,
                    position,
                    skips: VecDeque::new(),
                    blocked: false,
                    cut_short: false,
                };
                self.subscribers.insert(id, subscriber);
            }
            Event::Skip(id, range) => {
                if let Some(subscriber) = self.subscribers.get_mut(&id) {
                    subscriber.skips.push_back(range);
                }
            }
            Event::Leave(id, position) => {
                if let Some(mut subscriber) = self.subscribers.remove(&id) {
                    // The messages sent before it left.
                    let _ = subscriber.flush(&self.log, position);
                }
            }
        }
    }

    fn flush_all(&mut self) {
        let (log, capacity) = (&self.log, self.shared.capacity as u64);
        self.subscribers.retain(|_, subscriber| {
            // One that is about to be dropped is tried once more: poll(2) reports room only when a
            // third of the send buffer is free.
            let is_too_slow = log.end().saturating_sub(subscriber.position) > capacity;
            if subscriber.blocked && !is_too_slow {
                return true;
            }
            let flushed = subscriber.flush(log, log.end());
            if flushed.is_err() {
                // A member that misses messages is disconnected.
                subscriber.stream.close(Shutdown::Both, CloseReason::Reset);
            }
            flushed.is_ok()
        });
    }

    /// Discards the messages that all members have received, or that exceed the capacity, and
    /// disconnects the members that needed those. Returns how many.
    fn drop_slow(&mut self) -> u64 {
        let slowest = self.subscribers.values().map(|subscriber| subscriber.position).min();
        self.log.discard_before(slowest.unwrap_or(self.log.end()));
        self.log.shrink_to(self.shared.capacity);
        let count = self.subscribers.len();
        let start = self.log.start();
        self.subscribers.retain(|_, subscriber| {
            let keeps_up = subscriber.position >= start;
            if !keeps_up {
                ::log::info!(
                    "{} is too slow for the broadcast; disconnected",
                    subscriber.stream.peer()
                );
                subscriber.stream.close(Shutdown::Both, CloseReason::Limit);
            }
            keeps_up
        });
        (count - self.subscribers.len()) as u64
    }
}

impl Subscriber {
    /// Sends the messages up to `end`, or as much as the stream has room for.
    fn flush(&mut self, log: &Log, end: u64) -> io::Result<()> {
        let skipped_own = self.skip_own();
        // After a short write the stream may hold the rest of the last message.
        if self.position >= end && !self.cut_short {
            if skipped_own {
                // A delayed acknowledgement delays the client's next small write (Nagle), and
                // there is no output to carry it.
                acknowledge(&self.stream);
            }
            return Ok(());
        }
        loop {
            self.write(log, end)?;
            self.skip_own();
            if self.blocked || self.position >= end {
                return Ok(());
            }
        }
    }

    /// Moves the position past the member's own messages, if these are next. Returns whether they
    /// were.
    fn skip_own(&mut self) -> bool {
        let count = self.skips.len();
        while let Some(skip) = self.skips.front().filter(|skip| skip.start <= self.position) {
            self.position = self.position.max(skip.end);
            self.skips.pop_front();
        }
        self.skips.len() < count
    }

    /// One write of at most [`MAX_SLICES`] slices.
    fn write(&mut self, log: &Log, end: u64) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        let pieces = self.others(end).flat_map(|range| log.pieces(range));
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let rest = |sent| log.rest_of_message(self.position_after(sent, end));
        let Sent { bytes, blocked } = try_send(&self.stream, &slices[..count], rest)?;
        self.position = self.position_after(bytes, end);
        (self.blocked, self.cut_short) = (blocked, blocked);
        Ok(())
    }

    /// The ranges up to `end` between the member's own messages.
    fn others(&self, end: u64) -> impl Iterator<Item = Range<u64>> {
        let starts = iter::once(self.position).chain(self.skips.iter().map(|skip| skip.end));
        let ends = self.skips.iter().map(|skip| skip.start).chain([end]);
        starts.zip(ends).map(move |(start, next)| start..next.min(end)).filter(|r| !r.is_empty())
    }

    /// The position after `sent` bytes of [`others`](Subscriber::others).
    fn position_after(&self, sent: usize, end: u64) -> u64 {
        let (mut position, mut left) = (self.position, sent as u64);
        for range in self.others(end) {
            let length = left.min(range.end - range.start);
            position = range.start + length;
            left -= length;
            if left == 0 {
                break;
            }
        }
        position
    }
}

/// Sends a pending TCP acknowledgement now. A user-defined stream may panic.
fn acknowledge(stream: &SharedStream) {
    let _ = catch_unwind(AssertUnwindSafe(|| stream.inner().acknowledge()));
}
