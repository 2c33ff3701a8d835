//! [`Workers`]: what the workers share with each other and with the accept loop.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;

use super::scheduler;
use super::slab::Key;
use crate::primitive::SleepFlag;
use crate::request::Request;
use crate::sync::Resume;
use crate::sys::thread_state::{ThreadId, current_thread};
use crate::sys::waker::Waker;

/// The workers of a server.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) all: Vec<Arc<WorkerShared>>,
    pub(super) watchdog: WatchdogWaker,
    started: Instant,
}

impl Workers {
    pub(super) fn new(count: usize) -> io::Result<Workers> {
        let new = |_| WorkerShared::new().map(Arc::new);
        let all = (0..count).map(new).collect::<io::Result<_>>()?;
        Ok(Workers { all, watchdog: WatchdogWaker::new()?, started: Instant::now() })
    }

    /// The worker with the fewest requests. Blocked workers come after all others.
    pub(super) fn least_busy(&self) -> usize {
        let now = self.now();
        let rank = |index: &usize| {
            let worker = &self.all[*index];
            (worker.is_blocked(now), worker.load())
        };
        (0..self.all.len()).min_by_key(rank).unwrap_or(0)
    }

    /// Whether a handler keeps this worker from its other fibers.
    pub(super) fn is_blocked(&self, index: usize) -> bool {
        self.all[index].is_blocked(self.now())
    }

    /// The time since the start in milliseconds, never zero.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy_threads() > 0
    }

    /// How many threads have not ended a request or an offloaded job.
    pub(super) fn busy_threads(&self) -> usize {
        self.all.iter().map(|worker| worker.busy_threads()).sum()
    }

    /// Says that no more requests will follow: each worker exits when its requests have ended.
    pub(super) fn close(&self) {
        self.all.iter().for_each(|worker| worker.close());
    }
}

/// Wakes the watchdog, which sleeps while the workers have no requests.
#[derive(Debug)]
pub(super) struct WatchdogWaker {
    sleeps: SleepFlag,
    pub(super) waker: Waker,
}

impl WatchdogWaker {
    fn new() -> io::Result<WatchdogWaker> {
        Ok(WatchdogWaker { sleeps: SleepFlag::default(), waker: Waker::new()? })
    }

    /// To be called before the watchdog checks whether it may sleep.
    pub(super) fn arm(&self) {
        self.sleeps.arm();
    }

    /// To be called after a request was counted.
    pub(super) fn wake(&self) {
        if self.sleeps.take() {
            self.waker.wake();
        }
    }
}

/// A worker whose iteration takes longer is blocked. In milliseconds: more than the turns of all
/// its fibers take, if none of them blocks.
const MAX_ITERATION: u64 = 20;

/// What others see of a worker.
#[derive(Debug)]
pub(super) struct WorkerShared {
    mailbox: Mutex<Mailbox>,
    /// Woken when the mailbox is no longer empty.
    pub(super) waker: Waker,
    /// How many requests this worker has, those in its mailbox included.
    requests: AtomicUsize,
    /// How many jobs its fibers have offloaded that have not ended.
    offloaded: AtomicUsize,
    /// Start of this loop iteration in milliseconds; 0 while blocked in `epoll_wait`.
    iteration_start: AtomicU64,
    /// Sequence counter: odd while a fiber runs.
    sequence: AtomicU64,
    /// The request of the running fiber.
    request: AtomicU64,
    /// The worker's thread, once it runs.
    thread: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct Mailbox {
    messages: Vec<Message>,
    closed: bool,
}

#[derive(Debug)]
pub(super) enum Message {
    /// To be served by this worker.
    Request(Request),
    /// What this fiber waits for may have happened.
    Resume(Key),
    /// This stream, which is not a client's, is closed.
    Closed(Key),
}

/// The fiber that a worker runs, and since which switch: two are equal if there was no switch in
/// between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunningFiber {
    sequence: u64,
    pub(super) request: u64,
}

impl WorkerShared {
    fn new() -> io::Result<WorkerShared> {
        Ok(WorkerShared {
            mailbox: Mutex::default(),
            waker: Waker::new()?,
            requests: AtomicUsize::new(0),
            offloaded: AtomicUsize::new(0),
            iteration_start: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            request: AtomicU64::new(0),
            thread: OnceLock::new(),
        })
    }

    /// Called by the worker's thread.
    pub(super) fn set_thread(&self) {
        let _ = self.thread.set(current_thread());
    }

    pub(super) fn thread(&self) -> Option<ThreadId> {
        self.thread.get().copied()
    }

    /// How many requests it has.
    pub(super) fn load(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Counts a request that this worker serves; [`send`](WorkerShared::send) does so by itself.
    pub(super) fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn end_request(&self) {
        self.requests.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn begin_offload(&self) {
        self.offloaded.fetch_add(1, Ordering::SeqCst);
    }

    /// Called at the end of the job, on its thread.
    pub(super) fn end_offload(&self, fiber: Key) {
        self.offloaded.fetch_sub(1, Ordering::SeqCst);
        self.send(Message::Resume(fiber));
    }

    pub(super) fn send(&self, message: Message) {
        if matches!(message, Message::Request(_)) {
            self.begin_request();
        }
        let mut mailbox = self.mailbox.lock();
        let was_empty = mailbox.messages.is_empty();
        mailbox.messages.push(message);
        drop(mailbox);
        if was_empty {
            self.waker.wake();
        }
    }

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
        let serves = self.requests.load(Ordering::SeqCst) > 0;
        usize::from(serves) + self.offloaded.load(Ordering::SeqCst)
    }

    /// Called before the worker waits.
    pub(super) fn end_iteration(&self) {
        self.iteration_start.store(0, Ordering::Relaxed);
    }

    pub(super) fn begin_iteration(&self, now: u64) {
        self.iteration_start.store(now, Ordering::Relaxed);
    }

    fn is_blocked(&self, now: u64) -> bool {
        let start = self.iteration_start.load(Ordering::Relaxed);
        start != 0 && now.saturating_sub(start) > MAX_ITERATION
    }

    pub(super) fn fiber_resumed(&self, request: u64) {
        self.request.store(request, Ordering::Relaxed);
        self.advance_sequence();
    }

    pub(super) fn fiber_suspended(&self) {
        self.advance_sequence();
    }

    fn advance_sequence(&self) {
        // Only the worker writes it, so that the more expensive fetch_add is not needed.
        self.sequence.store(self.sequence.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// The fiber that runs now, if any.
    pub(super) fn running_fiber(&self) -> Option<RunningFiber> {
        let sequence = self.sequence.load(Ordering::Acquire);
        let request = self.request.load(Ordering::Relaxed);
        (sequence % 2 == 1).then_some(RunningFiber { sequence, request })
    }
}

/// Resumes a fiber, by the number of its key.
impl Resume for WorkerShared {
    fn resume(&self, number: u64) {
        let key = Key::of(number);
        match scheduler::current() {
            // On the worker's own thread.
            Some(scheduler) if std::ptr::eq(scheduler.shared(), self) => scheduler.wake(key),
            _ => self.send(Message::Resume(key)),
        }
    }
}
