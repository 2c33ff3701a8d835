//! The pool between an accept loop and the end of a stop, in all orders of their steps.

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::*;
use crate::address::{Address, UnixName};
use crate::primitive::model::{YEAR, check, check_all};
use crate::state::Registry;

const STACK_SIZE: usize = 60 * 1024;
/// A timeout that expires whenever the scheduler likes.
const SOON: Duration = Duration::from_millis(1);
/// A timeout that never expires.
const NEVER: Duration = Duration::MAX;

/// A pool, and the parts of a server that a stop needs.
struct Server {
    pool: Arc<ThreadPool<Task>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    registry: Registry,
    /// How many times each task was run.
    runs: [AtomicUsize; 4],
    /// The thread that ran each task last.
    threads: Mutex<[Option<ThreadId>; 4]>,
    /// Tasks from this number on wait until it is raised.
    released: Mutex<usize>,
    changed: Condvar,
}

struct Task {
    number: usize,
    shared: Arc<Shared>,
}

impl Task {
    fn run(self) {
        let Task { number, shared } = self;
        let mut released = shared.released.lock();
        shared.changed.wait_while_for(&mut released, |released| *released <= number, NEVER);
        drop(released);
        shared.runs[number].fetch_add(1, SeqCst);
        shared.threads.lock()[number] = Some(thread::current().id());
        shared.registry.remove((number as u64).into(), |_| {});
    }
}

impl<T> PoolState<T> {
    fn is_empty(&self) -> bool {
        self.workers == 0 && self.idle.is_empty() && self.last_exited.is_none()
    }
}

impl Server {
    /// Tasks with numbers below `released` do not wait.
    fn new(released: usize) -> Arc<Server> {
        let shared = Arc::new(Shared { released: Mutex::new(released), ..Shared::default() });
        Arc::new(Server { pool: Arc::new(ThreadPool::new(Task::run)), shared })
    }

    fn release(&self, released: usize) {
        *self.shared.released.lock() = released;
        self.shared.changed.notify_all();
    }

    fn execute(&self, number: usize, idle_time: Duration) {
        self.shared.registry.insert(
            (number as u64).into(),
            Address::Unix(UnixName::Unnamed),
            None,
            None,
            Arc::default(),
            || {},
        );
        let task = Task { number, shared: self.shared.clone() };
        let options = ThreadOptions { stack_size: STACK_SIZE, idle_time };
        assert!(self.pool.execute(task, options).is_ok());
        let state = self.pool.state.lock();
        assert!(state.idle.len() <= state.workers && state.workers <= self.live_threads());
        let idle: HashSet<_> = state.idle.iter().map(|(worker, _)| worker).collect();
        assert_eq!(idle.len(), state.idle.len(), "a worker is idle twice");
    }

    /// How many threads have not returned.
    fn live_threads(&self) -> usize {
        Arc::strong_count(&self.pool) - 1
    }

    fn waiting_workers(&self) -> usize {
        let state = self.pool.state.lock();
        state.idle.iter().filter(|(_, worker)| worker.receiver_waits()).count()
    }

    fn stop(&self) {
        let never = || Instant::now() + 2 * YEAR;
        self.shared.registry.drain(false);
        assert!(self.shared.registry.wait_until_empty(never));
        self.pool.shutdown(|| self.shared.registry.len(), NEVER);
        assert!(self.pool.state.lock().is_empty());
        assert_eq!(self.live_threads(), 0);
    }

    fn assert_runs(&self, expected: [usize; 4]) {
        assert_eq!(self.shared.runs.each_ref().map(|runs| runs.load(SeqCst)), expected);
    }
}

/// A pool of tasks that count their runs, small enough for `check_all`.
struct Counter {
    pool: Arc<ThreadPool<Arc<AtomicUsize>>>,
    runs: Arc<AtomicUsize>,
}

impl Counter {
    fn new() -> Counter {
        let pool = ThreadPool::new(|runs: Arc<AtomicUsize>| _ = runs.fetch_add(1, SeqCst));
        Counter { pool: Arc::new(pool), runs: Arc::default() }
    }

    fn execute(&self, idle_time: Duration) {
        let options = ThreadOptions { stack_size: STACK_SIZE, idle_time };
        assert!(self.pool.execute(self.runs.clone(), options).is_ok());
    }

    fn shut_down(self, expected: usize) {
        self.pool.shutdown(|| 0, NEVER);
        assert_eq!(self.runs.load(SeqCst), expected);
        assert!(self.pool.state.lock().is_empty());
        assert_eq!(Arc::strong_count(&self.pool), 1, "a thread has not returned");
    }
}

fn one_task(idle_time: Duration) {
    let counter = Counter::new();
    counter.execute(idle_time);
    counter.shut_down(1);
}

/// The second task only if the worker waits for it.
fn one_or_two_tasks(idle_time: Duration) {
    let counter = Counter::new();
    counter.execute(idle_time);
    let is_sent = counter.pool.hand_over(counter.runs.clone()).is_ok();
    counter.shut_down(1 + usize::from(is_sent));
}

fn two_tasks(idle_time: Duration) {
    let counter = Counter::new();
    counter.execute(idle_time);
    counter.execute(NEVER);
    counter.shut_down(2);
}

#[test]
fn a_task_is_run_and_its_worker_joined() {
    check_all(|| one_task(Duration::ZERO));
    check_all(|| one_task(SOON));
    check_all(|| one_task(NEVER));
}

#[test]
fn a_task_is_lost_neither_by_a_worker_that_times_out_nor_by_one_that_does_not_wait_yet() {
    check_all(|| one_or_two_tasks(NEVER));
    check_all(|| one_or_two_tasks(SOON));
}

#[test]
fn the_next_task_is_run_by_an_idle_worker_or_a_new_one() {
    check(|| two_tasks(NEVER));
    check(|| two_tasks(SOON));
}

#[test]
fn idle_workers_exit_when_they_time_out() {
    check(|| {
        let server = Server::new(usize::MAX);
        (0..2).for_each(|number| server.execute(number, SOON));
        while server.live_threads() > 0 {
            thread::yield_now();
        }
        assert!(server.pool.state.lock().idle.is_empty());
    });
}

#[test]
fn workers_that_time_out_lose_no_task() {
    check(|| {
        let server = Server::new(usize::MAX);
        (0..3).for_each(|number| server.execute(number, SOON));
        server.stop();
        server.assert_runs([1, 1, 1, 0]);
    });
}

#[test]
fn a_stop_ends_all_idle_workers() {
    check(|| {
        let server = Server::new(usize::MAX);
        (0..3).for_each(|number| server.execute(number, NEVER));
        server.stop();
        server.assert_runs([1, 1, 1, 0]);
    });
}

#[test]
fn workers_without_an_idle_time_exit_after_their_task() {
    check(|| {
        let server = Server::new(usize::MAX);
        (0..3).for_each(|number| server.execute(number, Duration::ZERO));
        assert!(server.pool.state.lock().idle.is_empty());
        server.stop();
        server.assert_runs([1, 1, 1, 0]);
    });
}

#[test]
fn two_threads_may_execute_at_a_time() {
    check(|| {
        let server = Server::new(usize::MAX);
        let other = server.clone();
        let other = thread::spawn(move || (0..2).for_each(|number| other.execute(number, SOON)));
        (2..4).for_each(|number| server.execute(number, NEVER));
        other.join().unwrap();
        server.stop();
        server.assert_runs([1, 1, 1, 1]);
    });
}

#[test]
fn the_worker_that_became_idle_last_gets_the_next_task() {
    check(|| {
        let server = Server::new(0);
        server.execute(0, NEVER);
        server.execute(1, NEVER);
        for tasks in 1..=2 {
            server.release(tasks);
            while server.waiting_workers() < tasks {
                thread::yield_now();
            }
        }
        server.execute(2, NEVER);
        server.release(3);
        server.stop();
        let threads = server.shared.threads.lock();
        assert!(threads[0] != threads[1] && threads[1] == threads[2]);
    });
}

#[test]
fn a_shutdown_does_not_wait_for_busy_workers() {
    check(|| {
        let server = Server::new(2);
        (0..3).for_each(|number| server.execute(number, NEVER));
        while server.shared.registry.len() > 1 {
            thread::yield_now();
        }
        server.pool.shutdown(|| server.shared.registry.len(), NEVER);
        assert_eq!(server.pool.state.lock().workers, 1);
        // The worker exits after its task.
        server.release(3);
    });
}

#[test]
fn a_shutdown_times_out_when_workers_do_not_exit() {
    check(|| {
        let server = Server::new(1);
        (0..2).for_each(|number| server.execute(number, NEVER));
        server.pool.shutdown(|| 0, SOON);
        server.release(2);
        server.stop();
        server.assert_runs([1, 1, 0, 0]);
    });
}

#[test]
fn workers_are_idle_again_after_a_shutdown_and_another_task() {
    check(|| {
        let server = Server::new(usize::MAX);
        server.execute(0, NEVER);
        server.stop();
        server.execute(1, NEVER);
        while server.pool.state.lock().idle.is_empty() {
            thread::yield_now();
        }
        server.stop();
        server.assert_runs([1, 1, 0, 0]);
    });
}

#[test]
fn a_task_that_is_handed_over_during_a_shutdown_is_run() {
    check(|| {
        let server = Server::new(usize::MAX);
        server.execute(0, NEVER);
        let other = server.clone();
        let other = thread::spawn(move || other.execute(1, SOON));
        server.pool.shutdown(|| server.shared.registry.len(), SOON);
        other.join().unwrap();
        server.stop();
        server.assert_runs([1, 1, 0, 0]);
    });
}
