//! The fibers of one worker: which of them may go on, and how the others wait.

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

/// How many reads and writes a fiber may do before it is another one's turn, if there is one: a
/// client that never ceases to send keeps the others waiting for no longer than these take.
const IO_BUDGET: u32 = 8;

/// How many stacks are kept for fibers to come, besides one for every four that are in use. When
/// there are twice as many, the rest is given back.
const CACHED_STACKS: usize = 64;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };

    /// How many more reads and writes the fiber may do that this thread runs.
    static BUDGET: Cell<u32> = const { Cell::new(0) };
}

/// That of this thread, if it is a worker.
pub(super) fn current() -> Option<Rc<Scheduler>> {
    CURRENT.with_borrow(Option::clone)
}

/// Whether the fiber that this thread runs may do one more read or write in its turn; `false` where
/// there is none.
pub(super) fn consume_budget() -> bool {
    let left = BUDGET.get().checked_sub(1);
    left.inspect(|left| BUDGET.set(*left)).is_some()
}

/// Everything of a worker's that its fibers change.
pub(super) struct Scheduler {
    pub(super) number: usize,
    pub(super) workers: Arc<Workers>,
    pub(super) pool: Arc<ThreadPool<Job>>,
    pub(super) poller: Poller,
    stack_size: usize,
    stacks: RefCell<Vec<Stack>>,
    fibers: RefCell<FiberSlab>,
    /// Those that may go on,
    ready: RefCell<VecDeque<Key>>,
    /// and behind them, whoever comes meanwhile, those that have given way.
    yielded: RefCell<VecDeque<Key>>,
    timers: RefCell<BTreeSet<(Instant, Key)>>,
    running: Cell<Option<Key>>,
    /// How many threads do something for a fiber,
    pub(super) offload_slots: Cell<usize>,
    /// and the fibers that wait for one of them.
    pub(super) offload_queue: RefCell<VecDeque<Key>>,
}

impl Scheduler {
    /// Makes this thread a worker until `work` returns.
    pub(super) fn run(
        number: usize,
        workers: Arc<Workers>,
        pool: Arc<ThreadPool<Job>>,
        poller: Poller,
        stack_size: usize,
        work: impl FnOnce(&Scheduler),
    ) {
        let scheduler = Rc::new(Scheduler {
            number,
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
        &self.workers.all[self.number]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fibers.borrow().count() == 0
    }

    /// A stack for a fiber to come; an error when the system has none.
    pub(super) fn stack(&self) -> io::Result<Stack> {
        let spare = self.stacks.borrow_mut().pop();
        spare.map_or_else(|| Stack::new(self.stack_size), Ok)
    }

    /// Begins a fiber for a request, and gives it its first turn. `prepare` says what it will need,
    /// besides its stack, whenever its turn comes, and what it does.
    pub(super) fn begin<F>(
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

    /// Gives each of those that may go on now one turn. Whoever has become ready last is the first,
    /// since what the system has just written for it is still in the processor's caches; and since
    /// it is one turn each, nobody waits for longer than it takes to go round twice.
    pub(super) fn run_ready(&self) {
        let mut ready = self.ready.borrow_mut();
        ready.make_contiguous().reverse();
        ready.append(&mut self.yielded.borrow_mut());
        let count = ready.len();
        drop(ready);
        for _ in 0..count {
            let mut ready = self.ready.borrow_mut();
            let next = ready.pop_front();
            self.fibers.borrow_mut().prepare([ready.front(), ready.get(1)]);
            drop(ready);
            next.inspect(|next| self.resume(*next));
        }
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
        let most = CACHED_STACKS + fibers.count() / 4;
        if stacks.len() > 2 * most {
            // Those that have been here longest: the others are still in the caches.
            let too_many = stacks.len() - most;
            unmap_all(stacks.drain(..too_many));
        }
        drop((fibers, stacks));
        self.shared().dec_load();
    }

    /// How long there is nothing to do unless something happens; `None`: for ever.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        if !(self.ready.borrow().is_empty() && self.yielded.borrow().is_empty()) {
            return Some(Duration::ZERO);
        }
        let timers = self.timers.borrow();
        timers.first().map(|(timer, _)| timer.saturating_duration_since(Instant::now()))
    }

    /// Something has happened to a fiber's stream.
    pub(super) fn on_event(&self, key: Key, event: Event) {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            fiber_state.on_event(event);
            if let WaitFor::Stream(interest) = fiber_state.waits_for
                && fiber_state.take_readiness(interest)
            {
                fiber_state.waits_for = WaitFor::Turn;
                self.ready.borrow_mut().push_back(key);
            }
        }
    }

    /// A fiber has got word. It may have noticed by itself, and be at something else.
    pub(super) fn job_done(&self, key: Key) {
        self.wake(key, WaitFor::Job);
    }

    /// Lets a fiber go on if it still awaits this.
    pub(super) fn wake(&self, key: Key, waits_for: WaitFor) {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key)
            && fiber_state.waits_for == waits_for
        {
            fiber_state.waits_for = WaitFor::Turn;
            self.ready.borrow_mut().push_back(key);
        }
    }

    /// Wakes those whose time has come.
    pub(super) fn fire_timers(&self) {
        let mut timers = self.timers.borrow_mut();
        if timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((timer, key)) = timers.first().copied().filter(|(timer, _)| *timer <= now) {
            timers.remove(&(timer, key));
            let mut fibers = self.fibers.borrow_mut();
            let Some(fiber_state) = fibers.find(key) else { continue };
            fiber_state.timer = None;
            match fiber_state.deadline {
                // It was set for what came in time, and now something else is waited for.
                Some(deadline) if fiber_state.waits_for != WaitFor::Turn && deadline > now => {
                    fiber_state.timer = Some(deadline);
                    timers.insert((deadline, key));
                }
                Some(_) if fiber_state.waits_for != WaitFor::Turn => {
                    fiber_state.timed_out = true;
                    fiber_state.waits_for = WaitFor::Turn;
                    self.ready.borrow_mut().push_back(key);
                }
                _ => {}
            }
        }
    }

    // What follows is done by fibers.

    /// Whose turn it is.
    pub(super) fn running(&self) -> Option<Key> {
        self.running.get()
    }

    /// Puts the running fiber aside until it gets what it awaits; `false` when it did not until
    /// `deadline` (`None`: for ever).
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

    // Not a part of its caller, whose frame is in memory as long as the fiber waits.
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

    /// It is another one's turn.
    pub(super) fn yield_now(&self, key: Key) {
        self.yielded.borrow_mut().push_back(key);
        self.park(key, WaitFor::Turn, None);
    }
}
