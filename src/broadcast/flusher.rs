//! The thread that sends: it takes what was posted, and gives each member all that it lacks in as
//! few writes as possible, none of which waits.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Log;
use super::{Event, Post};
use crate::close_reason::CloseReason;
use crate::link::{Link, Sent};
use crate::sys::wait::{Interest, poll_all};

/// The most messages in one write.
const BATCH: usize = 256;

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
    /// Its socket took no more; there is something left to send.
    blocked: bool,
}

impl Flusher {
    pub(super) fn new(post: Arc<Post>) -> Flusher {
        Flusher { post, log: Log::default(), seats: HashMap::new() }
    }

    pub(super) fn run(mut self) {
        while let Some(events) = self.wait() {
            let count = events.len() as u64;
            for event in events {
                self.apply(event);
            }
            self.flush_all();
            let slow = self.forget();

            let mut inbox = self.post.inbox.lock();
            inbox.done += count;
            inbox.slow_members += slow;
            drop(inbox);
            self.post.progress.notify_all();
        }
    }

    /// What was posted, as soon as there is something, or a blocked member has room; `None` when
    /// it is all over.
    fn wait(&mut self) -> Option<Vec<Event>> {
        let mut inbox = self.post.inbox.lock();
        let idle = inbox.events.is_empty();
        if idle && inbox.closed {
            return None;
        }
        inbox.flusher_sleeps = idle;
        drop(inbox);
        // While there is work this only asks which of the blocked members have room again.
        if idle || self.seats.values().any(|seat| seat.blocked) {
            self.sleep(if idle { None } else { Some(Instant::now()) });
        }
        let mut inbox = self.post.inbox.lock();
        inbox.flusher_sleeps = false;
        inbox.bytes = 0;
        let events = std::mem::take(&mut inbox.events);
        drop(inbox);
        // Senders that found it full can go on.
        self.post.progress.notify_all();
        Some(events)
    }

    fn sleep(&mut self, until: Option<Instant>) {
        let Some(bell) = self.post.bell.get() else { return };
        let mut wanted = vec![(bell.as_fd(), Interest::Read)];
        let mut waiting = Vec::new();
        for (id, seat) in self.seats.iter().filter(|(_, seat)| seat.blocked) {
            if let Some(fd) = seat.link.stream().as_fd() {
                wanted.push((fd, Interest::Write));
                waiting.push(*id);
            }
        }
        let ready = match poll_all(&wanted, until) {
            Ok(ready) => ready,
            Err(_) => {
                // The system is short of memory: look at all of them again in a moment.
                let soon = Some(Instant::now() + Duration::from_millis(10));
                let _ = poll_all(&[(bell.as_fd(), Interest::Read)], soon);
                vec![true; wanted.len()]
            }
        };
        for (id, _) in waiting.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
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
            Event::Message(message) => self.log.append(message),
            Event::Join(id, link) => {
                let seat = Seat { link, position: self.log.end(), blocked: false };
                self.seats.insert(id, seat);
            }
            Event::Leave(id) => {
                if let Some(mut seat) = self.seats.remove(&id) {
                    // What was sent before it left is still its own.
                    let _ = seat.flush(id, &self.log);
                }
            }
        }
    }

    fn flush_all(&mut self) {
        let log = &self.log;
        self.seats.retain(|id, seat| {
            if seat.blocked {
                return true;
            }
            let flushed = seat.flush(*id, log);
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
    fn flush(&mut self, id: u64, log: &Log) -> io::Result<()> {
        let (mut after, mut slices) = (Vec::new(), Vec::new());
        loop {
            after.clear();
            slices.clear();
            for (position, bytes) in log.lag(id, self.position).take(BATCH) {
                after.push(position);
                slices.push(IoSlice::new(bytes));
            }
            let Sent { messages, blocked } = send(&self.link, &slices)?;
            if let Some(sent) = messages.checked_sub(1) {
                self.position = after[sent];
            }
            self.blocked = blocked;
            if blocked {
                return Ok(());
            }
            if slices.len() < BATCH {
                self.position = log.end();
                return Ok(());
            }
        }
    }
}

/// A stream of the user's may panic: then it is broken.
fn send(link: &Link, slices: &[IoSlice<'_>]) -> io::Result<Sent> {
    catch_unwind(AssertUnwindSafe(|| link.try_send(slices)))
        .unwrap_or_else(|_| Err(io::Error::other("the stream panicked")))
}
