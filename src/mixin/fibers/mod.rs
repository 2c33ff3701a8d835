//! [`Fibers`]: a fiber per request, on a few worker threads.

mod fiber_state;
mod scheduler;
mod slab;
mod stream_state;
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
use crate::accept::{BaseServer, Listener, NextRequest};
use crate::error::{Error, Result};
use crate::request::Request;
use crate::state::ServerHandle;
use crate::sync;
use crate::sys::fiber::Job;
use scheduler::WorkerOptions;
use watchdog::Watchdog;
use worker::Worker;
use worker_shared::{Message, Workers};

/// Serves each request on a fiber of its own.
///
/// A few threads, the workers, run many thousands of fibers. While one handler waits for its
/// client, its fiber is suspended, and the worker runs another. The handler is the same blocking
/// code as under [`Threading`](super::Threading). An idle connection takes a page of stack, and a
/// message takes no switch between threads.
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
/// # What a handler must not do
///
/// A worker switches fibers only where a handler waits in this crate: for its
/// [`Connection`](crate::Connection), for an upstream that it
/// [connects](crate::Connection::connect) to, in a [`Select`](crate::Select), in a
/// [`scope`](crate::sync::scope), in what else [`sync`](crate::sync) has, in
/// [`offload`](Fibers::offload) and in [`sleep`](Fibers::sleep). So a handler must not
///
/// - block elsewhere (on a file, a database, [`std::thread::sleep`], a lock or channel of std) or
///   compute for long, since all other connections of its worker wait meanwhile. Use
///   [`offload`](Fibers::offload) for this. A handler that blocks its worker for
///   [`slow_handler_warning`](Fibers::slow_handler_warning) is logged.
/// - hold a lock of std while it waits. If another handler on the same worker waits for the lock, both
///   wait for ever: the worker cannot resume the first one.
/// - keep what belongs to the thread while it waits. All fibers of a worker have the same thread-locals.
///   A reentrant lock (`std::io::stdout().lock()`, parking_lot's `ReentrantMutex`) is the thread's: another
///   fiber of the worker enters it too. So is a span of `tracing` that is entered: the events of the
///   others appear in it. (A fiber stays on its worker.)
/// - recurse deeply: its stack is of a fixed [size](Fibers::stack_size).
///
/// Another thread may use the connection, as within [`std::thread::scope`]; it blocks where it
/// waits. (That scope blocks the worker until its threads have ended, unless it is offloaded;
/// [`sync::scope`](crate::sync::scope) does not.) While a panic unwinds, each wait blocks the worker.
///
/// # Limits
///
/// [`stack_size`](Fibers::stack_size) says what happens when a stack is too small. A stop leaves a
/// handler behind that does not end, and with it all other connections of its worker.
#[derive(Debug)]
#[must_use = "a mixin does nothing until a server is built with it"]
pub struct Fibers {
    max_fibers: usize,
    worker_count: usize,
    options: WorkerOptions,
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
            options: WorkerOptions { stack_size: 512 * 1024, max_offloads: 64 },
            slow_handler_warning: Duration::from_secs(1),
            pool: Arc::new(ThreadPool::new(Job::run)),
            workers: Mutex::default(),
            watchdog: Mutex::default(),
        }
    }

    /// How many threads the fibers run on. By default one less than the processors that this
    /// process may use, but at least one. The remaining processor is for the rest of the program,
    /// the thread that writes for a [`Broadcast`](crate::Broadcast), and the system's network
    /// stack. Zero counts as one.
    pub fn workers(mut self, workers: usize) -> Fibers {
        self.worker_count = workers.max(1);
        self
    }

    /// How many requests run at a time; further ones wait in the backlog. Zero counts as one. By
    /// default there is no limit besides the server's
    /// [`max_connections`](crate::Builder::max_connections).
    pub fn max_fibers(mut self, fibers: usize) -> Fibers {
        self.max_fibers = fibers;
        self
    }

    /// The stack of each fiber, in bytes; 512 KiB by default, as for
    /// [`Threading`](super::Threading::stack_size), so that the same handlers run on both.
    ///
    /// The size is address space. Memory is used page by page, as deep as a handler's calls reach,
    /// and returned when the fiber has ended, except for some stacks that are kept for new fibers. The
    /// size itself takes page tables, about 1 KiB for each fiber. With 128 KiB these are a quarter
    /// of that, which is enough for handlers that use only the connection: a panic that prints its
    /// backtrace takes less than 32 KiB. Some libraries need more when they are built without
    /// optimization.
    ///
    /// A handler that needs more overflows into a guard page below the stack. This ends the
    /// process, as on any thread, and a message on standard error names this setting.
    pub fn stack_size(mut self, bytes: usize) -> Fibers {
        self.options.stack_size = bytes;
        self
    }

    /// For how long a handler may block its worker without a warning; 1 s by default. The warning
    /// is logged once, within twice that time. It names the peer, and what the handler does: it computes,
    /// it waits for a lock, or it is in a system call, as far as the system says. [`Duration::MAX`]:
    /// never.
    pub fn slow_handler_warning(mut self, time: Duration) -> Fibers {
        self.slow_handler_warning = time.max(Duration::from_millis(1));
        self
    }

    /// How many [offloaded](Fibers::offload) calls of each worker run at a time, each on a thread of its
    /// own; further ones wait for their turn. 64 by default. Zero counts as one.
    pub fn max_offloads(mut self, calls: usize) -> Fibers {
        self.options.max_offloads = calls.max(1);
        self
    }

    /// Runs a call that blocks, or takes long, on another thread, while this fiber is suspended and
    /// the worker runs others. Returns its result; a panic is resumed in the caller.
    ///
    /// The call may borrow from the caller. Idle threads are reused for ten seconds. At most
    /// [`max_offloads`](Fibers::max_offloads) calls of each worker run at a time; further ones wait. If
    /// no thread can be started, and outside of a fiber (under another mixin), the caller runs the call
    /// itself.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) if a stop of the server is out of time while the call
    /// waits for its turn, [`Error::Timeout`](crate::Error::Timeout) at the end of a
    /// [`Connection::within`](crate::Connection::within). A call that runs is waited for.
    ///
    /// ```
    /// use socketserver::{Connection, Fibers, FiberTcpServer, HandlerResult, handler_fn};
    /// use std::io::Write;
    ///
    /// let server = FiberTcpServer::bind("127.0.0.1:0", handler_fn(|connection| {
    ///     let message = Fibers::offload(|| std::fs::read("/etc/hostname"))??;
    ///     connection.write_all(&message)?;
    ///     Ok(())
    /// }))?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn offload<T: Send>(call: impl FnOnce() -> T + Send) -> Result<T> {
        task::offload(call)
    }

    /// Suspends this fiber for some time, while the worker runs others. Outside of a fiber it blocks
    /// the thread.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) if a stop of the server is out of time,
    /// [`Error::Timeout`](crate::Error::Timeout) at the end of a
    /// [`Connection::within`](crate::Connection::within).
    pub fn sleep(time: Duration) -> Result<()> {
        sync::sleep(time)
    }

    /// Starts the workers unless they are running. They accept connections at the listener; with
    /// `Weak::new()` they do not accept.
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
            let options = self.options;
            let work = Job::new(move || worker.run(options));
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
        // They are running, except at the first request under `handle_request`, which accepts by
        // itself.
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
