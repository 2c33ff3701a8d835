//! A request on a fiber: how it starts, waits, sleeps and offloads.

use std::io;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::fiber_slab::{Key, WaitFor};
use super::scheduler::{self, Scheduler};
use super::worker_shared::Workers;
use crate::mixin::thread_pool::ThreadOptions;
use crate::net::{Interest, Stream, Wait};
use crate::request::Request;
use crate::sys::fiber::run_scoped;
use crate::sys::poll::poll;

/// For workers, and for threads that run offloaded jobs.
pub(super) const THREAD_OPTIONS: ThreadOptions =
    ThreadOptions { stack_size: 512 * 1024, idle_time: Duration::from_secs(10) };

/// How many jobs the fibers of one worker may have offloaded at a time.
const MAX_OFFLOADS: usize = 64;

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
        request.wait_with(FiberWait { workers, index, key });
        (request.spans(), move || _ = request.finish())
    });
}

/// See [`Fibers::offload`](super::Fibers::offload).
pub(super) fn offload<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    match running() {
        Some((scheduler, key)) => scheduler.offload(key, call),
        None => call(),
    }
}

/// See [`Fibers::sleep`](super::Fibers::sleep).
pub(super) fn sleep(time: Duration) {
    match running() {
        Some((scheduler, key)) => scheduler.sleep(key, time),
        None => thread::sleep(time),
    }
}

/// The running fiber and its scheduler; `None` outside of a fiber, and where it must not suspend.
fn running() -> Option<(Rc<Scheduler>, Key)> {
    let scheduler = scheduler::current()?;
    // A panic belongs to the thread: if this fiber suspended while it unwinds, `panicking` would
    // be true for the next fiber.
    let key = scheduler.running().filter(|_| !thread::panicking())?;
    Some((scheduler, key))
}

/// Waits for a connection by suspending the fiber that serves it.
struct FiberWait {
    workers: Arc<Workers>,
    index: usize,
    key: Key,
}

impl FiberWait {
    /// `None` if the caller is not that fiber, or must not suspend.
    fn with<R>(&self, call: impl FnOnce(&Scheduler) -> R) -> Option<R> {
        let (scheduler, key) = running()?;
        let is_this_fiber = key == self.key
            && scheduler.index == self.index
            && Arc::ptr_eq(&scheduler.workers, &self.workers);
        is_this_fiber.then(|| call(&scheduler))
    }
}

impl Wait for FiberWait {
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let waited =
            self.with(|scheduler| scheduler.wait_for(self.key, stream, interest, deadline));
        if let Some(waited) = waited {
            return waited;
        }
        block_thread(stream, interest, deadline)
    }

    fn yield_now(&self) {
        if !scheduler::consume_budget() {
            self.with(|scheduler| scheduler.yield_now(self.key));
        }
    }

    fn sleep(&self, time: Duration) {
        if self.with(|scheduler| scheduler.sleep(self.key, time)).is_none() {
            thread::sleep(time);
        }
    }
}

/// Blocks the thread: one that a handler has started, or the worker while a panic unwinds.
#[cold]
#[inline(never)]
pub(super) fn block_thread(
    stream: &dyn Stream,
    interest: Interest,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let Some(fd) = stream.as_fd() else { return Ok(()) };
    match poll([Some((fd, interest))], [], deadline)? {
        [true] => Ok(()),
        [false] => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Scheduler {
    fn sleep(&self, key: Key, time: Duration) {
        self.park(key, WaitFor::Timer, Instant::now().checked_add(time));
    }

    fn acquire_slot(&self, key: Key) {
        if self.offload_slots.get() < MAX_OFFLOADS {
            self.offload_slots.set(self.offload_slots.get() + 1);
        } else {
            self.offload_queue.borrow_mut().push_back(key);
            self.park(key, WaitFor::OffloadSlot, None);
        }
    }

    /// Passes the slot to the first fiber in the queue, if any.
    fn release_slot(&self) {
        match self.offload_queue.borrow_mut().pop_front() {
            Some(next) => self.wake(next, WaitFor::OffloadSlot),
            None => self.offload_slots.set(self.offload_slots.get() - 1),
        }
    }

    fn offload<T: Send>(&self, key: Key, call: impl FnOnce() -> T + Send) -> T {
        self.acquire_slot(key);
        self.shared().begin_offload();
        let (workers, index) = (self.workers.clone(), self.index);
        let end = move || workers.all[index].end_offload(key);
        let start = |job| {
            if let Err((job, error)) = self.pool.execute(job, THREAD_OPTIONS) {
                log::warn!("no thread can be started, so the worker runs the job itself: {error}");
                job.run();
            }
        };
        // No lost wake-up: the mailbox is read only after this fiber has suspended.
        let wait = || _ = self.park(key, WaitFor::Job, None);
        let result = run_scoped(call, end, start, wait);
        self.release_slot();
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
