//! [`ThreadPool`]: the threads of [`Threading`](super::Threading) and of `Fibers::offload`.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::sync::{Condvar, Mutex};

#[cfg(all(test, shuttle))]
mod model;

/// Worker threads that run one task after the other.
///
/// A worker without a task pushes the sender of a new channel on the stack `idle` and waits at the
/// receiver. [`execute`](ThreadPool::execute) pops a sender and sends a task; a shutdown drops all
/// senders, which disconnects the receivers.
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
    /// All workers that have not exited.
    workers: HashMap<ThreadId, JoinHandle<()>>,
    /// LIFO: reuses warm threads and lets the rest time out.
    idle: Vec<(ThreadId, Sender<T>)>,
    /// Each exiting worker joins its predecessor, so that one handle is kept.
    last_exited: Option<JoinHandle<()>>,
    /// Whether workers exit instead of waiting. Reset when a worker is started.
    is_shut_down: bool,
}

impl<T: Send + 'static> ThreadPool<T> {
    pub(super) fn new(run: fn(T)) -> ThreadPool<T> {
        let state = PoolState {
            workers: HashMap::new(),
            idle: Vec::new(),
            last_exited: None,
            is_shut_down: false,
        };
        ThreadPool { run, state: Mutex::new(state), exited: Condvar::new() }
    }

    /// Hands the task to the worker that became idle last, or to a new one. The task comes back
    /// when no thread can be started.
    pub(super) fn execute(
        self: &Arc<Self>,
        task: T,
        options: ThreadOptions,
    ) -> Result<(), (T, io::Error)> {
        let idle = self.state.lock().idle.pop();
        let worker = match idle {
            Some((_, worker)) => worker,
            None => match self.start_worker(options) {
                Ok(worker) => worker,
                Err(error) => return Err((task, error)),
            },
        };
        // This neither blocks nor fails: the channel is empty, and the worker waits as long as the
        // sender exists.
        worker.send(task).map_err(|error| (error.0, io::ErrorKind::BrokenPipe.into()))
    }

    /// Starts a worker that waits for its first task.
    fn start_worker(self: &Arc<Self>, options: ThreadOptions) -> io::Result<Sender<T>> {
        let (sender, receiver) = bounded(1);
        let pool = self.clone();
        let thread = thread::Builder::new()
            .name("socketserver".to_owned())
            .stack_size(options.stack_size)
            .spawn(move || pool.work(receiver, options.idle_time))?;
        let mut state = self.state.lock();
        state.is_shut_down = false;
        state.workers.insert(thread.thread().id(), thread);
        Ok(sender)
    }

    fn work(&self, first_task: Receiver<T>, idle_time: Duration) {
        let me = thread::current().id();
        let mut next = first_task.recv().ok();
        while let Some(task) = next {
            // Handlers' panics are caught earlier; this one is of a destructor after the handler.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.run)(task)));
            next = self.next_task(me, idle_time);
        }
        self.exit(me);
    }

    /// Waits for a task; `None` after the idle time or a shutdown.
    fn next_task(&self, me: ThreadId, idle_time: Duration) -> Option<T> {
        let (sender, receiver) = bounded(1);
        let mut state = self.state.lock();
        if state.is_shut_down || idle_time.is_zero() {
            return None;
        }
        state.idle.push((me, sender));
        drop(state);
        receiver.recv_timeout(idle_time).ok().or_else(|| {
            // `execute` may have popped the sender as the time ran out: its task is received here.
            // Otherwise the sender is dropped here, and `recv` fails.
            self.state.lock().idle.retain(|(worker, _)| *worker != me);
            receiver.recv().ok()
        })
    }

    fn exit(&self, me: ThreadId) {
        let mut state = self.state.lock();
        let thread = state.workers.remove(&me);
        let predecessor = std::mem::replace(&mut state.last_exited, thread);
        drop(state);
        self.exited.notify_all();
        predecessor.map(JoinHandle::join);
    }

    /// Ends and joins all workers but the busy ones, of which there are `busy()`. Workers that do
    /// not exit before the timeout are left behind.
    pub(super) fn shutdown(&self, busy: impl Fn() -> usize, timeout: Duration) {
        let mut state = self.state.lock();
        state.is_shut_down = true;
        state.idle.clear();
        self.exited.wait_while_for(&mut state, |state| state.workers.len() > busy(), timeout);
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
        assert!(pool.state.lock().workers.is_empty(), "a worker has not exited");
    }
}
