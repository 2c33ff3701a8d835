//! A request on a fiber: how it starts, waits, and offloads.

use std::io;
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::scheduler::{self, Scheduler, StreamKey};
use super::slab::Key;
use super::worker_shared::{Message, Workers};
use crate::error::Result;
use crate::mixin::thread_pool::ThreadOptions;
use crate::net::{Interest, Stream, Wait, WaitSource, poll_any};
use crate::request::Request;
use crate::sync::{Activity, Current, InputKind, Inputs, Resumer, Suspend};
use crate::sys::fiber::{Job, run_scoped};

/// For workers, and for threads that run offloaded jobs.
pub(super) const THREAD_OPTIONS: ThreadOptions =
    ThreadOptions { stack_size: 512 * 1024, idle_time: Duration::from_secs(10) };

/// Starts a fiber for a request that [`WorkerShared`](super::worker_shared::WorkerShared) has
/// counted.
pub(super) fn serve(request: Request, scheduler: &Scheduler) {
    let stack = match scheduler.take_stack() {
        Ok(stack) => stack,
        Err(error) => {
            request.refuse(&error);
            return scheduler.shared().end_request();
        }
    };
    scheduler.start(request.id().into(), stack, |key| {
        let (workers, index) = (scheduler.workers.clone(), scheduler.index);
        request.wait_with(FiberWait { workers, index, stream: StreamKey::Client(key) });
        (request.spans(), move || _ = request.finish())
    });
}

/// See [`Fibers::offload`](super::Fibers::offload).
pub(super) fn offload<T: Send>(call: impl FnOnce() -> T + Send) -> Result<T> {
    match running() {
        Some((scheduler, key)) => scheduler.offload(key, call),
        None => Ok(call()),
    }
}

/// The running fiber and its scheduler; `None` outside of a fiber, and where it must not suspend.
fn running() -> Option<(Rc<Scheduler>, Key)> {
    let scheduler = scheduler::current()?;
    let key = scheduler.suspendable()?;
    Some((scheduler, key))
}

/// How the code of a handler waits for anything but a stream.
impl Suspend for Scheduler {
    fn resumer(&self) -> Option<Resumer> {
        let number = self.suspendable()?.number();
        Some(Resumer { resume: self.workers.all[self.index].clone(), number })
    }

    fn suspend(&self, deadline: Option<Instant>) {
        if let Some(key) = self.suspendable() {
            self.park(key, deadline);
        }
    }

    fn can_wait_for(&self, number: Option<u64>) -> bool {
        number.is_some()
    }

    fn look_for(&self, inputs: &dyn Inputs) -> io::Result<()> {
        let Some(key) = self.suspendable() else { return Ok(()) };
        let begun = self.begin_waits(key, inputs);
        self.end_waits(inputs);
        begun.map(drop)
    }

    fn suspend_for(&self, inputs: &dyn Inputs, deadline: Option<Instant>) -> io::Result<()> {
        let Some(key) = self.suspendable() else { return Ok(()) };
        let begun = self.begin_waits(key, inputs);
        if matches!(begun, Ok(false)) {
            self.park(key, deadline);
        }
        self.end_waits(inputs);
        begun.map(drop)
    }

    fn start(&self, part: Job) -> std::result::Result<io::Result<()>, Job> {
        let Some(key) = self.suspendable() else { return Err(part) };
        Ok(self.take_stack().map(|stack| self.start_part(key, stack, move || part.run())))
    }
}

/// Waits for a stream by suspending the fiber that uses it, which may be any of the worker's.
struct FiberWait {
    workers: Arc<Workers>,
    index: usize,
    stream: StreamKey,
}

impl FiberWait {
    /// `None` if the caller is not a fiber of that worker, or must not suspend.
    fn with<R>(&self, call: impl FnOnce(&Scheduler, Key) -> R) -> Option<R> {
        let (scheduler, key) = running()?;
        let is_this_worker =
            scheduler.index == self.index && Arc::ptr_eq(&scheduler.workers, &self.workers);
        is_this_worker.then(|| call(&scheduler, key))
    }
}

impl Wait for FiberWait {
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let waited = self.with(|scheduler, key| {
            scheduler.wait_for(key, self.stream, stream, interest, deadline)
        });
        waited.unwrap_or_else(|| block_thread(stream, interest, deadline))
    }

    fn wait_any(&self, sources: &[WaitSource<'_>], deadline: Option<Instant>) -> io::Result<()> {
        let waited = self.with(|scheduler, key| scheduler.wait_any(key, sources, deadline));
        waited.unwrap_or_else(|| poll_any(sources, None, deadline).map(drop))
    }

    fn yield_now(&self) {
        if !scheduler::consume_budget() {
            self.with(|scheduler, key| scheduler.yield_now(key));
        }
    }

    fn sleep(&self, time: Duration) {
        let deadline = Instant::now().checked_add(time);
        let slept = self.with(|scheduler, key| while scheduler.park(key, deadline) {});
        if slept.is_none() {
            thread::sleep(time);
        }
    }

    fn for_upstream(&self) -> Option<Box<dyn Wait>> {
        let stream = self.with(|scheduler, _| StreamKey::Upstream(scheduler.add_upstream()))?;
        Some(Box::new(FiberWait { workers: self.workers.clone(), index: self.index, stream }))
    }

    /// `None` on other threads, which do not know it.
    fn number(&self) -> Option<u64> {
        self.with(|_, _| self.stream.number())
    }
}

impl Drop for FiberWait {
    fn drop(&mut self) {
        let StreamKey::Upstream(key) = self.stream else { return };
        // A broadcast may hold a stream longer than its handler.
        let is_on_worker = self.with(|scheduler, _| scheduler.remove_upstream(key)).is_some();
        if !is_on_worker {
            self.workers.all[self.index].send(Message::Closed(key));
        }
    }
}

/// Blocks the thread: one that a handler has started, or the worker while a panic unwinds.
#[cold]
#[inline(never)]
fn block_thread(
    stream: &dyn Stream,
    interest: Interest,
    deadline: Option<Instant>,
) -> io::Result<()> {
    poll_any(&[WaitSource::new(stream, None, interest)], None, deadline).map(drop)
}

/// An input that is a stream of this worker.
fn stream_of(inputs: &dyn Inputs, index: usize) -> Option<(StreamKey, BorrowedFd<'_>)> {
    let input = inputs.input(index)?;
    let InputKind::Stream(Some(number)) = input.kind else { return None };
    Some((StreamKey::of(number), input.fd))
}

impl Scheduler {
    /// The running fiber, if it may suspend.
    fn suspendable(&self) -> Option<Key> {
        // A panic belongs to the thread: if this fiber suspended while it unwinds, `panicking` would
        // be true for the next fiber.
        self.running().filter(|_| !thread::panicking())
    }

    /// Suspends the running fiber until the stream is ready. It may return early.
    fn wait_for(
        &self,
        key: Key,
        stream_key: StreamKey,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        if self.begin_wait(key, stream_key, stream.as_fd(), interest)? {
            return Ok(());
        }
        let in_time = self.park(key, deadline);
        self.end_wait(stream_key, interest);
        match in_time {
            true => Ok(()),
            // The timer may go off before the worker has seen the event: `epoll_wait` reports 512 at
            // a time, and none after a signal. This looks once more, without blocking.
            false => block_thread(stream, interest, deadline),
        }
    }

    /// The same of several streams. Says in each source whether it may be ready.
    fn wait_any(
        &self,
        key: Key,
        sources: &[WaitSource<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        if sources.iter().any(|source| source.number().is_none()) {
            // A stream that is not of this server.
            return poll_any(sources, None, deadline).map(drop);
        }
        let mut waits = true;
        for source in sources {
            let stream = StreamKey::of(source.number().unwrap_or(0));
            let fd = source.stream().as_fd();
            let is_ready = self.begin_wait(key, stream, fd, source.interest())?;
            source.set_ready(is_ready);
            waits &= !is_ready;
        }
        let in_time = !waits || self.park(key, deadline);
        for source in sources {
            let stream = StreamKey::of(source.number().unwrap_or(0));
            if self.end_wait(stream, source.interest()) && !source.is_ready() {
                source.set_ready(true);
            }
        }
        match in_time {
            true => Ok(()),
            false => poll_any(sources, None, deadline).map(drop),
        }
    }

    /// Whether the stream may be ready. If not, the fiber is woken when it is.
    fn begin_wait(
        &self,
        key: Key,
        stream_key: StreamKey,
        fd: Option<BorrowedFd<'_>>,
        interest: Interest,
    ) -> io::Result<bool> {
        let Some(fd) = fd else { return Ok(true) };
        let is_ready = self.with_stream(stream_key, |state| {
            if state.take_readiness(interest) {
                return Ok(true);
            }
            self.poller.arm(fd, stream_key.number(), interest, &mut state.is_registered)?;
            *state.waiter(interest) = Some(key);
            Ok(false)
        });
        is_ready.unwrap_or(Ok(true))
    }

    /// Has this fiber woken by all streams among the inputs that may not be ready now. Whether some may
    /// be.
    fn begin_waits(&self, key: Key, inputs: &dyn Inputs) -> io::Result<bool> {
        let mut any_is_ready = false;
        for index in 0..inputs.len() {
            if let Some((stream, fd)) = stream_of(inputs, index) {
                any_is_ready |= self.begin_wait(key, stream, Some(fd), Interest::Read)?;
            }
        }
        Ok(any_is_ready)
    }

    /// Ends that, and says which may be ready.
    fn end_waits(&self, inputs: &dyn Inputs) {
        for index in 0..inputs.len() {
            if let Some((stream, _)) = stream_of(inputs, index)
                && self.end_wait(stream, Interest::Read)
            {
                inputs.set_ready(index, false);
            }
        }
    }

    /// Whether an event has ended the wait.
    fn end_wait(&self, stream: StreamKey, interest: Interest) -> bool {
        let ended = self.with_stream(stream, |state| state.waiter(interest).take().is_none());
        if ended == Some(false) {
            self.poller.disarm(stream.number(), interest);
        }
        ended.unwrap_or(true)
    }

    /// Waits for its turn to offload a job: those that come first are first.
    fn acquire_slot(&self, current: &Arc<Current>) -> Result<()> {
        self.offload_queue.borrow_mut().push_back(current.clone());
        let is_this = |other: &Arc<Current>| Arc::ptr_eq(other, current);
        let is_first = || self.offload_queue.borrow().front().is_some_and(is_this);
        while !(is_first() && self.offload_slots.get() > 0) {
            if let Err(interrupted) = current.park(None) {
                self.offload_queue.borrow_mut().retain(|other| !is_this(other));
                self.wake_next_offload();
                return Err(interrupted.into());
            }
        }
        self.offload_queue.borrow_mut().pop_front();
        self.offload_slots.set(self.offload_slots.get() - 1);
        self.wake_next_offload();
        Ok(())
    }

    fn release_slot(&self) {
        self.offload_slots.set(self.offload_slots.get() + 1);
        self.wake_next_offload();
    }

    fn wake_next_offload(&self) {
        let next = self.offload_queue.borrow().front().cloned();
        next.filter(|_| self.offload_slots.get() > 0).inspect(|next| next.unpark());
    }

    fn offload<T: Send>(&self, key: Key, call: impl FnOnce() -> T + Send) -> Result<T> {
        let current = Current::get();
        current.doing(Activity::Offloading, || {
            self.acquire_slot(&current)?;
            self.shared().begin_offload();
            let part = current.new_part();
            let call = move || part.run(call);
            let (workers, index) = (self.workers.clone(), self.index);
            let end = move || workers.all[index].end_offload(key);
            let start = |job| {
                if let Err((job, error)) = self.pool.execute(job, THREAD_OPTIONS) {
                    log::warn!(
                        "no thread can be started, so the worker runs the job itself: {error}"
                    );
                    job.run();
                }
            };
            // No lost wake-up: the mailbox is read only after this fiber has suspended.
            let wait = || _ = self.park(key, None);
            let result = run_scoped(call, end, start, wait);
            self.release_slot();
            Ok(result.unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}
