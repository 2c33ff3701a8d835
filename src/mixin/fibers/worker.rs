//! [`Worker`]: a thread that runs fibers. It waits for their events, and accepts connections.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use super::scheduler::{Scheduler, StreamKey, WorkerOptions};
use super::task::serve;
use super::worker_shared::{Message, Workers};
use crate::accept::Listener;
use crate::mixin::thread_pool::ThreadPool;
use crate::state::ServerState;
use crate::sys::fiber::Job;
use crate::sys::poller::{ListenerWaiter, Poller};
use crate::sys::stack::handle_overflow;

/// How many connections a worker accepts in one iteration.
const ACCEPT_BATCH: usize = 16;

/// How many requests more than the least busy worker this one may have and still keep a new
/// connection: serving a short request takes less time than handing it over.
const MAX_IMBALANCE: usize = 1;

/// What the number of an epoll event stands for.
enum Source {
    /// A message is in the mailbox.
    Waker,
    /// A connection is pending.
    Listener,
    /// The server is stopping.
    Stop,
    /// A stream of a fiber is ready.
    Stream(StreamKey),
}

impl Source {
    /// The numbers of streams are below 2^63.
    const WAKER: u64 = u64::MAX;
    const LISTENER: u64 = u64::MAX - 1;
    const STOP: u64 = u64::MAX - 2;

    fn of(number: u64) -> Source {
        match number {
            Source::WAKER => Source::Waker,
            Source::LISTENER => Source::Listener,
            Source::STOP => Source::Stop,
            stream => Source::Stream(StreamKey::of(stream)),
        }
    }
}

pub(super) struct Worker {
    index: usize,
    workers: Arc<Workers>,
    state: Arc<ServerState>,
    /// Dangling if the worker does not accept connections.
    listener: Weak<Listener>,
    pool: Arc<ThreadPool<Job>>,
    poller: Poller,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        workers: Arc<Workers>,
        state: Arc<ServerState>,
        listener: Weak<Listener>,
        pool: Arc<ThreadPool<Job>>,
    ) -> io::Result<Worker> {
        let poller = Poller::new()?;
        poller.add_level(workers.all[index].waker.as_fd(), Source::WAKER)?;
        if let Some(listener) = listener.upgrade() {
            poller.add_level(listener.state.shutdown_signal(), Source::STOP)?;
        }
        Ok(Worker { index, workers, state, listener, pool, poller })
    }

    /// Runs until the workers are closed and this one has no fibers left.
    pub(super) fn run(self, options: WorkerOptions) {
        let Worker { index, workers, state, listener, pool, poller } = self;
        handle_overflow();
        workers.all[index].set_thread();
        Scheduler::run(index, workers.clone(), pool, poller, options, |scheduler| {
            let waiter = scheduler.poller.listener_waiter(Source::LISTENER);
            let is_registered = Cell::new(false);
            let registration =
                ListenerRegistration { scheduler, state, listener, waiter, is_registered };
            registration.register();
            while !(scheduler.shared().is_closed() && scheduler.is_empty()) {
                run_iteration(scheduler, &registration, &workers);
            }
        });
    }
}

/// One iteration of a worker's loop:
///
/// 1. Wait for events: not at all if a fiber is ready, otherwise no longer than until the first
///    timer. Events of streams make fibers ready.
/// 2. Make the fibers ready whose timers have expired.
/// 3. Read the mailbox: start a fiber for each request, and make the fibers ready that another thread
///    resumes.
/// 4. Resume each ready fiber once.
/// 5. Accept a batch of connections, and start their fibers. This is last, and bounded, so that the
///    connections that are being served go first. Once the server stops, the accept loop serves the
///    backlog instead.
fn run_iteration(
    scheduler: &Scheduler,
    registration: &ListenerRegistration<'_>,
    workers: &Workers,
) {
    let ready = wait_for_events(scheduler, workers);
    scheduler.fire_timers();
    if ready.waker {
        read_mailbox(scheduler, registration, workers);
    }
    scheduler.run_ready();
    if ready.stop {
        registration.unregister_for_stop();
    } else if ready.listener {
        registration.accept_batch(workers);
    }
}

/// Which descriptors are ready besides the streams of fibers.
#[derive(Default)]
struct Ready {
    waker: bool,
    listener: bool,
    stop: bool,
}

fn wait_for_events(scheduler: &Scheduler, workers: &Workers) -> Ready {
    let mut ready = Ready::default();
    scheduler.shared().end_iteration();
    scheduler.poller.wait(scheduler.poll_timeout(), |number, event| match Source::of(number) {
        Source::Waker => ready.waker = true,
        Source::Listener => ready.listener = true,
        Source::Stop => ready.stop = true,
        Source::Stream(stream) => scheduler.on_event(stream, event),
    });
    scheduler.shared().begin_iteration(workers.now());
    ready
}

fn read_mailbox(scheduler: &Scheduler, registration: &ListenerRegistration<'_>, workers: &Workers) {
    for message in scheduler.shared().take_messages() {
        match message {
            Message::Request(request) => {
                workers.watchdog.wake();
                serve(request, scheduler);
                // The accept loop had capacity for this request, so that this worker, if it
                // unregistered for lack of capacity, can accept again.
                registration.register();
            }
            Message::Resume(key) => scheduler.wake(key),
            Message::Closed(key) => scheduler.remove_upstream(key),
        }
    }
}

/// A worker's registration at the listeners, as one of the waiters that accept connections.
struct ListenerRegistration<'a> {
    scheduler: &'a Scheduler,
    state: Arc<ServerState>,
    listener: Weak<Listener>,
    /// `None` if the accept loop accepts.
    waiter: Option<ListenerWaiter>,
    is_registered: Cell<bool>,
}

impl ListenerRegistration<'_> {
    fn register(&self) {
        if self.is_registered.get() || self.state.is_stopping() {
            return;
        }
        let Some(waiter) = &self.waiter else { return };
        let Some(listener) = self.listener.upgrade() else { return };
        match listener.register_waiter(waiter) {
            Ok(()) => self.is_registered.set(true),
            // Without waiters, the accept loop accepts.
            Err(error) => log::debug!("a worker cannot watch the listener: {error}"),
        }
    }

    fn unregister(&self) {
        if let (true, Some(waiter)) = (self.is_registered.replace(false), &self.waiter)
            && let Some(listener) = self.listener.upgrade()
        {
            listener.unregister_waiter(waiter);
        }
    }

    /// Leaves the backlog to the accept loop.
    fn unregister_for_stop(&self) {
        self.unregister();
        self.scheduler.poller.delete(self.state.shutdown_signal());
    }

    /// Accepts what is pending, and serves it or hands it to a less busy worker.
    fn accept_batch(&self, workers: &Workers) {
        let Some(waiter) = &self.waiter else { return };
        let Some(listener) = self.listener.upgrade() else { return };
        let accepting = listener.accept_each(ACCEPT_BATCH, |request| {
            let least_busy = workers.least_busy();
            let (this, other) = (self.scheduler.shared(), &workers.all[least_busy]);
            // This worker is accepting, hence not blocked: it keeps the request if the other is.
            if this.load() > other.load() + MAX_IMBALANCE && !workers.is_blocked(least_busy) {
                other.send(Message::Request(request));
            } else {
                this.begin_request();
                workers.watchdog.wake();
                serve(request, self.scheduler);
            }
        });
        let processes = &self.state.processes;
        let requeued = !processes.has_more_than_others() || listener.requeue(waiter);
        if !accepting || !requeued {
            self.unregister();
        }
    }
}

impl Drop for ListenerRegistration<'_> {
    fn drop(&mut self) {
        self.unregister();
    }
}
