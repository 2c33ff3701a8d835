//! [`Threading`]: a thread per request; idle threads are reused.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::Mixin;
use super::thread_pool::{ThreadOptions, ThreadPool};
use crate::accept::{BaseServer, Listener};
use crate::error::Result;
use crate::request::Request;
use crate::state::ServerHandle;

/// Serves each request on a thread of its own.
///
/// An idle thread waits [`idle_time`](Threading::idle_time) for another request and then exits, so
/// that short connections do not need a new thread each, and the threads of a burst are returned.
/// Up to four idle threads accept connections themselves. The others wait for connections that the
/// accept loop hands over, the last one to become idle first. If the system cannot start a thread,
/// the new connection is refused; the others are served on.
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
    /// Where idle threads accept. Not set under `handle_request`, which accepts by itself.
    listener: OnceLock<Weak<Listener>>,
}

/// A request, and those that the thread accepts after it.
#[derive(Debug)]
struct Task {
    request: Request,
    listener: Weak<Listener>,
    idle_time: Duration,
}

impl Task {
    fn run(self) {
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
        let pool = Arc::new(ThreadPool::new(Task::run));
        Threading { max_threads: usize::MAX, options, pool, listener: OnceLock::new() }
    }

    /// The stack of each thread, in bytes; 512 KiB by default. The size is address space: memory is
    /// used as deep as a handler's calls reach. The system has a minimum.
    pub fn stack_size(mut self, bytes: usize) -> Threading {
        self.options.stack_size = bytes;
        self
    }

    /// How many requests run at a time; further ones wait in the backlog. Zero counts as one. By
    /// default there is no limit besides the server's
    /// [`max_connections`](crate::Builder::max_connections).
    pub fn max_threads(mut self, threads: usize) -> Threading {
        self.max_threads = threads;
        self
    }

    /// How long an idle thread waits for another request; 10 s by default. A thread that accepts
    /// by itself waits up to three times as long. Zero: threads exit after one request.
    pub fn idle_time(mut self, time: Duration) -> Threading {
        self.options.idle_time = time;
        self
    }
}

impl Mixin for Threading {
    fn start(&self, server: &BaseServer) -> Result<()> {
        if !self.options.idle_time.is_zero() {
            let _ = self.listener.set(Arc::downgrade(server.listener()));
        }
        Ok(())
    }

    fn process_request(&self, _server: &BaseServer, request: Request) {
        let listener = self.listener.get().cloned().unwrap_or_default();
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
