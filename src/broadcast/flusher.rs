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
use super::{Event, Post, Posted};
use crate::close_reason::CloseReason;
use crate::link::{Link, Sent};
use crate::sys::wait::{Interest, poll_all};

#[cfg(all(test, not(shuttle)))]
mod tests;

/// The most pieces in one write.
const PIECES: usize = 64;

/// How soon a blocked member is tried again when nothing tells that it has room.
const MOMENT: Duration = Duration::from_millis(10);

/// How long a round of sending is put off for more messages, for each member: a fraction of what it
/// takes to write to one.
const GATHERING: Duration = Duration::from_micros(1);

pub(super) struct Flusher {
    post: Arc<Post>,
    log: Log,
    seats: HashMap<u64, Seat>,
}

/// One member's place.
struct Seat {
    link: Arc<Link>,
    /// What comes before this in the log, the member has got.
    position: u64,
    /// What it does not get, of what comes after: its own.
    own: VecDeque<Range<u64>>,
    /// Its socket took no more; there is something left to send.
    blocked: bool,
    /// The last write was cut short.
    may_be_cut: bool,
}

impl Flusher {
    pub(super) fn new(post: Arc<Post>) -> Flusher {
        Flusher { post, log: Log::default(), seats: HashMap::new() }
    }

    pub(super) fn run(mut self) {
        while let Some(Posted { chunks, events }) = self.wait() {
            self.log.extend(chunks);
            for event in events {
                self.apply(event);
            }
            self.flush_all();
            let slow = self.forget();

            let mut inbox = self.post.inbox.lock();
            inbox.rounds_done = inbox.rounds;
            inbox.slow_members += slow;
            drop(inbox);
            self.post.progress.notify_all();
        }
    }

    /// What was posted, as soon as there is something, or a blocked member has room; `None` when
    /// it is all over.
    fn wait(&mut self) -> Option<Posted> {
        let mut inbox = self.post.inbox.lock();
        let idle = inbox.is_empty();
        if idle && inbox.closed {
            return None;
        }
        inbox.flusher_sleeps = idle;
        drop(inbox);
        // While there is work this only asks which of the blocked members have room again.
        if idle || self.seats.values().any(|seat| seat.blocked) {
            self.sleep(if idle { None } else { Some(Instant::now()) });
        }
        if idle {
            self.gather();
        }
        let mut inbox = self.post.inbox.lock();
        inbox.flusher_sleeps = false;
        let was_full = inbox.is_full(self.post.capacity);
        let posted = inbox.take();
        drop(inbox);
        if was_full {
            // Senders can go on.
            self.post.progress.notify_all();
        }
        Some(posted)
    }

    /// Others who have something to say may be about to: one round of sending for all. It ends when
    /// nobody has said more for a while.
    fn gather(&self) {
        let begun = Instant::now();
        let most = GATHERING * self.seats.len().try_into().unwrap_or(u32::MAX);
        let (mut last, mut end) = (begun, self.post.inbox.lock().end);
        loop {
            thread::yield_now();
            let now = Instant::now();
            let end_before = std::mem::replace(&mut end, self.post.inbox.lock().end);
            if end != end_before {
                last = now;
            }
            if now - last >= most / 16 || now - begun >= most {
                return;
            }
        }
    }

    fn sleep(&mut self, until: Option<Instant>) {
        let Some(bell) = self.post.bell.get() else { return };
        let mut wanted = vec![(bell.as_fd(), Interest::Read)];
        let (mut waiting, mut always_ready) = (Vec::new(), Vec::new());
        for (id, seat) in self.seats.iter().filter(|(_, seat)| seat.blocked) {
            if let Some(fd) = seat.link.stream().as_fd() {
                wanted.push((fd, Interest::Write));
                waiting.push(*id);
            } else {
                always_ready.push(*id);
            }
        }
        let soon = Some(Instant::now() + MOMENT);
        let until = if always_ready.is_empty() { until } else { until.or(soon) };
        let ready = match poll_all(&wanted, until) {
            Ok(ready) => ready,
            Err(_) => {
                // The system is short of memory: look at all of them again in a moment.
                let _ = poll_all(&[(bell.as_fd(), Interest::Read)], soon);
                vec![true; wanted.len()]
            }
        };
        let ready_ones = waiting.iter().zip(&ready[1..]).filter(|(_, ready)| **ready);
        for id in ready_ones.map(|(id, _)| id).chain(&always_ready) {
            if let Some(seat) = self.seats.get_mut(id) {
                seat.blocked = false;
            }
        }
        if ready[0] {
            bell.silence();
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join(id, link, position) => {
                let seat = Seat {
                    link,
                    position,
                    own: VecDeque::new(),
                    blocked: false,
                    may_be_cut: false,
                };
                self.seats.insert(id, seat);
            }
            Event::Own(id, range) => {
                if let Some(seat) = self.seats.get_mut(&id) {
                    seat.own.push_back(range);
                }
            }
            Event::Leave(id, position) => {
                if let Some(mut seat) = self.seats.remove(&id) {
                    // What was sent before it left is still its own.
                    let _ = seat.flush(&self.log, position);
                }
            }
        }
    }

    fn flush_all(&mut self) {
        let log = &self.log;
        self.seats.retain(|_, seat| {
            if seat.blocked {
                return true;
            }
            let flushed = seat.flush(log, log.end());
            if flushed.is_err() {
                // Broken: nobody is left connected to a broadcast that does not reach it.
                seat.link.end(Shutdown::Both, CloseReason::Reset);
            }
            flushed.is_ok()
        });
    }

    /// Forgets what all have got, and whatever is too old; says how many fell behind too far.
    fn forget(&mut self) -> u64 {
        let slowest = self.seats.values().map(|seat| seat.position).min();
        self.log.forget_before(slowest.unwrap_or(self.log.end()));
        self.log.shrink_to(self.post.capacity);
        let before = self.seats.len();
        let start = self.log.start();
        self.seats.retain(|_, seat| {
            let keeps_up = seat.position >= start;
            if !keeps_up {
                ::log::info!("{} is too slow for the broadcast; disconnected", seat.link.peer());
                seat.link.end(Shutdown::Both, CloseReason::Limit);
            }
            keeps_up
        });
        (before - self.seats.len()) as u64
    }
}

impl Seat {
    /// Sends what there is for it up to `end`, or as much as its socket takes.
    fn flush(&mut self, log: &Log, end: u64) -> io::Result<()> {
        let (mut has_spoken, mut was_sent) = (false, false);
        loop {
            has_spoken |= self.pass_own();
            // Its link may hold the rest of a message, though it has got everything else.
            if self.position >= end && !self.may_be_cut {
                if has_spoken && !was_sent {
                    // Nothing else tells it so, and it may wait for that before it says more.
                    acknowledge(&self.link);
                }
                return Ok(());
            }
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut ranges: [Range<u64>; PIECES] = [const { 0..0 }; PIECES];
            let mut count = 0;
            for range in self.others(end) {
                let mut start = range.start;
                for piece in log.pieces(range) {
                    if count == PIECES {
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
            let Sent { bytes, blocked } = send(&self.link, pieces, rest)?;
            self.position = position_after(ranges, bytes).unwrap_or(self.position);
            (self.blocked, self.may_be_cut) = (blocked, blocked);
            was_sent = true;
            if blocked {
                return Ok(());
            }
        }
    }

    /// Goes on behind its own messages, where these come next; whether they do.
    fn pass_own(&mut self) -> bool {
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
fn acknowledge(link: &Link) {
    let _ = catch_unwind(AssertUnwindSafe(|| link.stream().acknowledge()));
}

/// A stream of the user's may panic: then it is broken.
fn send<'log>(
    link: &Link,
    pieces: &[IoSlice<'_>],
    rest: impl FnOnce(usize) -> &'log [u8],
) -> io::Result<Sent> {
    catch_unwind(AssertUnwindSafe(|| link.try_send(pieces, rest)))
        .unwrap_or_else(|_| Err(io::Error::other("the stream panicked")))
}
