//! A request on a fiber: how it begins, waits, sleeps, and has something done elsewhere.

use std::io;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::desk::Team;
use super::scheduler::{self, Scheduler};
use super::seats::{Awaits, Key};
use crate::mixin::crew::Terms;
use crate::request::Request;
use crate::stream::{Interest, Stream, Wait};
use crate::sys::fiber::elsewhere;
use crate::sys::wait::poll;

/// For the threads that fibers run on, and those that do what is offloaded.
pub(super) const TERMS: Terms =
    Terms { stack_size: 512 * 1024, idle_time: Duration::from_secs(10) };

/// How many threads at a time do for the fibers of one worker what these have offloaded.
const MOST_HELPERS: usize = 64;

/// Serves a request that the worker's desk has counted.
pub(super) fn serve(request: Request, scheduler: &Scheduler) {
    let stack = match scheduler.stack() {
        Ok(stack) => stack,
        Err(error) => {
            request.refuse(&error);
            return scheduler.desk().is_done_with_one();
        }
    };
    scheduler.begin(request.id(), stack, |key| {
        let (team, number) = (scheduler.team.clone(), scheduler.number);
        request.wait_with(OnFiber { team, number, key });
        (request.needs(), move || _ = request.finish())
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
    let scheduler = scheduler::here()?;
    // Whether a panic is on its way std asks the thread, not the fiber: the next one would take it
    // for its own.
    let key = scheduler.running().filter(|_| !thread::panicking())?;
    Some((scheduler, key))
}

/// How a connection waits that is served by a fiber.
struct OnFiber {
    team: Arc<Team>,
    number: usize,
    key: Key,
}

impl OnFiber {
    /// `None` where it is not that fiber which has to wait, or it cannot be put aside.
    fn with<R>(&self, call: impl FnOnce(&Scheduler) -> R) -> Option<R> {
        let (scheduler, key) = running()?;
        let is_mine = key == self.key
            && scheduler.number == self.number
            && Arc::ptr_eq(&scheduler.team, &self.team);
        is_mine.then(|| call(&scheduler))
    }
}

impl Wait for OnFiber {
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        until: Option<Instant>,
    ) -> io::Result<()> {
        let waited = self.with(|scheduler| scheduler.wait_for(self.key, stream, interest, until));
        if let Some(waited) = waited {
            return waited;
        }
        wait_elsewhere(stream, interest, until)
    }

    fn give_way(&self) {
        if !scheduler::goes_on() {
            self.with(|scheduler| scheduler.give_way(self.key));
        }
    }

    fn pause(&self, time: Duration) {
        if self.with(|scheduler| scheduler.sleep(self.key, time)).is_none() {
            thread::sleep(time);
        }
    }
}

/// Waits on another thread than the worker, or while a panic is on its way.
#[cold]
#[inline(never)]
fn wait_elsewhere(
    stream: &dyn Stream,
    interest: Interest,
    until: Option<Instant>,
) -> io::Result<()> {
    let Some(fd) = stream.as_fd() else { return Ok(()) };
    match poll([Some((fd, interest))], [], until)? {
        [true] => Ok(()),
        [false] => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Scheduler {
    fn sleep(&self, key: Key, time: Duration) {
        if let Some(until) = Instant::now().checked_add(time) {
            self.put_aside(key, Awaits::Time, Some(until));
        } else {
            self.put_aside(key, Awaits::Time, None);
        }
    }

    fn await_helper(&self, key: Key) {
        if self.helpers.get() < MOST_HELPERS {
            self.helpers.set(self.helpers.get() + 1);
        } else {
            self.queue.borrow_mut().push_back(key);
            self.put_aside(key, Awaits::Helper, None);
        }
    }

    /// The next in the queue takes the place of one who is done.
    fn pass_helper_on(&self) {
        match self.queue.borrow_mut().pop_front() {
            Some(next) => self.wake(next, Awaits::Helper),
            None => self.helpers.set(self.helpers.get() - 1),
        }
    }

    fn offload<T: Send>(&self, key: Key, call: impl FnOnce() -> T + Send) -> T {
        self.await_helper(key);
        self.desk().begin_offload();
        let (team, number) = (self.team.clone(), self.number);
        let end = move || team.desks[number].end_offload(key);
        let start = |job| {
            if let Err((job, error)) = self.crew.hand_over(job, TERMS) {
                log::warn!("no thread can be started, the worker itself does the work: {error}");
                job.run();
            }
        };
        // No word is missed: it comes to the worker, which has its turn when this fiber waits.
        let wait = || _ = self.put_aside(key, Awaits::Word, None);
        let result = elsewhere(call, end, start, wait);
        self.pass_helper_on();
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
