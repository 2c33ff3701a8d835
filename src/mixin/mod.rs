//! Who runs a request: [`Mixin`] and the four that are built in.

#[cfg(feature = "fibers")]
mod fibers;
mod forking;
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
pub use sequential::Sequential;
pub use threading::Threading;

/// Who runs a request: on which thread, in which process.
///
/// The one required method, [`process_request`](Mixin::process_request), is CPython's: it gets a
/// request that has been admitted, and sees to it that [`Request::finish`] is called somewhere.
/// While it runs, the server accepts nobody else. A pool of two threads, for example:
///
/// ```
/// use std::sync::{Mutex, mpsc};
/// use socketserver::{BaseServer, Mixin, Request, TcpServer, services::Hello};
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
/// `Box<dyn Mixin>` is a `Mixin`, so that a program can choose by a flag:
///
/// ```
/// use socketserver::{Forking, Mixin, TcpServer, Threading, services::Hello};
///
/// # let forking = false;
/// let mixin: Box<dyn Mixin> =
///     if forking { Box::new(Forking::new()) } else { Box::new(Threading::new()) };
/// let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Hello)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Mixin: Send + Sync + 'static {
    /// Runs one request, or hands it on.
    fn process_request(&self, server: &BaseServer, request: Request);

    /// Called once before serving.
    ///
    /// # Errors
    /// When this mixin cannot serve in this process.
    fn start(&self) -> Result<()> {
        Ok(())
    }

    /// How many requests it runs at a time; more of them wait in the backlog, whatever the
    /// overload policy. By default there is no limit besides the server's
    /// [`max_connections`](crate::Builder::max_connections).
    fn max_requests(&self) -> usize {
        usize::MAX
    }

    /// How many descriptors of this process a request takes while it runs, its connection included;
    /// one by default. A request is accepted only when so many are free, and the default of
    /// [`max_connections`](crate::Builder::max_connections) counts them. Zero counts as one.
    fn descriptors_per_request(&self) -> usize {
        1
    }

    /// Waits for a request: [`BaseServer::next_request_or_ready`], for a mixin that has something else
    /// to look after meanwhile. `deadline` is `None` when serving for ever.
    fn next_request(&self, server: &BaseServer, deadline: Option<Instant>) -> NextRequest {
        server.next_request_or_ready(deadline, None)
    }

    /// During a stop: waits until all requests have ended, or `deadline()`, which may become
    /// earlier meanwhile. Returns whether all have ended.
    fn wait(&self, server: &ServerHandle, deadline: &dyn Fn() -> Instant) -> bool {
        server.state().registry.wait_until_empty(deadline)
    }

    /// During a stop: the deadline is near, and requests are still running. Their connections
    /// have been cut off.
    fn terminate(&self) {}

    /// At the end of a stop: lets go of threads, processes and whatever else it holds.
    fn close(&self, server: &ServerHandle) {
        let _ = server;
    }
}

/// A mixin whose server can run on a thread of its own beside the rest of the program
/// ([`Server::spawn`](crate::Server::spawn)). [`Forking`] is not one: a process with threads
/// cannot safely fork.
pub trait Spawnable: Mixin {}

impl Spawnable for Sequential {}
impl Spawnable for Threading {}

macro_rules! boxed {
    ($boxed:ty) => {
        impl Mixin for $boxed {
            fn process_request(&self, server: &BaseServer, request: Request) {
                (**self).process_request(server, request);
            }

            fn start(&self) -> Result<()> {
                (**self).start()
            }

            fn max_requests(&self) -> usize {
                (**self).max_requests()
            }

            fn descriptors_per_request(&self) -> usize {
                (**self).descriptors_per_request()
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
