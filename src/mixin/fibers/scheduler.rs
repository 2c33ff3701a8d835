//! [`Scheduler`]: the fibers of one worker; which of them are ready, and what the others wait for.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fiber_state::FiberState;
use super::slab::{Key, Slab};
use super::stream_state::StreamState;
use super::worker_shared::{WorkerShared, Workers};
use crate::mixin::thread_pool::ThreadPool;
use crate::sync::{Current, Suspend};
use crate::sys::fiber::{self, Fiber, Job};
use crate::sys::poller::{Event, Poller};
use crate::sys::prefetch::Span;
use crate::sys::stack::{Stack, unmap_all};

/// How many reads and writes a fiber may do before it yields to other ready fibers: a bound on
/// how long a client that sends without pause delays the other clients of its worker.
const IO_BUDGET: u32 = 8;

/// From this number of fibers on, their memory exceeds the processor's caches.
const PREFETCH_THRESHOLD: usize = 256;

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

/// By which a scheduler knows a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum StreamKey {
    /// It is a part of the state of the fiber that serves the client.
    Client(Key),
    Upstream(Key),
}

impl StreamKey {
    /// The numbers of keys are below 2^62.
    const UPSTREAM: u64 = 1 << 62;

    /// A number for epoll, below 2^63.
    pub(super) fn number(self) -> u64 {
        match self {
            StreamKey::Client(key) => key.number(),
            StreamKey::Upstream(key) => key.number() | StreamKey::UPSTREAM,
        }
    }

    pub(super) fn of(number: u64) -> StreamKey {
        match number & StreamKey::UPSTREAM {
            0 => StreamKey::Client(Key::of(number)),
            _ => StreamKey::Upstream(Key::of(number & !StreamKey::UPSTREAM)),
        }
    }
}

/// What [`Fibers`](super::Fibers) sets for its workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerOptions {
    pub(super) stack_size: usize,
    pub(super) max_offloads: usize,
}

/// The part of a worker that its fibers use. It never leaves the worker's thread.
pub(super) struct Scheduler {
    pub(super) index: usize,
    pub(super) workers: Arc<Workers>,
    pub(super) pool: Arc<ThreadPool<Job>>,
    pub(super) poller: Poller,
    stack_size: usize,
    stacks: RefCell<Vec<Stack>>,
    fibers: RefCell<Slab<FiberState>>,
    /// The streams besides those of the clients.
    upstreams: RefCell<Slab<StreamState>>,
    /// The fibers to resume in the next round.
    ready: RefCell<VecDeque<Key>>,
    /// The fibers that have used up their budget: resumed after those in `ready`.
    yielded: RefCell<VecDeque<Key>>,
    timers: RefCell<BTreeSet<(Instant, Key)>>,
    running: Cell<Option<Key>>,
    /// How many more jobs the fibers may offload.
    pub(super) offload_slots: Cell<usize>,
    /// The fibers that wait for that.
    pub(super) offload_queue: RefCell<VecDeque<Arc<Current>>>,
}

impl Scheduler {
    /// Makes this thread a worker until `work` returns.
    pub(super) fn run(
        index: usize,
        workers: Arc<Workers>,
        pool: Arc<ThreadPool<Job>>,
        poller: Poller,
        options: WorkerOptions,
        work: impl FnOnce(&Scheduler),
    ) {
        let scheduler = Rc::new(Scheduler {
            index,
            workers,
            pool,
            poller,
            stack_size: options.stack_size,
            stacks: RefCell::default(),
            fibers: RefCell::default(),
            upstreams: RefCell::default(),
            ready: RefCell::default(),
            yielded: RefCell::default(),
            timers: RefCell::default(),
            running: Cell::new(None),
            offload_slots: Cell::new(options.max_offloads),
            offload_queue: RefCell::default(),
        });
        CURRENT.set(Some(scheduler.clone()));
        Scheduler::install(Some(scheduler.clone()));
        work(&scheduler);
        Scheduler::install(None);
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
        let key = self.fibers.borrow_mut().insert(FiberState::new(request, None));
        let (spans, run) = prepare(key);
        let fiber = Fiber::new(stack, run);
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            (fiber_state.fiber, fiber_state.spans) = (Some(fiber), spans);
        }
        self.resume(key);
    }

    /// Starts a fiber for another part of the request that the running one serves. It is resumed in the
    /// next round: the running fiber cannot resume it.
    pub(super) fn start_part(&self, running: Key, stack: Stack, run: impl FnOnce() + 'static) {
        let mut fibers = self.fibers.borrow_mut();
        let request = fibers.find(running).map_or(0, |fiber_state| fiber_state.request);
        let fiber = Some(Fiber::new(stack, run));
        let state = FiberState { fiber, is_part: true, ..FiberState::new(request, None) };
        self.ready.borrow_mut().push_back(fibers.insert(state));
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
        let mut fibers = self.fibers.borrow_mut();
        if fibers.count() >= PREFETCH_THRESHOLD {
            // Of the first of them its memory, of the second its slot, which says where that is.
            ready.get(1).inspect(|key| fibers.prefetch(**key));
            ready.front().and_then(|key| fibers.find(*key)).inspect(|fiber| fiber.prefetch());
        }
        next
    }

    fn resume(&self, key: Key) {
        let taken = self.fibers.borrow_mut().find(key).and_then(|fiber_state| {
            let current = fiber_state.current.take();
            fiber_state.fiber.take().map(|fiber| (fiber, fiber_state.request, current))
        });
        let Some((mut fiber, request, current)) = taken else { return };
        self.running.set(Some(key));
        BUDGET.set(IO_BUDGET);
        Current::replace(current);
        self.shared().fiber_resumed(request);
        let has_ended = fiber.resume();
        self.shared().fiber_suspended();
        let current = Current::replace(None);
        self.running.set(None);
        if has_ended {
            self.end(key, fiber);
        } else if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            (fiber_state.fiber, fiber_state.current) = (Some(fiber), current);
        }
    }

    fn end(&self, key: Key, fiber: Fiber) {
        let mut fibers = self.fibers.borrow_mut();
        let ended = fibers.remove(key);
        if let Some(timer) = ended.as_ref().and_then(|fiber_state| fiber_state.timer) {
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
        if !ended.is_some_and(|fiber_state| fiber_state.is_part) {
            self.shared().end_request();
        }
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

    /// Notes an event of a stream, and wakes the fibers that wait for it.
    pub(super) fn on_event(&self, stream: StreamKey, event: Event) {
        let waiters = self.with_stream(stream, |stream| stream.on_event(event));
        for waiter in waiters.into_iter().flatten().flatten() {
            self.wake(waiter);
        }
    }

    /// Makes a fiber ready if it waits. It may go on to wait, if it was not for this.
    pub(super) fn wake(&self, key: Key) {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key)
            && fiber_state.waits
        {
            self.make_ready(key, fiber_state);
        }
    }

    fn make_ready(&self, key: Key, fiber_state: &mut FiberState) {
        fiber_state.waits = false;
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
        if !fiber_state.waits {
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

    /// Suspends the running fiber until it is woken; `false` if the deadline passed first (`None`: no
    /// deadline). It may be woken by what an earlier wait was for, and not needed any more.
    pub(super) fn park(&self, key: Key, deadline: Option<Instant>) -> bool {
        self.suspend(key, true, deadline)
    }

    /// Lets the other ready fibers run first.
    pub(super) fn yield_now(&self, key: Key) {
        self.yielded.borrow_mut().push_back(key);
        self.suspend(key, false, None);
    }

    fn suspend(&self, key: Key, waits: bool, deadline: Option<Instant>) -> bool {
        if let Some(fiber_state) = self.fibers.borrow_mut().find(key) {
            fiber_state.waits = waits;
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

    pub(super) fn add_upstream(&self) -> Key {
        self.upstreams.borrow_mut().insert(StreamState::default())
    }

    pub(super) fn remove_upstream(&self, key: Key) {
        self.upstreams.borrow_mut().remove(key);
    }

    /// Calls `call` with the state of a stream.
    pub(super) fn with_stream<R>(
        &self,
        stream: StreamKey,
        call: impl FnOnce(&mut StreamState) -> R,
    ) -> Option<R> {
        match stream {
            StreamKey::Client(key) => {
                self.fibers.borrow_mut().find(key).map(|fiber| call(&mut fiber.stream))
            }
            StreamKey::Upstream(key) => self.upstreams.borrow_mut().find(key).map(call),
        }
    }
}
