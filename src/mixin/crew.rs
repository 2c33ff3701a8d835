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
pub(super) struct Crew<T> {
    work: fn(T),
    roll: Mutex<Roll<T>>,
    gone: Condvar,
}

/// On which terms a worker is hired.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) stack_size: usize,
    /// How long it waits for another task.
    pub(super) idle_time: Duration,
}

/// A worker is handed its task, and gives up waiting for one, under the lock of this.
#[derive(Debug)]
struct Roll<T> {
    seats: HashMap<ThreadId, Seat<T>>,
    /// The last one in is the first one out: its caches are warm, and the others can go home.
    idle: Vec<ThreadId>,
    /// The last one to have gone home. It joins the one before, so that of a burst no more than
    /// one is kept.
    last_gone: Option<JoinHandle<()>>,
    closed: bool,
}

/// What the crew has of a worker.
#[derive(Debug)]
struct Seat<T> {
    thread: JoinHandle<()>,
    /// What it has been handed and not taken yet.
    task: Option<T>,
    called: Arc<Condvar>,
}

impl<T: Send + 'static> Crew<T> {
    pub(super) fn new(work: fn(T)) -> Crew<T> {
        let roll = Roll { seats: HashMap::new(), idle: Vec::new(), last_gone: None, closed: false };
        Crew { work, roll: Mutex::new(roll), gone: Condvar::new() }
    }

    /// Hands the task to the worker that was busy last, or to a new one; gives it back when no
    /// thread can be started.
    pub(super) fn hand_over(self: &Arc<Self>, task: T, terms: Terms) -> Result<(), (T, io::Error)> {
        let mut roll = self.roll.lock();
        let worker = roll.idle.pop();
        if let Some(seat) = worker.and_then(|worker| roll.seats.get_mut(&worker)) {
            seat.task = Some(task);
            let called = seat.called.clone();
            // It needs the lock as soon as it is awake.
            drop(roll);
            called.notify_one();
            return Ok(());
        }
        let called = Arc::new(Condvar::new());
        let worker =
            Worker { crew: self.clone(), called: called.clone(), idle_time: terms.idle_time };
        let hired = thread::Builder::new()
            .name("socketserver".to_owned())
            .stack_size(terms.stack_size)
            .spawn(move || worker.work());
        match hired {
            Ok(thread) => {
                roll.closed = false;
                let seat = Seat { thread, task: Some(task), called };
                roll.seats.insert(seat.thread.thread().id(), seat);
                Ok(())
            }
            Err(error) => Err((task, error)),
        }
    }

    /// Sends the idle ones home and joins all but those that are still at a task: as many as
    /// `busy()`. Those who do not return in time are left behind.
    pub(super) fn dismiss(&self, busy: impl Fn() -> usize, time: Duration) {
        let mut roll = self.roll.lock();
        roll.closed = true;
        for worker in &roll.idle {
            if let Some(seat) = roll.seats.get(worker) {
                seat.called.notify_one();
            }
        }
        // Whoever is not at a task has nothing left to do but to return.
        self.gone.wait_while_for(&mut roll, |roll| roll.seats.len() > busy(), time);
        let last_gone = roll.last_gone.take();
        drop(roll);
        join(last_gone);
    }
}

struct Worker<T> {
    crew: Arc<Crew<T>>,
    called: Arc<Condvar>,
    idle_time: Duration,
}

impl<T> Worker<T> {
    fn work(self) {
        let me = thread::current().id();
        let mut roll = self.crew.roll.lock();
        while let Some(task) = roll.take_task(me) {
            drop(roll);
            // A handler's panics are caught before; this is for what is dropped after it.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.crew.work)(task)));
            roll = self.crew.roll.lock();
            if !self.idle_time.is_zero() {
                roll.idle.push(me);
                let waits = |roll: &mut Roll<T>| !roll.closed && !roll.has_task(me);
                self.called.wait_while_for(&mut roll, waits, self.idle_time);
            }
        }
        let gone_before = roll.strike_off(me);
        drop(roll);
        self.crew.gone.notify_all();
        join(gone_before);
    }
}

impl<T> Roll<T> {
    fn has_task(&self, worker: ThreadId) -> bool {
        self.seats.get(&worker).is_some_and(|seat| seat.task.is_some())
    }

    fn take_task(&mut self, worker: ThreadId) -> Option<T> {
        self.seats.get_mut(&worker)?.task.take()
    }

    /// Returns the one to join.
    fn strike_off(&mut self, worker: ThreadId) -> Option<JoinHandle<()>> {
        self.idle.retain(|idle| *idle != worker);
        let seat = self.seats.remove(&worker)?;
        self.last_gone.replace(seat.thread)
    }
}

/// Waits for one that has gone home: for no more than its return, and that of those before it.
fn join(gone: Option<JoinHandle<()>>) {
    if let Some(thread) = gone {
        let _ = thread.join();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TERMS: Terms = Terms { stack_size: 64 * 1024, idle_time: Duration::MAX };
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_task_comes_back_when_no_thread_can_be_started() {
        let crew = Arc::new(Crew::new(|_task: &str| ()));
        let terms = Terms { stack_size: 1 << 60, ..TERMS };
        assert_eq!(crew.hand_over("a task", terms).unwrap_err().0, "a task");
        crew.dismiss(|| 0, PATIENCE);
        assert_eq!(Arc::strong_count(&crew), 1);
    }

    #[test]
    fn a_task_that_panics_is_the_only_one_to_end() {
        let (sender, done) = mpsc::channel();
        let crew = Arc::new(Crew::new(|task: Box<dyn FnOnce() + Send>| task()));
        crew.hand_over(Box::new(|| panic!("as it should")), TERMS).ok().unwrap();
        crew.hand_over(Box::new(move || sender.send("done").unwrap()), TERMS).ok().unwrap();
        assert_eq!(done.recv_timeout(PATIENCE), Ok("done"));
        crew.dismiss(|| 0, PATIENCE);
        assert!(crew.roll.lock().seats.is_empty(), "its worker has not gone home");
    }
}
