//! One of the threads that fibers run on: it waits for all that concerns them, and for newcomers.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use super::fiber_slab::Key;
use super::scheduler::Scheduler;
use super::task::serve;
use super::worker_shared::{Message, Workers};
use crate::accept::Listener;
use crate::mixin::thread_pool::ThreadPool;
use crate::state::ServerState;
use crate::sys::epoll::Poller;
use crate::sys::fiber::Job;
use crate::sys::stack::handle_overflow;

/// The most newcomers before those who are here get their turn.
const ACCEPT_BATCH: usize = 16;

/// By how many requests a worker may have more than another and still keep a newcomer: handing
/// over costs more than serving one that never waits, which this leaves where it is.
const MAX_IMBALANCE: usize = 1;

/// What a worker waits for besides the streams of its fibers: numbers that are no fiber's.
const WAKER: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const STOP: u64 = u64::MAX - 2;

pub(super) struct Worker {
    number: usize,
    workers: Arc<Workers>,
    state: Arc<ServerState>,
    /// None where it only serves what it is handed.
    listener: Weak<Listener>,
    pool: Arc<ThreadPool<Job>>,
    poller: Poller,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        workers: Arc<Workers>,
        state: Arc<ServerState>,
        listener: Weak<Listener>,
        pool: Arc<ThreadPool<Job>>,
    ) -> io::Result<Worker> {
        let poller = Poller::new()?;
        poller.add_level(workers.all[number].waker.as_fd(), WAKER)?;
        if let Some(listener) = listener.upgrade() {
            poller.add_level(listener.state.shutdown_signal(), STOP)?;
        }
        Ok(Worker { number, workers, state, listener, pool, poller })
    }

    pub(super) fn work(self, stack_size: usize) {
        let Worker { number, workers, state, listener, pool, poller } = self;
        handle_overflow();
        Scheduler::run(number, workers.clone(), pool, poller, stack_size, |scheduler| {
            let registration = ListenerRegistration {
                scheduler,
                state,
                listener,
                is_registered: Cell::new(false),
            };
            registration.register();
            while !(scheduler.shared().is_closed() && scheduler.is_empty()) {
                run_iteration(scheduler, &registration, &workers);
            }
        });
    }
}

/// Waits for whatever comes next, and sees to all that has come.
fn run_iteration(
    scheduler: &Scheduler,
    registration: &ListenerRegistration<'_>,
    workers: &Workers,
) {
    let (mut waker, mut connections, mut stop) = (false, false, false);
    scheduler.shared().end_iteration();
    scheduler.poller.wait(scheduler.idle_time(), |number, event| match number {
        WAKER => waker = true,
        LISTENER => connections = true,
        STOP => stop = true,
        fiber => scheduler.on_event(Key::of(fiber), event),
    });
    scheduler.shared().begin_iteration(workers.now());
    scheduler.fire_timers();
    if waker {
        for message in scheduler.shared().take_messages() {
            match message {
                Message::Request(request) => {
                    workers.watchdog.wake();
                    serve(request, scheduler);
                    // If there was no room for newcomers, there was some for this one.
                    registration.register();
                }
                Message::JobDone(fiber) => scheduler.job_done(fiber),
            }
        }
    }
    scheduler.run_ready();
    if stop {
        registration.unregister_for_stop();
    } else if connections {
        registration.accept_batch(workers);
    }
}

/// A worker's way in for newcomers.
struct ListenerRegistration<'a> {
    scheduler: &'a Scheduler,
    state: Arc<ServerState>,
    listener: Weak<Listener>,
    is_registered: Cell<bool>,
}

impl ListenerRegistration<'_> {
    /// Watches the listener from now on, so that nobody else has to.
    fn register(&self) {
        if self.is_registered.get() || self.state.is_stopping() {
            return;
        }
        let Some(listener) = self.listener.upgrade() else { return };
        match self.scheduler.poller.add_exclusive(listener.as_fd(), LISTENER) {
            Ok(()) => {
                listener.register_waiter();
                self.is_registered.set(true);
            }
            // Then whoever has the turn takes them in.
            Err(error) => log::debug!("a worker cannot watch the listener: {error}"),
        }
    }

    fn unregister(&self) {
        if let (true, Some(listener)) = (self.is_registered.replace(false), self.listener.upgrade())
        {
            self.scheduler.poller.delete(listener.as_fd());
            listener.unregister_waiter();
        }
    }

    /// The server stops; what is in the backlog is for whoever has the turn.
    fn unregister_for_stop(&self) {
        self.unregister();
        self.scheduler.poller.delete(self.state.shutdown_signal());
    }

    /// Accepts what is pending, and serves it or hands it to a less busy worker.
    fn accept_batch(&self, workers: &Workers) {
        let Some(listener) = self.listener.upgrade() else { return };
        let accepting = listener.accept_each(ACCEPT_BATCH, |request| {
            let least_busy = workers.least_busy();
            let (this, other) = (self.scheduler.shared(), &workers.all[least_busy]);
            // This worker is accepting, hence not blocked: it keeps the request if the other is.
            if this.load() > other.load() + MAX_IMBALANCE && !workers.is_blocked(least_busy) {
                other.send(Message::Request(request));
            } else {
                this.inc_load();
                workers.watchdog.wake();
                serve(request, self.scheduler);
            }
        });
        if !accepting {
            self.unregister();
        }
    }
}

impl Drop for ListenerRegistration<'_> {
    fn drop(&mut self) {
        self.unregister();
    }
}
