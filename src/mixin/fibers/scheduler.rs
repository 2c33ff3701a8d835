//! [`Scheduler`]: the fibers of one worker; which of them are ready, and what the others wait for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fiber_slab::{FiberSlab, FiberState, Key, WaitFor};
use super::task::block_thread;
use super::worker_shared::{WorkerShared, Workers};
use crate::mixin::thread_pool::ThreadPool;
use crate::net::{Interest, Stream};
use crate::sys::epoll::{Event, Poller};
use crate::sys::fiber::{self, Fiber, Job};
use crate::sys::prefetch::Span;
use crate::sys::stack::{Stack, unmap_all};

/// How many reads and writes a fiber may do before it yields to other ready fibers: a bound on
/// how long a client that sends without pause delays the other clients of its worker.
const IO_BUDGET: u32 = 8;

/// How many stacks are kept for new fibers, besides one for every four in use. Twice as many may
/// be free before the rest is unmapped.
const CACHED_STACKS: usize = 64;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };

    /// What is left of the running fiber's [`IO_BUDGET`].
    static BUDGET: Cell<u32> = const { Cell::new(0) };
}

/// The scheduler of this thread, if it is a worker.
pub(super) fn current() -> Option<Rc<Scheduler>> {
    CURRENT.with_borrow(Option::clone)
}

/// Takes one read or write from the running fiber's budget; `false` if there is none left, and on
/// threads that run no fibers.
pub(super) fn consume_budget() -> bool {
    let left = BUDGET.get().checked_sub(1);
    left.inspect(|left| BUDGET.set(*left)).is_some()
}

/// The part of a worker that its fibers use. It never leaves the worker's thread.
pub(super) struct Scheduler {
    pub(super) index: usize,
    pub(super) workers: Arc<Workers>,
    pub(super) pool: Arc<ThreadPool<Job>>,
    pub(super) poller: Poller,
    stack_size: usize,
    stacks: RefCell<Vec<Stack>>,
    fibers: RefCell<FiberSlab>,
    /// The fibers to resume in the next round.
    ready: RefCell<VecDeque<Key>>,
    /// The fibers that have used up their budget: resumed after those in `ready`.
    yielded: RefCell<VecDeque<Key>>,
    timers: RefCell<BTreeSet<(Instant, Key)>>,
    running: Cell<Option<Key>>,
    /// How many jobs the fibers have offloaded that have not ended.
    pub(super) offload_slots: Cell<usize>,
    /// The fibers that wait for an offload slot.
    pub(super) offload_queue: RefCell<VecDeque<Key>>,
}

impl Scheduler {
    /// Makes this thread a worker until `work` returns.
    pub(super) fn run(
        index: usize,
        workers: Arc<Workers>,
        pool: Arc<ThreadPool<Job>>,
        poller: Poller,
        stack_size: usize,
        work: impl FnOnce(&Scheduler),
    ) {
        let scheduler = Rc::new(Scheduler {
            index,
            workers,
            pool,
            poller,
            stack_size,
            stacks: RefCell::default(),
            fibers: RefCell::default(),
            ready: RefCell::default(),
            yielded: RefCell::default(),
            timers: RefCell::default(),
            running: Cell::new(None),
            offload_slots: Cell::new(0),
            offload_queue: RefCell::default(),
        });
        CURRENT.set(Some(scheduler.clone()));
        work(&scheduler);
        CURRENT.set(None);
    }

    pub(super) fn shared(&self) -> &WorkerShared {
        &self.workers.all[self.index]
    }

    /// Whether no fibers are left.
    pub(super) fn is_empty(&self) -> bool {
        self.fibers.borrow().count() == 0
    }

    /// A stack for a new fiber; an error if the system cannot map one.
    pub(super) fn take_stack(&self) -> io::Result<Stack> {
        let cached = self.stacks.borrow_mut().pop();
        cached.map_or_else(|| Stack::new(self.stack_size), Ok)
    }

    /// Starts a fiber for a request, and runs it until it first waits. `prepare` returns its code,
    /// and the memory besides its stack that is prefetched before it is resumed.
    pub(super) fn start<F>(
        &self,
        request: u64,
        stack: Stack,
        prepare: impl FnOnce(Key) -> ([Span; 3], F),
    ) where
        F: FnOnce() + 'static,
    {
        let key = self.fibers.borrow_mut().insert(request);
        let (spans, run) = prepare(key);
        let fiber = Fiber::new(stack, run);
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            (fiber_state.fiber, fiber_state.spans) = (Some(fiber), spans);
        }
        self.resume(key);
    }

    /// Resumes each ready fiber once. A fiber that becomes ready meanwhile waits for the next
    /// round.
    pub(super) fn run_ready(&self) {
        for _ in 0..self.order_round() {
            let next = self.next_ready();
            next.inspect(|key| self.resume(*key));
        }
    }

    /// Orders the fibers of a round, and returns their number: first the ready ones, LIFO, since
    /// what the system has just written for the last one is still in the processor's caches, then
    /// those that have yielded. As each is resumed once, none waits for more than two rounds.
    fn order_round(&self) -> usize {
        let mut ready = self.ready.borrow_mut();
        ready.make_contiguous().reverse();
        ready.append(&mut self.yielded.borrow_mut());
        ready.len()
    }

    /// Takes the next fiber of the round, and prefetches what the two after it need.
    fn next_ready(&self) -> Option<Key> {
        let mut ready = self.ready.borrow_mut();
        let next = ready.pop_front();
        self.fibers.borrow_mut().prefetch([ready.front(), ready.get(1)]);
        next
    }

    fn resume(&self, key: Key) {
        let taken = self.fibers.borrow_mut().find(key).and_then(|fiber_state| {
            fiber_state.fiber.take().map(|fiber| (fiber, fiber_state.request))
        });
        let Some((mut fiber, request)) = taken else { return };
        self.running.set(Some(key));
        BUDGET.set(IO_BUDGET);
        self.shared().fiber_resumed(request);
        let has_ended = fiber.resume();
        self.shared().fiber_suspended();
        self.running.set(None);
        if has_ended {
            self.end(key, fiber);
        } else if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            fiber_state.fiber = Some(fiber);
        }
    }

    fn end(&self, key: Key, fiber: Fiber) {
        let mut fibers = self.fibers.borrow_mut();
        if let Some(timer) = fibers.remove(key).and_then(|fiber_state| fiber_state.timer) {
            self.timers.borrow_mut().remove(&(timer, key));
        }
        let mut stacks = self.stacks.borrow_mut();
        stacks.extend(fiber.into_stack());
        let kept = CACHED_STACKS + fibers.count() / 4;
        if stacks.len() > 2 * kept {
            // The oldest ones: the others are still in the processor's caches.
            let surplus = stacks.len() - kept;
            unmap_all(stacks.drain(..surplus));
        }
        drop((fibers, stacks));
        self.shared().end_request();
    }

    /// How long the worker may wait for events: not at all if a fiber is ready, otherwise until
    /// the first timer; `None` if there is none.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        if !(self.ready.borrow().is_empty() && self.yielded.borrow().is_empty()) {
            return Some(Duration::ZERO);
        }
        let timers = self.timers.borrow();
        timers.first().map(|(timer, _)| timer.saturating_duration_since(Instant::now()))
    }

    /// Notes an event of a fiber's stream.
    pub(super) fn on_event(&self, key: Key, event: Event) {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            fiber_state.on_event(event);
            if let WaitFor::Stream(interest) = fiber_state.waits_for
                && fiber_state.take_readiness(interest)
            {
                self.make_ready(key, fiber_state);
            }
        }
    }

    /// The offloaded job ended; the fiber may already have been resumed.
    pub(super) fn job_done(&self, key: Key) {
        self.wake(key, WaitFor::Job);
    }

    /// Makes a fiber ready if this is what it waits for.
    pub(super) fn wake(&self, key: Key, waits_for: WaitFor) {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key)
            && fiber_state.waits_for == waits_for
        {
            self.make_ready(key, fiber_state);
        }
    }

    fn make_ready(&self, key: Key, fiber_state: &mut FiberState) {
        fiber_state.waits_for = WaitFor::Turn;
        self.ready.borrow_mut().push_back(key);
    }

    /// Makes the fibers ready whose deadlines have passed.
    pub(super) fn fire_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(key) = self.take_expired_timer(now) {
            if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
                self.on_timer(key, fiber_state, now);
            }
        }
    }

    fn take_expired_timer(&self, now: Instant) -> Option<Key> {
        let mut timers = self.timers.borrow_mut();
        let (_, key) = *timers.first().filter(|(timer, _)| *timer <= now)?;
        timers.pop_first();
        Some(key)
    }

    /// A timer outlives the wait that it was set for, so that a wait that ends in time costs no
    /// change of `timers`. So the fiber may be ready, or wait with a later deadline or none.
    fn on_timer(&self, key: Key, fiber_state: &mut FiberState, now: Instant) {
        fiber_state.timer = None;
        if fiber_state.waits_for == WaitFor::Turn {
            return;
        }
        match fiber_state.deadline {
            Some(deadline) if deadline > now => self.set_timer(key, fiber_state, deadline),
            Some(_) => {
                fiber_state.timed_out = true;
                self.make_ready(key, fiber_state);
            }
            None => {}
        }
    }

    // The rest is called by fibers.

    /// The fiber that calls this; `None` outside of one.
    pub(super) fn running(&self) -> Option<Key> {
        self.running.get()
    }

    /// Suspends the running fiber until it gets what it waits for; `false` if the deadline passed
    /// first (`None`: no deadline).
    pub(super) fn park(&self, key: Key, waits_for: WaitFor, deadline: Option<Instant>) -> bool {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            fiber_state.waits_for = waits_for;
            fiber_state.deadline = deadline;
            if let Some(deadline) = deadline {
                self.set_timer(key, fiber_state, deadline);
            }
        }
        fiber::suspend();
        let mut fibers = self.fibers.borrow_mut();
        !fibers.find(key).is_some_and(|fiber_state| std::mem::take(&mut fiber_state.timed_out))
    }

    /// Sets the fiber's one timer, unless it is earlier already.
    // Not inlined: the caller's frame stays in memory while the fiber waits.
    #[inline(never)]
    fn set_timer(&self, key: Key, fiber_state: &mut FiberState, deadline: Instant) {
        if fiber_state.timer.is_none_or(|timer| deadline < timer) {
            let mut timers = self.timers.borrow_mut();
            if let Some(timer) = fiber_state.timer.replace(deadline) {
                timers.remove(&(timer, key));
            }
            timers.insert((deadline, key));
        }
    }

    /// Suspends the running fiber until its stream is ready.
    pub(super) fn wait_for(
        &self,
        key: Key,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let Some(fd) = stream.as_fd() else { return Ok(()) };
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            if fiber_state.take_readiness(interest) {
                return Ok(());
            }
            if !fiber_state.is_registered {
                self.poller.add(fd, key.number())?;
                fiber_state.is_registered = true;
            }
        }
        match self.park(key, WaitFor::Stream(interest), deadline) {
            true => Ok(()),
            // The timer may go off before the worker has seen the event: `epoll_wait` reports 512 at
            // a time, and none after a signal. This looks once more, without blocking.
            false => block_thread(stream, interest, deadline),
        }
    }

    /// Lets the other ready fibers run first.
    pub(super) fn yield_now(&self, key: Key) {
        self.yielded.borrow_mut().push_back(key);
        self.park(key, WaitFor::Turn, None);
    }
}
