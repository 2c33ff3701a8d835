//! The thread that sends: it takes what was posted, and gives each member all that it lacks in as
//! few writes as possible, none of which waits.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::log::Log;
use super::{Batch, Event, Shared};
use crate::close_reason::CloseReason;
use crate::net::{Sent, SharedStream};
use crate::sys::poll::{Interest, poll_all};

#[cfg(all(test, not(shuttle)))]
mod tests;

/// The most pieces in one write.
const MAX_PIECES: usize = 64;

/// How soon a blocked member is tried again when nothing tells that it has room.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How long a round of sending is put off for more messages, for each member: a fraction of what it
/// takes to write to one.
const BATCH_WINDOW: Duration = Duration::from_micros(1);

pub(super) struct Writer {
    shared: Arc<Shared>,
    log: Log,
    subscribers: HashMap<u64, Subscriber>,
}

/// One member's place.
struct Subscriber {
    stream: Arc<SharedStream>,
    /// What comes before this in the log, the member has got.
    position: u64,
    /// What it does not get, of what comes after: its own.
    own: VecDeque<Range<u64>>,
    /// Its socket took no more; there is something left to send.
    blocked: bool,
    /// The last write was cut short.
    is_partial: bool,
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
            drop(mailbox);
            self.shared.progress.notify_all();
        }
    }

    /// What was posted, as soon as there is something, or a blocked member has room; `None` when
    /// it is all over.
    fn wait(&mut self) -> Option<Batch> {
        let mut mailbox = self.shared.mailbox.lock();
        let idle = mailbox.is_empty();
        if idle && mailbox.closed {
            return None;
        }
        mailbox.writer_sleeps = idle;
        drop(mailbox);
        // While there is work this only asks which of the blocked members have room again.
        if idle || self.subscribers.values().any(|subscriber| subscriber.blocked) {
            self.sleep(if idle { None } else { Some(Instant::now()) });
        }
        if idle {
            self.wait_for_more();
        }
        let mut mailbox = self.shared.mailbox.lock();
        mailbox.writer_sleeps = false;
        let was_full = mailbox.is_full(self.shared.capacity);
        let batch = mailbox.take();
        drop(mailbox);
        if was_full {
            // Senders can go on.
            self.shared.progress.notify_all();
        }
        Some(batch)
    }

    /// Others who have something to say may be about to: one round of sending for all. It ends when
    /// nobody has said more for a while.
    fn wait_for_more(&self) {
        let begun = Instant::now();
        let most = BATCH_WINDOW * self.subscribers.len().try_into().unwrap_or(u32::MAX);
        let (mut last, mut end) = (begun, self.shared.mailbox.lock().end);
        loop {
            thread::yield_now();
            let now = Instant::now();
            let end_before = std::mem::replace(&mut end, self.shared.mailbox.lock().end);
            if end != end_before {
                last = now;
            }
            if now - last >= most / 16 || now - begun >= most {
                return;
            }
        }
    }

    fn sleep(&mut self, deadline: Option<Instant>) {
        let Some(waker) = self.shared.waker.get() else { return };
        let mut wanted = vec![(waker.as_fd(), Interest::Read)];
        let (mut waiting, mut always_ready) = (Vec::new(), Vec::new());
        for (id, subscriber) in self.subscribers.iter().filter(|(_, subscriber)| subscriber.blocked)
        {
            if let Some(fd) = subscriber.stream.inner().as_fd() {
                wanted.push((fd, Interest::Write));
                waiting.push(*id);
            } else {
                always_ready.push(*id);
            }
        }
        let soon = Some(Instant::now() + RETRY_INTERVAL);
        let deadline = if always_ready.is_empty() { deadline } else { deadline.or(soon) };
        let ready = match poll_all(&wanted, deadline) {
            Ok(ready) => ready,
            Err(_) => {
                // The system is short of memory: look at all of them again in a moment.
                let _ = poll_all(&[(waker.as_fd(), Interest::Read)], soon);
                vec![true; wanted.len()]
            }
        };
        let ready_ones = waiting.iter().zip(&ready[1..]).filter(|(_, ready)| **ready);
        for id in ready_ones.map(|(id, _)| id).chain(&always_ready) {
            if let Some(subscriber) = self.subscribers.get_mut(id) {
                subscriber.blocked = false;
            }
        }
        if ready[0] {
            waker.clear();
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join(id, stream, position) => {
                let subscriber = Subscriber {
                    stream,
                    position,
                    own: VecDeque::new(),
                    blocked: false,
                    is_partial: false,
                };
                self.subscribers.insert(id, subscriber);
            }
            Event::Own(id, range) => {
                if let Some(subscriber) = self.subscribers.get_mut(&id) {
                    subscriber.own.push_back(range);
                }
            }
            Event::Leave(id, position) => {
                if let Some(mut subscriber) = self.subscribers.remove(&id) {
                    // What was sent before it left is still its own.
                    let _ = subscriber.flush(&self.log, position);
                }
            }
        }
    }

    fn flush_all(&mut self) {
        let log = &self.log;
        self.subscribers.retain(|_, subscriber| {
            if subscriber.blocked {
                return true;
            }
            let flushed = subscriber.flush(log, log.end());
            if flushed.is_err() {
                // Broken: nobody is left connected to a broadcast that does not reach it.
                subscriber.stream.close(Shutdown::Both, CloseReason::Reset);
            }
            flushed.is_ok()
        });
    }

    /// Forgets what all have got, and whatever is too old; says how many fell behind too far.
    fn drop_slow(&mut self) -> u64 {
        let slowest = self.subscribers.values().map(|subscriber| subscriber.position).min();
        self.log.forget_before(slowest.unwrap_or(self.log.end()));
        self.log.shrink_to(self.shared.capacity);
        let before = self.subscribers.len();
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
        (before - self.subscribers.len()) as u64
    }
}

impl Subscriber {
    /// Sends what there is for it up to `end`, or as much as its socket takes.
    fn flush(&mut self, log: &Log, end: u64) -> io::Result<()> {
        let (mut skipped_own, mut was_sent) = (false, false);
        loop {
            skipped_own |= self.skip_own();
            // Its link may hold the rest of a message, though it has got everything else.
            if self.position >= end && !self.is_partial {
                if skipped_own && !was_sent {
                    // Nothing else tells it so, and it may wait for that before it says more.
                    acknowledge(&self.stream);
                }
                return Ok(());
            }
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
            let mut ranges: [Range<u64>; MAX_PIECES] = [const { 0..0 }; MAX_PIECES];
            let mut count = 0;
            for range in self.others(end) {
                let mut start = range.start;
                for piece in log.pieces(range) {
                    if count == MAX_PIECES {
                        break;
                    }
                    let length = piece.len() as u64;
                    pieces[count] = IoSlice::new(piece);
                    ranges[count] = start..start + length;
                    start += length;
                    count += 1;
                }
            }
            let (pieces, ranges) = (&pieces[..count], &ranges[..count]);
            let rest = |sent| {
                position_after(ranges, sent)
                    .map_or(&[][..], |position| log.rest_of_message(position))
            };
            let Sent { bytes, blocked } = send(&self.stream, pieces, rest)?;
            self.position = position_after(ranges, bytes).unwrap_or(self.position);
            (self.blocked, self.is_partial) = (blocked, blocked);
            was_sent = true;
            if blocked {
                return Ok(());
            }
        }
    }

    /// Goes on behind its own messages, where these come next; whether they do.
    fn skip_own(&mut self) -> bool {
        let before = self.own.len();
        while let Some(own) = self.own.front().filter(|own| own.start <= self.position) {
            self.position = self.position.max(own.end);
            self.own.pop_front();
        }
        self.own.len() < before
    }

    /// What lies between its own messages.
    fn others(&self, end: u64) -> impl Iterator<Item = Range<u64>> {
        let starts = std::iter::once(self.position).chain(self.own.iter().map(|own| own.end));
        let ends = self.own.iter().map(|own| own.start).chain([end]);
        starts.zip(ends).map(move |(start, next)| start..next.min(end)).filter(|r| !r.is_empty())
    }
}

/// Where one is after so many bytes of these; `None` where there are none.
fn position_after(ranges: &[Range<u64>], bytes: usize) -> Option<u64> {
    let mut left = bytes as u64;
    for range in ranges {
        let length = range.end - range.start;
        if left <= length {
            return Some(range.start + left);
        }
        left -= length;
    }
    ranges.last().map(|range| range.end)
}

/// Tells the member that what it said was received. A stream of the user's may panic.
fn acknowledge(stream: &SharedStream) {
    let _ = catch_unwind(AssertUnwindSafe(|| stream.inner().acknowledge()));
}

/// A stream of the user's may panic: then it is broken.
fn send<'log>(
    stream: &SharedStream,
    pieces: &[IoSlice<'_>],
    rest: impl FnOnce(usize) -> &'log [u8],
) -> io::Result<Sent> {
    catch_unwind(AssertUnwindSafe(|| stream.try_send(pieces, rest)))
        .unwrap_or_else(|_| Err(io::Error::other("the stream panicked")))
}
