//! What others see of a worker, and where they leave things for it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::seats::Key;
use crate::request::Request;
use crate::sys::wait::Bell;

/// The workers of a server, as they see each other.
#[derive(Debug)]
pub(super) struct Team {
    pub(super) desks: Vec<Desk>,
    pub(super) alarm: Alarm,
    begun: Instant,
}

impl Team {
    pub(super) fn new(workers: usize) -> io::Result<Team> {
        let desks = (0..workers).map(|_| Desk::new()).collect::<io::Result<_>>()?;
        Ok(Team { desks, alarm: Alarm::new()?, begun: Instant::now() })
    }

    /// Who has the fewest requests, of those who are not held up by one of them.
    pub(super) fn least_busy(&self) -> usize {
        let now = self.now();
        let rank = |worker: &usize| {
            let desk = &self.desks[*worker];
            (desk.is_held_up(now), desk.load())
        };
        (0..self.desks.len()).min_by_key(rank).unwrap_or(0)
    }

    /// Whether one of its requests keeps it from the others.
    pub(super) fn is_held_up(&self, worker: usize) -> bool {
        self.desks[worker].is_held_up(self.now())
    }

    /// In milliseconds, and not zero.
    pub(super) fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64 + 1
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy_threads() > 0
    }

    /// How many threads have something to do that they do not end.
    pub(super) fn busy_threads(&self) -> usize {
        self.desks.iter().map(Desk::busy_threads).sum()
    }

    /// No more requests will come: each worker may go when it is done with those it has.
    pub(super) fn close(&self) {
        self.desks.iter().for_each(Desk::close);
    }
}

/// What wakes the watchdog, which sleeps while nobody is served.
#[derive(Debug)]
pub(super) struct Alarm {
    is_wanted: AtomicBool,
    pub(super) bell: Bell,
}

impl Alarm {
    fn new() -> io::Result<Alarm> {
        Ok(Alarm { is_wanted: AtomicBool::new(false), bell: Bell::new()? })
    }

    /// From now on it is to be given.
    pub(super) fn set(&self) {
        self.is_wanted.store(true, Ordering::SeqCst);
    }

    /// To be called by whoever begins to serve somebody.
    pub(super) fn give(&self) {
        if self.is_wanted.load(Ordering::SeqCst) && self.is_wanted.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
    }
}

/// In milliseconds: more than a worker needs to give each of its fibers a turn, if none of them
/// holds it up.
const LONG_ROUND: u64 = 20;

/// One worker's.
#[derive(Debug)]
pub(super) struct Desk {
    inbox: Mutex<Inbox>,
    /// Rung when there is something in the inbox.
    pub(super) bell: Bell,
    /// How many requests it has been given that have not ended.
    load: AtomicUsize,
    /// How much of what it has offloaded has not ended.
    offloaded: AtomicUsize,
    /// Since when it has not asked what has happened; 0 while it waits for something to happen.
    round_begun: AtomicU64,
    /// Even while the worker is about its own business, odd while it runs a fiber.
    turn: AtomicU64,
    /// The request of the fiber that it runs.
    request: AtomicU64,
}

#[derive(Debug, Default)]
struct Inbox {
    messages: Vec<Message>,
    closed: bool,
}

/// Something for a worker to see to.
#[derive(Debug)]
pub(super) enum Message {
    Request(Request),
    /// What the fiber waits for has come.
    Word(Key),
}

/// A fiber's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    count: u64,
    pub(super) request: u64,
}

impl Desk {
    fn new() -> io::Result<Desk> {
        Ok(Desk {
            inbox: Mutex::default(),
            bell: Bell::new()?,
            load: AtomicUsize::new(0),
            offloaded: AtomicUsize::new(0),
            round_begun: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            request: AtomicU64::new(0),
        })
    }

    /// How many requests it has.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// A request is its, before it is posted.
    pub(super) fn take_on(&self) {
        self.load.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn is_done_with_one(&self) {
        self.load.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn begin_offload(&self) {
        self.offloaded.fetch_add(1, Ordering::SeqCst);
    }

    /// The fiber is to go on.
    pub(super) fn end_offload(&self, fiber: Key) {
        self.offloaded.fetch_sub(1, Ordering::SeqCst);
        self.post(Message::Word(fiber));
    }

    pub(super) fn post(&self, message: Message) {
        if matches!(message, Message::Request(_)) {
            self.take_on();
        }
        let mut inbox = self.inbox.lock();
        let rings = inbox.messages.is_empty();
        inbox.messages.push(message);
        drop(inbox);
        if rings {
            self.bell.ring();
        }
    }

    /// What has been posted since.
    pub(super) fn take_messages(&self) -> Vec<Message> {
        self.bell.silence();
        std::mem::take(&mut self.inbox.lock().messages)
    }

    fn close(&self) {
        self.inbox.lock().closed = true;
        self.bell.ring();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inbox.lock().closed
    }

    fn busy_threads(&self) -> usize {
        usize::from(self.load.load(Ordering::SeqCst) > 0) + self.offloaded.load(Ordering::SeqCst)
    }

    /// The worker waits.
    pub(super) fn end_round(&self) {
        self.round_begun.store(0, Ordering::Relaxed);
    }

    /// It has something to do again.
    pub(super) fn begin_round(&self, now: u64) {
        self.round_begun.store(now, Ordering::Relaxed);
    }

    fn is_held_up(&self, now: u64) -> bool {
        let begun = self.round_begun.load(Ordering::Relaxed);
        begun != 0 && now.saturating_sub(begun) > LONG_ROUND
    }

    pub(super) fn begin_turn(&self, request: u64) {
        self.request.store(request, Ordering::Relaxed);
        self.count_turn();
    }

    pub(super) fn end_turn(&self) {
        self.count_turn();
    }

    fn count_turn(&self) {
        // Nobody else writes it, so that it need not be read and written at once, which costs more.
        self.turn.store(self.turn.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Whose turn it is.
    pub(super) fn turn(&self) -> Option<Turn> {
        let count = self.turn.load(Ordering::Acquire);
        let request = self.request.load(Ordering::Relaxed);
        (count % 2 == 1).then_some(Turn { count, request })
    }
}
