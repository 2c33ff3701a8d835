//! The crew between an accept loop and the end of a stop, in all manner of orders.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::*;
use crate::address::{Address, UnixName};
use crate::registry::Registry;
use crate::sync::model::{YEAR, check, check_all};

const STACK_SIZE: usize = 60 * 1024;
/// A time that runs out whenever the scheduler likes.
const SOON: Duration = Duration::from_millis(1);
/// A time that never does.
const NEVER: Duration = Duration::MAX;

/// A crew, and the little of a server that it has to do with.
struct Stage {
    crew: Arc<Crew<Task>>,
    book: Arc<Book>,
}

#[derive(Default)]
struct Book {
    registry: Registry,
    /// How many times each task was done, and by whom the last time.
    done: [AtomicUsize; 4],
    by: Mutex<[Option<ThreadId>; 4]>,
    /// So many tasks may end.
    gate: Mutex<usize>,
    opened: Condvar,
}

struct Task {
    number: usize,
    book: Arc<Book>,
}

impl<T> Roll<T> {
    fn is_empty(&self) -> bool {
        self.seats.is_empty() && self.idle.is_empty() && self.last_gone.is_none()
    }
}

impl Task {
    fn run(self) {
        let Task { number, book } = self;
        let mut gate = book.gate.lock();
        book.opened.wait_while_for(&mut gate, |gate| *gate <= number, NEVER);
        drop(gate);
        book.done[number].fetch_add(1, SeqCst);
        book.by.lock()[number] = Some(thread::current().id());
        book.registry.leave(number as u64);
    }
}

impl Stage {
    /// So many tasks may end at once.
    fn new(gate: usize) -> Arc<Stage> {
        let book = Book { gate: Mutex::new(gate), ..Book::default() };
        Arc::new(Stage { crew: Arc::new(Crew::new(Task::run)), book: Arc::new(book) })
    }

    fn open(&self, gate: usize) {
        *self.book.gate.lock() = gate;
        self.book.opened.notify_all();
    }

    fn hand_over(&self, number: usize, idle_time: Duration) {
        self.book.registry.enter(number as u64, Address::Unix(UnixName::Unnamed), None, None);
        let task = Task { number, book: self.book.clone() };
        let terms = Terms { stack_size: STACK_SIZE, idle_time };
        assert!(self.crew.hand_over(task, terms).is_ok());
        let roll = self.crew.roll.lock();
        assert!(roll.seats.len() <= self.workers(), "the handle of a finished thread is kept");
    }

    /// How many threads there are that have not returned.
    fn workers(&self) -> usize {
        Arc::strong_count(&self.crew) - 1
    }

    /// What a server does at its end.
    fn stop(&self) {
        let never = || Instant::now() + 2 * YEAR;
        self.book.registry.drain();
        assert!(self.book.registry.wait_until_empty(never));
        self.crew.dismiss(|| self.book.registry.len(), NEVER);
        assert!(self.crew.roll.lock().is_empty());
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
    let crew = Arc::new(Crew::new(|done: Arc<AtomicUsize>| _ = done.fetch_add(1, SeqCst)));
    let done = Arc::new(AtomicUsize::new(0));
    let hand_over = |idle_time| {
        let terms = Terms { stack_size: STACK_SIZE, idle_time };
        assert!(crew.hand_over(done.clone(), terms).is_ok());
    };
    hand_over(first);
    let waiting = !crew.roll.lock().idle.is_empty();
    let second = second.filter(|_| waiting);
    second.into_iter().for_each(hand_over);
    crew.dismiss(|| 0, NEVER);
    assert_eq!(done.load(SeqCst), if second.is_some() { 2 } else { 1 });
    assert!(crew.roll.lock().is_empty());
    assert_eq!(Arc::strong_count(&crew), 1, "all have returned");
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
        (0..3).for_each(|number| stage.hand_over(number, SOON));
        stage.stop();
        stage.assert_done([1, 1, 1, 0]);
    });
}

#[test]
fn a_stop_sends_home_all_who_wait() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        (0..3).for_each(|number| stage.hand_over(number, NEVER));
        stage.stop();
        stage.assert_done([1, 1, 1, 0]);
    });
}

#[test]
fn workers_that_do_not_wait_are_gone_after_their_task() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        (0..3).for_each(|number| stage.hand_over(number, Duration::ZERO));
        assert!(stage.crew.roll.lock().idle.is_empty());
        stage.stop();
        stage.assert_done([1, 1, 1, 0]);
    });
}

#[test]
fn two_accept_loops_may_hand_over_at_a_time() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        let other = stage.clone();
        let other = thread::spawn(move || (0..2).for_each(|number| other.hand_over(number, SOON)));
        (2..4).for_each(|number| stage.hand_over(number, NEVER));
        other.join().unwrap();
        stage.stop();
        stage.assert_done([1, 1, 1, 1]);
    });
}

#[test]
fn the_worker_that_was_busy_last_is_the_first_to_be_called() {
    check(|| {
        let stage = Stage::new(0);
        stage.hand_over(0, NEVER);
        stage.hand_over(1, NEVER);
        for tasks in 1..=2 {
            stage.open(tasks);
            while stage.crew.roll.lock().idle.len() < tasks {
                thread::yield_now();
            }
        }
        stage.hand_over(2, NEVER);
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
        (0..3).for_each(|number| stage.hand_over(number, NEVER));
        while stage.book.registry.len() > 1 {
            thread::yield_now();
        }
        stage.crew.dismiss(|| stage.book.registry.len(), NEVER);
        assert_eq!(stage.crew.roll.lock().seats.len(), 1);
        // It comes home by itself.
        stage.open(3);
    });
}

#[test]
fn a_dismissal_gives_up_on_those_who_do_not_return() {
    check(|| {
        let stage = Stage::new(1);
        (0..2).for_each(|number| stage.hand_over(number, NEVER));
        stage.crew.dismiss(|| 0, SOON);
        stage.open(2);
        stage.stop();
        stage.assert_done([1, 1, 0, 0]);
    });
}

#[test]
fn a_crew_that_was_dismissed_waits_again_after_the_next_task() {
    check(|| {
        let stage = Stage::new(usize::MAX);
        stage.hand_over(0, NEVER);
        stage.stop();
        stage.hand_over(1, NEVER);
        while stage.crew.roll.lock().idle.is_empty() {
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
        stage.hand_over(0, NEVER);
        let other = stage.clone();
        let other = thread::spawn(move || other.hand_over(1, SOON));
        stage.crew.dismiss(|| stage.book.registry.len(), SOON);
        other.join().unwrap();
        stage.stop();
        stage.assert_done([1, 1, 0, 0]);
    });
}
