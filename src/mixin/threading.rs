//! A thread per request; threads that are done wait a while for the next one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Mixin;
use super::thread_pool::{ThreadOptions, ThreadPool};
use crate::accept::BaseServer;
use crate::accept::listener::Listener;
use crate::error::Result;
use crate::request::Request;
use crate::state::ServerHandle;

/// Serves each request on a thread of its own.
///
/// A thread that is done waits [`idle_time`](Threading::idle_time) for another request, so that
/// short connections cost no thread each and a burst of threads is given back. A few of them wait
/// at the listener itself, and take turns at what comes; the others for what those few are too busy
/// for, the one that was busy last getting it first. When the system will start no more threads,
/// the newcomer is refused and everybody else served.
///
/// ```
/// use socketserver::{Threading, ThreadingTcpServer, services::Echo};
///
/// let server = ThreadingTcpServer::builder()
///     .mixin(Threading::new().stack_size(128 * 1024).max_threads(500))
///     .bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a mixin does nothing until a server is built with it"]
pub struct Threading {
    max_threads: usize,
    options: ThreadOptions,
    pool: Arc<ThreadPool<Task>>,
    /// Whether the server takes any number of requests, or one for each call of
    /// `handle_request`.
    serves: AtomicBool,
}

/// A request, and those that come to the same thread after it.
#[derive(Debug)]
struct Task {
    request: Request,
    /// Where the thread itself may look for the next one.
    listener: Weak<Listener>,
    idle_time: Duration,
}

impl Task {
    fn work(self) {
        let Task { request, listener, idle_time } = self;
        let mut next = Some(request);
        while let Some(request) = next {
            let _reason = request.finish();
            next = listener.upgrade().and_then(|listener| listener.accept_idle(idle_time));
        }
    }
}

impl Default for Threading {
    fn default() -> Threading {
        Threading::new()
    }
}

impl Threading {
    /// Threading with its defaults.
    pub fn new() -> Threading {
        let options = ThreadOptions { stack_size: 512 * 1024, idle_time: Duration::from_secs(10) };
        let (pool, serves) = (Arc::new(ThreadPool::new(Task::work)), AtomicBool::new(false));
        Threading { max_threads: usize::MAX, options, pool, serves }
    }

    /// The stack of each thread, in bytes; 512 KiB by default. It is address space: memory is
    /// used as far down as a handler reaches. The system has a lower bound of its own.
    pub fn stack_size(mut self, bytes: usize) -> Threading {
        self.options.stack_size = bytes;
        self
    }

    /// How many requests run at a time; more of them wait in the backlog. Zero counts as one. By
    /// default there is no limit besides the server's
    /// [`max_connections`](crate::Builder::max_connections).
    pub fn max_threads(mut self, threads: usize) -> Threading {
        self.max_threads = threads;
        self
    }

    /// How long a thread that is done waits for another request; 10 s by default, and for the few
    /// at the listener up to three times as long. Zero: not at all.
    pub fn idle_time(mut self, time: Duration) -> Threading {
        self.options.idle_time = time;
        self
    }
}

impl Mixin for Threading {
    fn start(&self, _server: &BaseServer) -> Result<()> {
        self.serves.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn process_request(&self, server: &BaseServer, request: Request) {
        let may_accept = self.serves.load(Ordering::Relaxed) && !self.options.idle_time.is_zero();
        let listener = if may_accept { Arc::downgrade(server.listener()) } else { Weak::new() };
        let task = Task { request, listener, idle_time: self.options.idle_time };
        if let Err((task, error)) = self.pool.execute(task, self.options) {
            task.request.refuse(&error);
        }
    }

    fn max_requests(&self) -> usize {
        self.max_threads
    }

    fn close(&self, server: &ServerHandle) {
        self.pool.shutdown(|| server.state().registry.len(), Duration::from_secs(1));
    }
}
