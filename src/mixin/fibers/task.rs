//! A request on a fiber: how it begins, waits, sleeps, and has something done elsewhere.

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

/// For the threads that fibers run on, and those that do what is offloaded.
pub(super) const THREAD_OPTIONS: ThreadOptions =
    ThreadOptions { stack_size: 512 * 1024, idle_time: Duration::from_secs(10) };

/// How many threads at a time do for the fibers of one worker what these have offloaded.
const MAX_OFFLOADS: usize = 64;

/// Serves a request that the worker's desk has counted.
pub(super) fn serve(request: Request, scheduler: &Scheduler) {
    let stack = match scheduler.stack() {
        Ok(stack) => stack,
        Err(error) => {
            request.refuse(&error);
            return scheduler.shared().dec_load();
        }
    };
    scheduler.begin(request.id().into(), stack, |key| {
        let (workers, number) = (scheduler.workers.clone(), scheduler.number);
        request.wait_with(FiberWait { workers, number, key });
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

/// The fiber that this code is a part of, if it is and may be put aside.
fn running() -> Option<(Rc<Scheduler>, Key)> {
    let scheduler = scheduler::current()?;
    // Whether a panic is on its way std asks the thread, not the fiber: the next one would take it
    // for its own.
    let key = scheduler.running().filter(|_| !thread::panicking())?;
    Some((scheduler, key))
}

/// How a connection waits that is served by a fiber.
struct FiberWait {
    workers: Arc<Workers>,
    number: usize,
    key: Key,
}

impl FiberWait {
    /// `None` where it is not that fiber which has to wait, or it cannot be put aside.
    fn with<R>(&self, call: impl FnOnce(&Scheduler) -> R) -> Option<R> {
        let (scheduler, key) = running()?;
        let is_this_fiber = key == self.key
            && scheduler.number == self.number
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

/// Waits on another thread than the worker, or while a panic is on its way.
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
        if let Some(deadline) = Instant::now().checked_add(time) {
            self.park(key, WaitFor::Timer, Some(deadline));
        } else {
            self.park(key, WaitFor::Timer, None);
        }
    }

    fn acquire_slot(&self, key: Key) {
        if self.offload_slots.get() < MAX_OFFLOADS {
            self.offload_slots.set(self.offload_slots.get() + 1);
        } else {
            self.offload_queue.borrow_mut().push_back(key);
            self.park(key, WaitFor::OffloadSlot, None);
        }
    }

    /// The next in the queue takes the place of one who is done.
    fn release_slot(&self) {
        match self.offload_queue.borrow_mut().pop_front() {
            Some(next) => self.wake(next, WaitFor::OffloadSlot),
            None => self.offload_slots.set(self.offload_slots.get() - 1),
        }
    }

    fn offload<T: Send>(&self, key: Key, call: impl FnOnce() -> T + Send) -> T {
        self.acquire_slot(key);
        self.shared().begin_offload();
        let (workers, number) = (self.workers.clone(), self.number);
        let end = move || workers.all[number].end_offload(key);
        let start = |job| {
            if let Err((job, error)) = self.pool.execute(job, THREAD_OPTIONS) {
                log::warn!("no thread can be started, the worker itself does the work: {error}");
                job.run();
            }
        };
        // No word is missed: it comes to the worker, which has its turn when this fiber waits.
        let wait = || _ = self.park(key, WaitFor::Job, None);
        let result = run_scoped(call, end, start, wait);
        self.release_slot();
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
