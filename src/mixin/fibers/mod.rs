//! A fiber per request: the handler's code on a small stack of its own, on one of a few threads.

mod fiber_slab;
mod scheduler;
mod task;
mod watchdog;
mod worker;
mod worker_shared;

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::thread_pool::ThreadPool;
use super::{Mixin, Spawnable};
use crate::accept::listener::Listener;
use crate::accept::{BaseServer, NextRequest};
use crate::error::{Error, Result};
use crate::request::Request;
use crate::state::ServerHandle;
use crate::sys::fiber::Job;
use watchdog::Watchdog;
use worker::Worker;
use worker_shared::{Message, Workers};

/// Serves each request on a fiber of its own.
///
/// A fiber is to a thread what a thread is to a processor: there may be many thousands of them on a
/// few threads. Where a handler waits for its client, its fiber is put aside, and its thread, a
/// worker, goes on with another one that has something to do. The handler is the same plain code as
/// under [`Threading`](super::Threading); what an idle connection costs is a page of stack, and what
/// a message costs is no switch between threads.
///
/// ```
/// use socketserver::{FiberTcpServer, Fibers, services::Echo};
///
/// let server = FiberTcpServer::builder()
///     .mixin(Fibers::new().workers(2).stack_size(256 * 1024))
///     .bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// # What a handler may not do
///
/// The fibers of a worker take turns, and only where they wait for their connection
/// ([`Connection`](crate::Connection)), for [`offload`](Fibers::offload) or for
/// [`sleep`](Fibers::sleep). So, other than on a thread of its own, a handler should not
///
/// - block in any other way (a file, a database, another socket, [`std::thread::sleep`], a channel)
///   or compute for long: all connections of its worker wait meanwhile. That is what
///   [`offload`](Fibers::offload) is for. Who keeps the others waiting is in the log, once it has
///   been for [`slow_handler_warning`](Fibers::slow_handler_warning).
/// - hold a lock while it reads from its connection or writes to it: another handler that waits for
///   the lock holds up the thread that the first one would have to go on with, for ever.
/// - keep in thread-locals what belongs to one connection: they are shared by all fibers of a
///   worker. (A fiber stays on the worker that it began on.)
/// - go deep: its stack has a [size](Fibers::stack_size) of its own.
///
/// The connection may be used from another thread, as within [`std::thread::scope`]: that thread
/// then waits by itself. (The scope holds up the worker until its threads have ended, unless it is
/// offloaded.) While a panic unwinds the stack, the connection holds up its worker where it waits.
///
/// # Limits
///
/// [`stack_size`](Fibers::stack_size) says what happens when a stack is too small. A handler that
/// does not end is left behind by a stop, and with it all others of its worker.
#[derive(Debug)]
#[must_use = "a mixin does nothing until a server is built with it"]
pub struct Fibers {
    max_fibers: usize,
    worker_count: usize,
    stack_size: usize,
    slow_handler_warning: Duration,
    pool: Arc<ThreadPool<Job>>,
    /// `None` until they are started.
    workers: Mutex<Option<Arc<Workers>>>,
    watchdog: Mutex<Watchdog>,
}

impl Default for Fibers {
    fn default() -> Fibers {
        Fibers::new()
    }
}

impl Fibers {
    /// Fibers with their defaults.
    pub fn new() -> Fibers {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Fibers {
            max_fibers: usize::MAX,
            worker_count: (processors - 1).max(1),
            stack_size: 512 * 1024,
            slow_handler_warning: Duration::from_secs(1),
            pool: Arc::new(ThreadPool::new(Job::run)),
            workers: Mutex::default(),
            watchdog: Mutex::default(),
        }
    }

    /// How many threads the fibers run on. By default there is one for each processor that this
    /// process may use but one, which is left to the rest of the program, to the thread that sends
    /// for a [`Broadcast`](crate::Broadcast), to what the system does for the network, and to
    /// clients on the same machine. Zero counts as one.
    pub fn workers(mut self, workers: usize) -> Fibers {
        self.worker_count = workers.max(1);
        self
    }

    /// How many requests run at a time; more of them wait in the backlog. Zero counts as one. By
    /// default there is no limit besides the server's
    /// [`max_connections`](crate::Builder::max_connections).
    pub fn max_fibers(mut self, fibers: usize) -> Fibers {
        self.max_fibers = fibers;
        self
    }

    /// The stack of each fiber, in bytes; 512 KiB by default, as
    /// [`Threading`](super::Threading::stack_size) has, so that whatever runs there runs here.
    ///
    /// It is address space: memory is used, a page at a time, as far down as a handler reaches, and
    /// given back when the fiber has ended, unless another one is likely to need it soon. What the
    /// size itself costs is page tables, about 1 KiB for each fiber; 128 KiB instead save three
    /// quarters of that, and are plenty for handlers that use nothing but the connection: a panic
    /// that prints its backtrace takes less than 32 KiB. There are libraries that go deeper when
    /// they are built without optimization.
    ///
    /// A handler that needs more overflows into a guard below the stack. This ends the process, as
    /// on any thread, and a message on standard error names this setting.
    pub fn stack_size(mut self, bytes: usize) -> Fibers {
        self.stack_size = bytes;
        self
    }

    /// For how long a handler may keep its worker to itself before the log says so; 1 s by default.
    /// It is said once, by [`log::warn`] with the peer, within twice that time. [`Duration::MAX`]:
    /// never.
    pub fn slow_handler_warning(mut self, time: Duration) -> Fibers {
        self.slow_handler_warning = time.max(Duration::from_millis(1));
        self
    }

    /// Does something that blocks, or takes long, on another thread, while this fiber is put aside
    /// and the others go on. Returns what it returns; a panic goes on in the caller.
    ///
    /// It may borrow from the caller. The threads are kept for a while for others to use; where
    /// none can be started, or outside of a fiber (under another mixin), it is simply called.
    ///
    /// ```
    /// use socketserver::{Connection, Fibers, FiberTcpServer, HandlerResult, handler_fn};
    /// use std::io::Write;
    ///
    /// let server = FiberTcpServer::bind("127.0.0.1:0", handler_fn(|connection| {
    ///     let message = Fibers::offload(|| std::fs::read("/etc/hostname"))?;
    ///     connection.write_all(&message)?;
    ///     Ok(())
    /// }))?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn offload<T: Send>(call: impl FnOnce() -> T + Send) -> T {
        task::offload(call)
    }

    /// Lets some time pass for this fiber, while the others go on; outside of a fiber it is
    /// [`std::thread::sleep`].
    pub fn sleep(time: Duration) {
        task::sleep(time);
    }

    /// Starts the workers unless they are running. Those with a listener also accept connections.
    fn ensure_workers(
        &self,
        server: &BaseServer,
        listener: Weak<Listener>,
    ) -> io::Result<Arc<Workers>> {
        let mut workers = self.workers.lock();
        if let Some(workers) = &*workers {
            return Ok(workers.clone());
        }
        let started = self.start_workers(server, listener)?;
        Ok(workers.insert(started).clone())
    }

    fn start_workers(
        &self,
        server: &BaseServer,
        listener: Weak<Listener>,
    ) -> io::Result<Arc<Workers>> {
        let workers = Arc::new(Workers::new(self.worker_count)?);
        let start_worker = |number| {
            let (state, pool) = (server.state().clone(), self.pool.clone());
            let worker = Worker::new(number, workers.clone(), state, listener.clone(), pool)?;
            let stack_size = self.stack_size;
            let work = Job::new(move || worker.work(stack_size));
            self.pool.execute(work, task::THREAD_OPTIONS).map_err(|(_, error)| error)
        };
        let started = (0..self.worker_count).try_for_each(start_worker);
        if let Err(error) = started {
            // Ends those that have been started.
            workers.close();
            return Err(error);
        }
        Ok(workers)
    }
}

impl Mixin for Fibers {
    fn start(&self, server: &BaseServer) -> Result<()> {
        let started = self.ensure_workers(server, Arc::downgrade(server.listener()));
        started.map(drop).map_err(Error::system("start the workers of fibers"))
    }

    fn process_request(&self, server: &BaseServer, request: Request) {
        // They have been started before, except under `handle_request`.
        match self.ensure_workers(server, Weak::new()) {
            Ok(workers) => workers.all[workers.least_busy()].send(Message::Request(request)),
            Err(error) => request.refuse(&error),
        }
    }

    fn max_requests(&self) -> usize {
        self.max_fibers
    }

    fn next_request(&self, server: &BaseServer, deadline: Option<Instant>) -> NextRequest {
        let Some(workers) = self.workers.lock().clone() else {
            return server.next_request_or_ready(deadline, None);
        };
        loop {
            let check = self.watchdog.lock().next_check(&workers, self.slow_handler_warning);
            let wake_up = [deadline, check].into_iter().flatten().min();
            let next = server.next_request_or_ready(wake_up, Some(workers.watchdog.waker.as_fd()));
            match next {
                NextRequest::Ready => workers.watchdog.waker.clear(),
                NextRequest::TimedOut
                    if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
                next => return next,
            }
            self.watchdog.lock().check(&workers, self.slow_handler_warning, &server.handle());
        }
    }

    fn close(&self, server: &ServerHandle) {
        let workers = self.workers.lock().clone();
        workers.as_deref().inspect(|workers| workers.close());
        let busy = || match &workers {
            Some(workers) if server.state().registry.len() > 0 => workers.busy_threads(),
            // All requests have ended, so that the workers are about to exit.
            _ => 0,
        };
        self.pool.shutdown(busy, Duration::from_secs(1));
    }
}

impl Spawnable for Fibers {}
