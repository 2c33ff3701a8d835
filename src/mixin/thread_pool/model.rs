//! The crew between an accept loop and the end of a stop, in all manner of orders.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::*;
use crate::address::{Address, UnixName};
use crate::state::Registry;
use crate::sync::model::{YEAR, check, check_all};

const STACK_SIZE: usize = 60 * 1024;
/// A time that runs out whenever the scheduler likes.
const SOON: Duration = Duration::from_millis(1);
/// A time that never does.
const NEVER: Duration = Duration::MAX;

/// A crew, and the little of a server that it has to do with.
struct Stage {
    pool: Arc<ThreadPool<Task>>,
    book: Arc<Book>,
}

#[derive(Default)]
struct Book {
    registry: Registry,
    /// How many times each task was done, and by whom the last time.
    done: [AtomicUsize; 4],
    by: Mutex<[Option<ThreadId>; 4]>,
    /// So many tasks may end.
    limits: Mutex<usize>,
    opened: Condvar,
}

struct Task {
    number: usize,
    book: Arc<Book>,
}

impl<T> PoolState<T> {
    fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.idle.is_empty() && self.last_exited.is_none()
    }
}

impl Task {
    fn run(self) {
        let Task { number, book } = self;
        let mut limits = book.limits.lock();
        book.opened.wait_while_for(&mut limits, |limits| *limits <= number, NEVER);
        drop(limits);
        book.done[number].fetch_add(1, SeqCst);
        book.by.lock()[number] = Some(thread::current().id());
        book.registry.remove((number as u64).into());
    }
}

impl Stage {
    /// So many tasks may end at once.
    fn new(limits: usize) -> Arc<Stage> {
        let book = Book { limits: Mutex::new(limits), ..Book::default() };
        Arc::new(Stage { pool: Arc::new(ThreadPool::new(Task::run)), book: Arc::new(book) })
    }

    fn open(&self, limits: usize) {
        *self.book.limits.lock() = limits;
        self.book.opened.notify_all();
    }

    fn execute(&self, number: usize, idle_time: Duration) {
        self.book.registry.insert(
            (number as u64).into(),
            Address::Unix(UnixName::Unnamed),
            None,
            None,
        );
        let task = Task { number, book: self.book.clone() };
        let options = ThreadOptions { stack_size: STACK_SIZE, idle_time };
        assert!(self.pool.execute(task, options).is_ok());
        let state = self.pool.state.lock();
        assert!(state.workers.len() <= self.workers(), "the handle of a finished thread is kept");
    }

    /// How many threads there are that have not returned.
    fn workers(&self) -> usize {
        Arc::strong_count(&self.pool) - 1
    }

    /// What a server does at its end.
    fn stop(&self) {
        let never = || Instant::now() + 2 * YEAR;
        self.book.registry.drain();
        assert!(self.book.registry.wait_until_empty(never));
        self.pool.shutdown(|| self.book.registry.len(), NEVER);
        assert!(self.pool.state.lock().is_empty());
        assert_eq!(self.workers(), 0, "all have returned");
    }

    fn assert_done(&self, tasks: [usize; 4]) {
        let done = self.book.done.each_ref().map(|times| times.load(SeqCst));
        assert_eq!(done, tasks);
    }
}

/// One worker and one task, or two where the first worker is waiting by then; and then the
/// dismissal. With no more than that, there is an end to the orders.
fn one_or_two_tasks(first: Duration, second: Option<Duration>) {
    let pool = Arc::new(ThreadPool::new(|done: Arc<AtomicUsize>| _ = done.fetch_add(1, SeqCst)));
    let done = Arc::new(AtomicUsize::new(0));
    let execute = |idle_time| {
        let options = ThreadOptions { stack_size: STACK_SIZE, idle_time };
        assert!(pool.execute(done.clone(), options).is_ok());
    };
    execute(first);
    let waiting = !pool.state.lock().idle.is_empty();
    let second = second.filter(|_| waiting);
    second.into_iter().for_each(execute);
    pool.shutdown(|| 0, NEVER);
    assert_eq!(done.load(SeqCst), if second.is_some() { 2 } else { 1 });
    assert!(pool.state.lock().is_empty());
    assert_eq!(Arc::strong_count(&pool), 1, "all have returned");
}

#[test]
fn a_task_is_done_and_its_worker_joined() {
    check_all(|| one_or_two_tasks(Duration::ZERO, None));
    check_all(|| one_or_two_tasks(SOON, None));
    check_all(|| one_or_two_tasks(NEVER, None));
}

#[test]
fn a_worker_that_waits_does_the_task_or_is_replaced() {
    check_all(|| one_or_two_tasks(NEVER, Some(NEVER)));
    check_all(|| one_or_two_tasks(SOON, Some(NEVER)));
}

#[test]
fn workers_whose_time_runs_out_lose_no_task() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        (0..3).for_each(|number| stage.execute(number, SOON));
        stage.stop();
        stage.assert_done([1, 1, 1, 0]);
    });
}

#[test]
fn a_stop_sends_home_all_who_wait() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        (0..3).for_each(|number| stage.execute(number, NEVER));
        stage.stop();
        stage.assert_done([1, 1, 1, 0]);
    });
}

#[test]
fn workers_that_do_not_wait_are_gone_after_their_task() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        (0..3).for_each(|number| stage.execute(number, Duration::ZERO));
        assert!(stage.pool.state.lock().idle.is_empty());
        stage.stop();
        stage.assert_done([1, 1, 1, 0]);
    });
}

#[test]
fn two_accept_loops_may_hand_over_at_a_time() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        let other = stage.clone();
        let other = thread::spawn(move || (0..2).for_each(|number| other.execute(number, SOON)));
        (2..4).for_each(|number| stage.execute(number, NEVER));
        other.join().unwrap();
        stage.stop();
        stage.assert_done([1, 1, 1, 1]);
    });
}

#[test]
fn the_worker_that_was_busy_last_is_the_first_to_be_called() {
    check(|| {
        let stage = Stage::new(0);
        stage.execute(0, NEVER);
        stage.execute(1, NEVER);
        for tasks in 1..=2 {
            stage.open(tasks);
            while stage.pool.state.lock().idle.len() < tasks {
                thread::yield_now();
            }
        }
        stage.execute(2, NEVER);
        stage.open(3);
        stage.stop();
        let by = stage.book.by.lock();
        assert!(by[0] != by[1] && by[1] == by[2]);
    });
}

#[test]
fn a_dismissal_does_not_wait_for_those_who_are_at_a_task() {
    check(|| {
        let stage = Stage::new(2);
        (0..3).for_each(|number| stage.execute(number, NEVER));
        while stage.book.registry.len() > 1 {
            thread::yield_now();
        }
        stage.pool.shutdown(|| stage.book.registry.len(), NEVER);
        assert_eq!(stage.pool.state.lock().workers.len(), 1);
        // It comes home by itself.
        stage.open(3);
    });
}

#[test]
fn a_dismissal_gives_up_on_those_who_do_not_return() {
    check(|| {
        let stage = Stage::new(1);
        (0..2).for_each(|number| stage.execute(number, NEVER));
        stage.pool.shutdown(|| 0, SOON);
        stage.open(2);
        stage.stop();
        stage.assert_done([1, 1, 0, 0]);
    });
}

#[test]
fn a_crew_that_was_dismissed_waits_again_after_the_next_task() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        stage.execute(0, NEVER);
        stage.stop();
        stage.execute(1, NEVER);
        while stage.pool.state.lock().idle.is_empty() {
            thread::yield_now();
        }
        stage.stop();
        stage.assert_done([1, 1, 0, 0]);
    });
}

#[test]
fn a_task_that_comes_during_a_dismissal_is_done() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        stage.execute(0, NEVER);
        let other = stage.clone();
        let other = thread::spawn(move || other.execute(1, SOON));
        stage.pool.shutdown(|| stage.book.registry.len(), SOON);
        other.join().unwrap();
        stage.stop();
        stage.assert_done([1, 1, 0, 0]);
    });
}
