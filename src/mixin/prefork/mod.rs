//! [`Prefork`]: children that are forked before they are needed, each of which accepts and serves by
//! itself; their parent supervises them.

mod new_child;
mod restarts;
mod sizing;
mod supervisor;

use std::fmt;
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::child_process::{FAILED, PANICKED};
use super::{ForkDespiteThreads, Mixin, Sequential, Spawnable};
use crate::accept::{BaseServer, NextRequest};
use crate::error::Result;
use crate::request::Request;
use crate::state::ServerHandle;
use crate::sys::fork;
use sizing::Sizing;
use supervisor::{Supervised, Supervisor};

const DEFAULT_MAX_CHILDREN: usize = 40;

/// Serves in child processes that are forked before the first request.
///
/// Each child accepts by itself from the listeners that it has inherited, and serves many requests one
/// after the other: by [`Sequential`] one at a time, by another mixin ([`of`](Prefork::of)) many. A
/// connection wakes one of them. This uses all processors without a thread, costs no fork for each
/// request as [`Forking`](super::Forking) does, and a handler that crashes ends its child alone.
///
/// ```no_run
/// use socketserver::{Prefork, TcpServer, services::Hello};
///
/// let server = TcpServer::builder()
///     .mixin(Prefork::new().children(4))
///     .bind("127.0.0.1:2525", Hello)?;
/// server.serve_forever()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// # The parent
///
/// The parent accepts nothing. It sleeps until a child ends, and starts another one in its place: at
/// once, or, while children end within a second of their start without having served a request, after a
/// delay that doubles from 10 ms to 5 s. It needs what [`Forking`](super::Forking) needs: Linux 5.4,
/// `pidfd_open`, and no other thread in the process ([`Error::OtherThreads`]), for as long as it
/// serves. So there is no [`spawn`](crate::Server::spawn):
///
/// ```compile_fail
/// use socketserver::{Prefork, TcpServer, services::Hello};
///
/// let builder = TcpServer::builder().mixin(Prefork::new());
/// let server = builder.bind("127.0.0.1:0", Hello)?.spawn()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// # What children share, and what not
///
/// A child has a copy of the handler and of all other memory of the program, as it was at the fork.
/// Connections of different children share nothing, so that a [`Broadcast`](crate::Broadcast) reaches
/// those of one child only. [`Stats`](crate::Stats) count for all children together. Limits, such as
/// [`max_connections`](crate::Builder::max_connections), those per peer, and
/// [`max_threads`](super::Threading::max_threads) of the mixin inside, are those of each child: a
/// server has as many times more. So are the rest of a [`ServerHandle`](crate::ServerHandle), such as
/// [`connections`](crate::ServerHandle::connections), which in the parent is empty, and the
/// [`service_actions`](crate::Builder::service_actions), which every child runs.
///
/// Children have the listeners and the settings that their parent had at the fork.
/// [`listen`](crate::ServerHandle::listen), [`close_listener`](crate::ServerHandle::close_listener),
/// new limits or certificates concern the process in which they are set, and those that it forks later.
///
/// # The end
///
/// [`shutdown`](crate::ServerHandle::shutdown), in the parent or in a child, stops all. Each child
/// stops as a server does; together they serve what was in the backlog when the stop began. So does
/// [`stop`](crate::ServerHandle::stop), whose timeout holds for all. A child that does not end in time is sent `SIGTERM`, then `SIGKILL`, and its requests are counted as
/// [`forced`](crate::StopReport::forced) and as failed.
///
/// The first `SIGINT`, and the first `SIGTERM`, to a child stop it gracefully, and so does the death of
/// the parent. Unless the server stops, another child takes its place, and serves what is queued. A
/// child ends by `_exit`, without the program's destructors.
///
/// [`handle_request`](crate::Server::handle_request) forks no children: it serves in this process, by
/// the mixin inside.
///
/// [`Error::OtherThreads`]: crate::Error::OtherThreads
#[must_use = "a mixin does nothing until a server is built with it"]
pub struct Prefork {
    sizing: Sizing,
    longest_request: Option<Duration>,
    inner: Box<dyn Spawnable>,
    despite_threads: Option<ForkDespiteThreads>,
    /// In the parent, while it serves.
    supervisor: Mutex<Option<Supervisor>>,
}

impl Default for Prefork {
    fn default() -> Prefork {
        Prefork::new()
    }
}

impl Prefork {
    /// Children that serve one request at a time, as many as there are processors.
    pub fn new() -> Prefork {
        Prefork::of(Sequential)
    }

    /// Children in which another mixin runs the requests, as many as there are processors.
    ///
    /// ```
    /// use socketserver::{Prefork, TcpServer, Threading, services::Echo};
    ///
    /// let mixin = Prefork::of(Threading::new().max_threads(100)).children(2);
    /// let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Echo)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// Of [`Fibers`](super::Fibers), one worker in each child is enough, since there is a child for
    /// each processor.
    pub fn of(mixin: impl Spawnable) -> Prefork {
        let children = thread::available_parallelism().map_or(1, usize::from);
        let max_children = DEFAULT_MAX_CHILDREN;
        Prefork {
            sizing: Sizing { children, spare: None, max_children, max_requests: None },
            longest_request: None,
            inner: Box::new(mixin),
            despite_threads: None,
            supervisor: Mutex::default(),
        }
    }

    /// How many children there are; by default as many as the processors that this process may use.
    /// Zero counts as one. Each takes four descriptors of the parent.
    pub fn children(mut self, children: usize) -> Prefork {
        self.sizing.children = children.max(1);
        self.sizing.spare = None;
        self
    }

    /// Instead of a fixed number of [`children`](Prefork::children): as many as needed for so many of
    /// them to be idle, which serve no request. When fewer are, more are forked at once; while more are,
    /// one of them ends each second. There are [`max_children`](Prefork::max_children) at most. Zero
    /// counts as one.
    ///
    /// ```
    /// use socketserver::{Prefork, TcpServer, services::Echo};
    ///
    /// let mixin = Prefork::new().spare(2..=10).max_children(50);
    /// let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Echo)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn spare(mut self, idle: RangeInclusive<usize>) -> Prefork {
        let min = (*idle.start()).max(1);
        self.sizing.spare = Some(min..=min.max(*idle.end()));
        self
    }

    /// How many children there may be with [`spare`](Prefork::spare); 40 by default, and at least as many
    /// as may be idle. When all of them are busy, further requests wait in the backlog. Without `spare`
    /// this has no effect.
    pub fn max_children(mut self, children: usize) -> Prefork {
        self.sizing.max_children = children;
        self
    }

    /// A child ends after so many requests, and another one takes its place, so that what a handler leaks
    /// is freed from time to time. It is a tenth more or less for each child, so that they do not end at
    /// the same time. `None`, the default: never. Zero counts as one.
    ///
    /// No client notices. The child accepts no more, and the requests that it serves go on until they end
    /// by themselves, for as long as they take. There may be as many children that end as there are
    /// others; if one more is needed, the eldest is stopped, as a server is, within the
    /// [`stop_timeout`](crate::Builder::stop_timeout).
    pub fn max_requests(mut self, requests: impl Into<Option<u64>>) -> Prefork {
        self.sizing.max_requests = requests.into().map(|requests| requests.max(1));
        self
    }

    /// A child that serves one request for longer is ended, and another one takes its place at once. A
    /// request lasts from its arrival to its end: on a stream it is a whole connection. `None`, the
    /// default: it may take for ever.
    ///
    /// The child is sent `SIGTERM`, by which its other requests, under a mixin that has any, end
    /// gracefully; and `SIGKILL` after the [`stop_timeout`](crate::Builder::stop_timeout) if it has not
    /// ended by then, as a handler that computes without end does not.
    pub fn longest_request(mut self, timeout: impl Into<Option<Duration>>) -> Prefork {
        self.longest_request = timeout.into();
        self
    }

    /// Forks although the process has other threads; see [`ForkDespiteThreads::new`] for what the
    /// caller promises. [`std::io::stdout`] is then not flushed before a fork, since another thread may
    /// hold its lock.
    pub fn despite_threads(mut self, promise: ForkDespiteThreads) -> Prefork {
        self.despite_threads = Some(promise);
        self
    }
}

impl Mixin for Prefork {
    fn start(&self, server: &BaseServer) -> Result<()> {
        let (sizing, longest_request) = (self.sizing.clone(), self.longest_request);
        let state = server.state();
        if longest_request.is_some() {
            state.registry.keep_order();
        }
        if longest_request.is_some() || sizing.spare.is_some() {
            state.processes.want_load();
        }
        let supervisor = Supervisor::new(sizing, longest_request, self.despite_threads)?;
        *self.supervisor.lock() = Some(supervisor);
        Ok(())
    }

    fn process_request(&self, server: &BaseServer, request: Request) {
        self.inner.process_request(server, request);
    }

    fn max_requests(&self) -> usize {
        self.inner.max_requests()
    }

    fn descriptors_per_request(&self) -> usize {
        self.inner.descriptors_per_request()
    }

    fn processes(&self) -> usize {
        // The parent, and a child for a stop.
        2 + self.sizing.slots()
    }

    /// In the parent this returns when the server stops; in each child, with the requests that it has
    /// accepted. The rest of the serving loop is the same in both.
    fn next_request(&self, server: &BaseServer, deadline: Option<Instant>) -> NextRequest {
        let mut supervisor = self.supervisor.lock();
        if let Some(parent) = &mut *supervisor {
            match parent.supervise(server) {
                Supervised::ShutDown => return NextRequest::ShutDown,
                Supervised::Child(child) => {
                    // Closes the parent's descriptors.
                    *supervisor = None;
                    drop(supervisor);
                    child.begin(server, || self.inner.start(server));
                }
            }
        }
        self.inner.next_request(server, deadline)
    }

    fn wait(&self, server: &ServerHandle, deadline: &dyn Fn() -> Instant) -> bool {
        match &mut *self.supervisor.lock() {
            Some(parent) => parent.wait(server.state(), deadline),
            None => self.inner.wait(server, deadline),
        }
    }

    fn terminate(&self) {
        match &mut *self.supervisor.lock() {
            Some(parent) => parent.terminate(),
            None => self.inner.terminate(),
        }
    }

    fn close(&self, server: &ServerHandle) {
        if let Some(mut parent) = self.supervisor.lock().take() {
            return parent.close(server.state());
        }
        self.inner.close(server);
        let state = server.state();
        if state.processes.is_child() {
            let (drained, forced) = state.registry.drained_and_forced();
            state.processes.own().report_stop(drained, forced);
            state.log_stuck();
            state.tell_folded(true);
            let all_ended = state.registry.len() == 0;
            fork::exit(match thread::panicking() {
                true => PANICKED,
                false => i32::from(!all_ended) * FAILED,
            });
        }
    }
}

impl fmt::Debug for Prefork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefork").field("sizing", &self.sizing).finish_non_exhaustive()
    }
}
