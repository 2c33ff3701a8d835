//! What others see of a worker, and where they leave things for it.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::fiber_slab::Key;
use crate::request::Request;
use crate::sync::SleepFlag;
use crate::sys::waker::Waker;

/// The workers of a server, as they see each other.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) all: Vec<WorkerShared>,
    pub(super) watchdog: WatchdogWaker,
    begun: Instant,
}

impl Workers {
    pub(super) fn new(workers: usize) -> io::Result<Workers> {
        let all = (0..workers).map(|_| WorkerShared::new()).collect::<io::Result<_>>()?;
        Ok(Workers { all, watchdog: WatchdogWaker::new()?, begun: Instant::now() })
    }

    /// Who has the fewest requests, of those who are not held up by one of them.
    pub(super) fn least_busy(&self) -> usize {
        let now = self.now();
        let rank = |worker: &usize| {
            let worker = &self.all[*worker];
            (worker.is_blocked(now), worker.load())
        };
        (0..self.all.len()).min_by_key(rank).unwrap_or(0)
    }

    /// Whether one of its requests keeps it from the others.
    pub(super) fn is_blocked(&self, worker: usize) -> bool {
        self.all[worker].is_blocked(self.now())
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
        self.all.iter().map(WorkerShared::busy_threads).sum()
    }

    /// No more requests will come: each worker may go when it is done with those it has.
    pub(super) fn close(&self) {
        self.all.iter().for_each(WorkerShared::close);
    }
}

/// What wakes the watchdog, which sleeps while nobody is served.
#[derive(Debug)]
pub(super) struct WatchdogWaker {
    is_wanted: SleepFlag,
    pub(super) waker: Waker,
}

impl WatchdogWaker {
    fn new() -> io::Result<WatchdogWaker> {
        Ok(WatchdogWaker { is_wanted: SleepFlag::default(), waker: Waker::new()? })
    }

    /// From now on it is to be given.
    pub(super) fn arm(&self) {
        self.is_wanted.arm();
    }

    /// To be called by whoever begins to serve somebody.
    pub(super) fn wake(&self) {
        if self.is_wanted.take() {
            self.waker.wake();
        }
    }
}

/// In milliseconds: more than a worker needs to give each of its fibers a turn, if none of them
/// holds it up.
const MAX_ITERATION: u64 = 20;

/// One worker's.
#[derive(Debug)]
pub(super) struct WorkerShared {
    mailbox: Mutex<Mailbox>,
    /// Rung when there is something in the inbox.
    pub(super) waker: Waker,
    /// How many requests it has been given that have not ended.
    load: AtomicUsize,
    /// How much of what it has offloaded has not ended.
    offloaded: AtomicUsize,
    /// Since when it has not asked what has happened; 0 while it waits for something to happen.
    iteration_begun: AtomicU64,
    /// Even while the worker is about its own business, odd while it runs a fiber.
    running_fiber: AtomicU64,
    /// The request of the fiber that it runs.
    request: AtomicU64,
}

#[derive(Debug, Default)]
struct Mailbox {
    messages: Vec<Message>,
    closed: bool,
}

/// Something for a worker to see to.
#[derive(Debug)]
pub(super) enum Message {
    Request(Request),
    /// What the fiber waits for has come.
    JobDone(Key),
}

/// A fiber's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunningFiber {
    count: u64,
    pub(super) request: u64,
}

impl WorkerShared {
    fn new() -> io::Result<WorkerShared> {
        Ok(WorkerShared {
            mailbox: Mutex::default(),
            waker: Waker::new()?,
            load: AtomicUsize::new(0),
            offloaded: AtomicUsize::new(0),
            iteration_begun: AtomicU64::new(0),
            running_fiber: AtomicU64::new(0),
            request: AtomicU64::new(0),
        })
    }

    /// How many requests it has.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// A request is its, before it is posted.
    pub(super) fn inc_load(&self) {
        self.load.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn dec_load(&self) {
        self.load.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn begin_offload(&self) {
        self.offloaded.fetch_add(1, Ordering::SeqCst);
    }

    /// The fiber is to go on.
    pub(super) fn end_offload(&self, fiber: Key) {
        self.offloaded.fetch_sub(1, Ordering::SeqCst);
        self.send(Message::JobDone(fiber));
    }

    pub(super) fn send(&self, message: Message) {
        if matches!(message, Message::Request(_)) {
            self.inc_load();
        }
        let mut mailbox = self.mailbox.lock();
        let wakes = mailbox.messages.is_empty();
        mailbox.messages.push(message);
        drop(mailbox);
        if wakes {
            self.waker.wake();
        }
    }

    /// What has been posted since.
    pub(super) fn take_messages(&self) -> Vec<Message> {
        self.waker.clear();
        std::mem::take(&mut self.mailbox.lock().messages)
    }

    fn close(&self) {
        self.mailbox.lock().closed = true;
        self.waker.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.mailbox.lock().closed
    }

    fn busy_threads(&self) -> usize {
        usize::from(self.load.load(Ordering::SeqCst) > 0) + self.offloaded.load(Ordering::SeqCst)
    }

    /// The worker waits.
    pub(super) fn end_iteration(&self) {
        self.iteration_begun.store(0, Ordering::Relaxed);
    }

    /// It has something to do again.
    pub(super) fn begin_iteration(&self, now: u64) {
        self.iteration_begun.store(now, Ordering::Relaxed);
    }

    fn is_blocked(&self, now: u64) -> bool {
        let begun = self.iteration_begun.load(Ordering::Relaxed);
        begun != 0 && now.saturating_sub(begun) > MAX_ITERATION
    }

    pub(super) fn fiber_resumed(&self, request: u64) {
        self.request.store(request, Ordering::Relaxed);
        self.advance_sequence();
    }

    pub(super) fn fiber_suspended(&self) {
        self.advance_sequence();
    }

    fn advance_sequence(&self) {
        // Nobody else writes it, so that it need not be read and written at once, which costs more.
        self.running_fiber.store(self.running_fiber.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// Whose turn it is.
    pub(super) fn running_fiber(&self) -> Option<RunningFiber> {
        let count = self.running_fiber.load(Ordering::Acquire);
        let request = self.request.load(Ordering::Relaxed);
        (count % 2 == 1).then_some(RunningFiber { count, request })
    }
}
