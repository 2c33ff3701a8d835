//! [`ThreadPool`]: the threads of [`Threading`](super::Threading) and of `Fibers::offload`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::primitive::channel::{Receiver, Sender, bounded};
use crate::primitive::thread::{self, JoinHandle, ThreadId};
use crate::primitive::{Condvar, Mutex};

#[cfg(all(test, shuttle))]
mod model;

/// Worker threads that run one task after the other.
///
/// A worker without a task pushes the sender of a new rendezvous channel on the stack `idle`, and
/// waits at the receiver. [`execute`](ThreadPool::execute) sends a task only to a receiver that
/// waits, so that none is lost when a worker times out. A shutdown drops all senders, which
/// disconnects the receivers.
#[derive(Debug)]
pub(super) struct ThreadPool<T> {
    run: fn(T),
    state: Mutex<PoolState<T>>,
    exited: Condvar,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadOptions {
    pub(super) stack_size: usize,
    /// How long a worker waits for its next task before it exits.
    pub(super) idle_time: Duration,
}

#[derive(Debug)]
struct PoolState<T> {
    /// How many have not exited.
    workers: usize,
    /// LIFO: reuses warm threads and lets the rest time out.
    idle: Vec<(ThreadId, Sender<T>)>,
    /// Each exiting worker joins its predecessor, so that one handle is kept.
    last_exited: Option<JoinHandle<()>>,
    /// Whether workers exit instead of waiting. Reset when a worker is started.
    is_shut_down: bool,
}

impl<T: Send + 'static> ThreadPool<T> {
    pub(super) fn new(run: fn(T)) -> ThreadPool<T> {
        let (idle, last_exited) = (Vec::new(), None);
        let state = PoolState { workers: 0, idle, last_exited, is_shut_down: false };
        ThreadPool { run, state: Mutex::new(state), exited: Condvar::new() }
    }

    /// Hands the task to the worker that became idle last, or to a new one. The task comes back
    /// when no thread can be started.
    pub(super) fn execute(
        self: &Arc<Self>,
        task: T,
        options: ThreadOptions,
    ) -> Result<(), (T, io::Error)> {
        self.hand_over(task).or_else(|task| self.start_worker(task, options))
    }

    /// Sends the task to an idle worker, without blocking. A worker that does not wait at its
    /// receiver yet, or no longer, is passed over.
    fn hand_over(&self, mut task: T) -> Result<(), T> {
        let mut state = self.state.lock();
        for index in (0..state.idle.len()).rev() {
            match state.idle[index].1.try_send(task) {
                Ok(()) => {
                    state.idle.remove(index);
                    return Ok(());
                }
                Err(error) => task = error.into_inner(),
            }
        }
        Err(task)
    }

    fn start_worker(
        self: &Arc<Self>,
        task: T,
        options: ThreadOptions,
    ) -> Result<(), (T, io::Error)> {
        let (sender, first) = bounded(1);
        let pool = self.clone();
        let spawned = thread::Builder::new()
            .name("socketserver".to_owned())
            .stack_size(options.stack_size)
            .spawn(move || pool.work(first, options.idle_time));
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => return Err((task, error)),
        };
        let mut state = self.state.lock();
        state.workers += 1;
        state.is_shut_down = false;
        drop(state);
        // It neither blocks nor fails: the channel is empty, and the worker waits for this.
        sender
            .send((task, thread))
            .map_err(|error| (error.into_inner().0, io::ErrorKind::BrokenPipe.into()))
    }

    /// Runs the first task, which comes with the handle of this thread, and others after it.
    fn work(&self, first: Receiver<(T, JoinHandle<()>)>, idle_time: Duration) {
        let Ok((task, this_thread)) = first.recv() else { return };
        let mut next = Some(task);
        while let Some(task) = next {
            // Handlers' panics are caught earlier; this one is of a destructor after the handler.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.run)(task)));
            next = self.next_task(this_thread.thread().id(), idle_time);
        }
        let mut state = self.state.lock();
        state.workers -= 1;
        let predecessor = state.last_exited.replace(this_thread);
        drop(state);
        self.exited.notify_all();
        predecessor.map(JoinHandle::join);
    }

    /// Waits for a task; `None` after the idle time or a shutdown.
    fn next_task(&self, me: ThreadId, idle_time: Duration) -> Option<T> {
        let (sender, receiver) = bounded(0);
        let mut state = self.state.lock();
        if state.is_shut_down || idle_time.is_zero() {
            return None;
        }
        state.idle.push((me, sender));
        drop(state);
        let task = receiver.recv_timeout(idle_time).ok();
        if task.is_none() {
            self.state.lock().idle.retain(|(worker, _)| *worker != me);
        }
        task
    }

    /// Ends and joins all workers but the busy ones, of which there are `busy()`. Workers that do
    /// not exit before the timeout are left behind.
    pub(super) fn shutdown(&self, busy: impl Fn() -> usize, timeout: Duration) {
        let mut state = self.state.lock();
        state.is_shut_down = true;
        state.idle.clear();
        self.exited.wait_while_for(&mut state, |state| state.workers > busy(), timeout);
        let last_exited = state.last_exited.take();
        drop(state);
        last_exited.map(JoinHandle::join);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const THREAD_OPTIONS: ThreadOptions =
        ThreadOptions { stack_size: 64 * 1024, idle_time: Duration::MAX };
    const TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn a_task_comes_back_when_no_thread_can_be_started() {
        let pool = Arc::new(ThreadPool::new(|_task: &str| ()));
        let options = ThreadOptions { stack_size: 1 << 60, ..THREAD_OPTIONS };
        assert_eq!(pool.execute("a task", options).unwrap_err().0, "a task");
        pool.shutdown(|| 0, TIMEOUT);
        assert_eq!(Arc::strong_count(&pool), 1);
    }

    #[test]
    fn a_task_that_panics_is_the_only_one_to_end() {
        let (sender, done) = mpsc::channel();
        let pool = Arc::new(ThreadPool::new(|task: Box<dyn FnOnce() + Send>| task()));
        pool.execute(Box::new(|| panic!("as it should")), THREAD_OPTIONS).ok().unwrap();
        pool.execute(Box::new(move || sender.send("done").unwrap()), THREAD_OPTIONS).ok().unwrap();
        assert_eq!(done.recv_timeout(TIMEOUT), Ok("done"));
        pool.shutdown(|| 0, TIMEOUT);
        assert!(pool.state.lock().workers == 0, "a worker has not exited");
    }
}
