//! [`Mixin`]: where requests run; and the built-in mixins.

mod child_process;
#[cfg(feature = "fibers")]
mod fibers;
mod forking;
mod prefork;
mod sequential;
mod thread_pool;
mod threading;

use std::time::Instant;

use crate::accept::{BaseServer, NextRequest};
use crate::error::Result;
use crate::request::Request;
use crate::state::ServerHandle;

pub use crate::sys::fork::ForkDespiteThreads;
#[cfg(feature = "fibers")]
pub use fibers::Fibers;
pub use forking::Forking;
pub use prefork::Prefork;
pub use sequential::Sequential;
pub use threading::Threading;

/// Decides where a request runs: on which thread, in which process.
///
/// The one required method, [`process_request`](Mixin::process_request), is CPython's: it gets an
/// admitted request, and sees to it that [`Request::finish`] is called, here or elsewhere. Until it
/// returns, the accept loop accepts no other request. A pool of two threads, for example:
///
/// ```
/// use std::sync::{Mutex, mpsc};
/// use socketserver::extend::{BaseServer, Mixin, Request};
/// use socketserver::{TcpServer, services::Hello};
///
/// struct Pool(Mutex<mpsc::Sender<Request>>);
///
/// impl Pool {
///     fn new() -> Pool {
///         let (sender, receiver) = mpsc::channel::<Request>();
///         let receiver = std::sync::Arc::new(Mutex::new(receiver));
///         for _ in 0..2 {
///             let receiver = receiver.clone();
///             std::thread::spawn(move || loop {
///                 let Ok(request) = receiver.lock().unwrap().recv() else { return };
///                 let _outcome = request.finish();
///             });
///         }
///         Pool(Mutex::new(sender))
///     }
/// }
///
/// impl Mixin for Pool {
///     fn process_request(&self, _server: &BaseServer, request: Request) {
///         self.0.lock().unwrap().send(request).expect("the threads live as long as the pool");
///     }
/// }
///
/// let server = TcpServer::builder().mixin(Pool::new()).bind("127.0.0.1:0", Hello)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// `Box<dyn Mixin>` is a `Mixin`, so that a program can choose at run time:
///
/// ```
/// use socketserver::extend::Mixin;
/// use socketserver::{Forking, TcpServer, Threading, services::Hello};
///
/// # let forking = false;
/// let mixin: Box<dyn Mixin> =
///     if forking { Box::new(Forking::new()) } else { Box::new(Threading::new()) };
/// let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Hello)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Mixin: Send + Sync + 'static {
    /// Runs a request, or hands it to another thread or process.
    fn process_request(&self, server: &BaseServer, request: Request);

    /// Called once before serving, on the thread that called
    /// [`serve_forever`](crate::Server::serve_forever) or [`spawn`](crate::Server::spawn); not
    /// called for [`handle_request`](crate::Server::handle_request).
    ///
    /// # Errors
    /// When this mixin cannot serve in this process. The server returns the error and does not
    /// serve.
    fn start(&self, server: &BaseServer) -> Result<()> {
        let _ = server;
        Ok(())
    }

    /// How many requests run at a time; further ones wait in the backlog, whatever the overload
    /// policy. It is what `max_threads`, `max_children` and `max_fibers` set. By default there is no
    /// limit besides the server's [`max_connections`](crate::Builder::max_connections).
    fn max_requests(&self) -> usize {
        usize::MAX
    }

    /// How many descriptors of this process a request takes while it runs, its connection included;
    /// one by default. A request is accepted only when so many are free, and the default of
    /// [`max_connections`](crate::Builder::max_connections) counts them. Zero counts as one.
    fn descriptors_per_request(&self) -> usize {
        1
    }

    /// Whether a request runs in another process than the one that has accepted it, which then cannot
    /// count what it learns of the client; no by default. [`Forking`] says yes.
    fn forks_requests(&self) -> bool {
        false
    }

    /// How many processes serve at the same time, the one that made the server included; one by
    /// default. It is what [`Prefork`] has children for, and decides how much memory the processes
    /// share. Asked once, when the server is made.
    fn processes(&self) -> usize {
        1
    }

    /// Waits for a request. A mixin that also has to wait for a descriptor of its own passes it to
    /// [`BaseServer::next_request_or_ready`] here. `deadline` is `None` in `serve_forever`.
    #[must_use = "dropping a request closes its connection"]
    fn next_request(&self, server: &BaseServer, deadline: Option<Instant>) -> NextRequest {
        server.next_request_or_ready(deadline, None)
    }

    /// During a stop: waits until all requests have ended or `deadline()` has passed. The deadline
    /// may become earlier during the wait. Returns whether all requests have ended.
    fn wait(&self, server: &ServerHandle, deadline: &dyn Fn() -> Instant) -> bool {
        server.state().registry.wait_until_empty(deadline)
    }

    /// During a stop: called shortly before its deadline if requests are still running. Their
    /// connections have been shut down.
    fn terminate(&self) {}

    /// At the end of a stop: releases threads, processes and other resources. Also called when
    /// [`start`](Mixin::start) has failed.
    fn close(&self, server: &ServerHandle) {
        let _ = server;
    }
}

/// A mixin whose server can run on a thread of its own
/// ([`Server::spawn`](crate::Server::spawn)). [`Forking`] and [`Prefork`] are none: a process
/// with threads cannot safely fork.
pub trait Spawnable: Mixin {}

impl Spawnable for Sequential {}
impl Spawnable for Threading {}

macro_rules! boxed {
    ($boxed:ty) => {
        impl Mixin for $boxed {
            fn process_request(&self, server: &BaseServer, request: Request) {
                (**self).process_request(server, request);
            }

            fn start(&self, server: &BaseServer) -> Result<()> {
                (**self).start(server)
            }

            fn max_requests(&self) -> usize {
                (**self).max_requests()
            }

            fn descriptors_per_request(&self) -> usize {
                (**self).descriptors_per_request()
            }

            fn forks_requests(&self) -> bool {
                (**self).forks_requests()
            }

            fn processes(&self) -> usize {
                (**self).processes()
            }

            fn next_request(&self, server: &BaseServer, deadline: Option<Instant>) -> NextRequest {
                (**self).next_request(server, deadline)
            }

            fn wait(&self, server: &ServerHandle, deadline: &dyn Fn() -> Instant) -> bool {
                (**self).wait(server, deadline)
            }

            fn terminate(&self) {
                (**self).terminate();
            }

            fn close(&self, server: &ServerHandle) {
                (**self).close(server);
            }
        }
    };
}

boxed!(Box<dyn Mixin>);
boxed!(Box<dyn Spawnable>);
impl Spawnable for Box<dyn Spawnable> {}
