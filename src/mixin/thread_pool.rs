//! The threads of [`Threading`](super::Threading): who waits for a task, who is at one, and who
//! has gone.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::sync::{Condvar, Mutex};

#[cfg(all(test, shuttle))]
mod model;

/// Threads that do one task after the other.
#[derive(Debug)]
pub(super) struct ThreadPool<T> {
    work: fn(T),
    state: Mutex<PoolState<T>>,
    exited: Condvar,
}

/// On which terms a worker is hired.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadOptions {
    pub(super) stack_size: usize,
    /// How long it waits for another task.
    pub(super) idle_time: Duration,
}

/// A worker is handed its task, and gives up waiting for one, under the lock of this.
#[derive(Debug)]
struct PoolState<T> {
    workers: HashMap<ThreadId, WorkerEntry<T>>,
    /// The last one in is the first one out: its caches are warm, and the others can go home.
    idle: Vec<ThreadId>,
    /// The last one to have gone home. It joins the one before, so that of a burst no more than
    /// one is kept.
    last_exited: Option<JoinHandle<()>>,
    closed: bool,
}

/// What the crew has of a worker.
#[derive(Debug)]
struct WorkerEntry<T> {
    thread: JoinHandle<()>,
    /// What it has been handed and not taken yet.
    task: Option<T>,
    wakeup: Arc<Condvar>,
}

impl<T: Send + 'static> ThreadPool<T> {
    pub(super) fn new(work: fn(T)) -> ThreadPool<T> {
        let state = PoolState {
            workers: HashMap::new(),
            idle: Vec::new(),
            last_exited: None,
            closed: false,
        };
        ThreadPool { work, state: Mutex::new(state), exited: Condvar::new() }
    }

    /// Hands the task to the worker that was busy last, or to a new one; gives it back when no
    /// thread can be started.
    pub(super) fn execute(
        self: &Arc<Self>,
        task: T,
        options: ThreadOptions,
    ) -> Result<(), (T, io::Error)> {
        let mut state = self.state.lock();
        let worker = state.idle.pop();
        if let Some(entry) = worker.and_then(|worker| state.workers.get_mut(&worker)) {
            entry.task = Some(task);
            let wakeup = entry.wakeup.clone();
            // It needs the lock as soon as it is awake.
            drop(state);
            wakeup.notify_one();
            return Ok(());
        }
        let wakeup = Arc::new(Condvar::new());
        let worker =
            Worker { pool: self.clone(), wakeup: wakeup.clone(), idle_time: options.idle_time };
        let spawned = thread::Builder::new()
            .name("socketserver".to_owned())
            .stack_size(options.stack_size)
            .spawn(move || worker.work());
        match spawned {
            Ok(thread) => {
                state.closed = false;
                let entry = WorkerEntry { thread, task: Some(task), wakeup };
                state.workers.insert(entry.thread.thread().id(), entry);
                Ok(())
            }
            Err(error) => Err((task, error)),
        }
    }

    /// Sends the idle ones home and joins all but those that are still at a task: as many as
    /// `busy()`. Those who do not return in time are left behind.
    pub(super) fn shutdown(&self, busy: impl Fn() -> usize, time: Duration) {
        let mut state = self.state.lock();
        state.closed = true;
        for worker in &state.idle {
            if let Some(entry) = state.workers.get(worker) {
                entry.wakeup.notify_one();
            }
        }
        // Whoever is not at a task has nothing left to do but to return.
        self.exited.wait_while_for(&mut state, |state| state.workers.len() > busy(), time);
        let last_exited = state.last_exited.take();
        drop(state);
        join(last_exited);
    }
}

struct Worker<T> {
    pool: Arc<ThreadPool<T>>,
    wakeup: Arc<Condvar>,
    idle_time: Duration,
}

impl<T> Worker<T> {
    fn work(self) {
        let me = thread::current().id();
        let mut state = self.pool.state.lock();
        while let Some(task) = state.take_task(me) {
            drop(state);
            // A handler's panics are caught before; this is for what is dropped after it.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.pool.work)(task)));
            state = self.pool.state.lock();
            if !self.idle_time.is_zero() {
                state.idle.push(me);
                let waits = |state: &mut PoolState<T>| !state.closed && !state.has_task(me);
                self.wakeup.wait_while_for(&mut state, waits, self.idle_time);
            }
        }
        let exited_before = state.remove(me);
        drop(state);
        self.pool.exited.notify_all();
        join(exited_before);
    }
}

impl<T> PoolState<T> {
    fn has_task(&self, worker: ThreadId) -> bool {
        self.workers.get(&worker).is_some_and(|entry| entry.task.is_some())
    }

    fn take_task(&mut self, worker: ThreadId) -> Option<T> {
        self.workers.get_mut(&worker)?.task.take()
    }

    /// Returns the one to join.
    fn remove(&mut self, worker: ThreadId) -> Option<JoinHandle<()>> {
        self.idle.retain(|idle| *idle != worker);
        let entry = self.workers.remove(&worker)?;
        self.last_exited.replace(entry.thread)
    }
}

/// Waits for one that has gone home: for no more than its return, and that of those before it.
fn join(exited: Option<JoinHandle<()>>) {
    if let Some(thread) = exited {
        let _ = thread.join();
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
        assert!(pool.state.lock().workers.is_empty(), "its worker has not exited home");
    }
}
