//! [`Forking`]: a process per request; children are watched and reaped by their pidfds.

use std::mem::ManuallyDrop;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Instant;

use super::child_process::{self, FAILED, KILL_GRACE, PANICKED};
use super::{ForkDespiteThreads, Mixin};
use crate::accept::{BaseServer, NextRequest};
use crate::close_reason::CloseReason;
use crate::error::{Error, Result};
use crate::id::ListenerId;
use crate::net::Traffic;
use crate::request::{Registration, Request};
use crate::state::{Ended, ServerHandle};
use crate::sys::children::Children;
use crate::sys::descriptors::DevNull;
use crate::sys::exit::Exit;
use crate::sys::fork::{self, Fork, Pid};
use crate::sys::poll::{Interest, poll};
use crate::sys::signals::{self, BlockedSignals};

/// Serves each request in a child process of its own.
///
/// A handler that crashes, leaks or is killed does not affect the others. Each runs with its own
/// copy of memory: its changes are lost when it ends, so that connections cannot share state this
/// way. The child exits by `_exit`: the program's destructors do not run in it, and output to
/// [`std::io::stdout`] without a newline is lost unless it is flushed. The
/// server flushes its own standard output before each fork, so that no child prints it again.
///
/// The server refuses to run beside other threads ([`Error::OtherThreads`]): a child would inherit
/// the locks that they hold at the fork, but not the threads that release them. There is no
/// [`spawn`](crate::Server::spawn) for it:
///
/// ```compile_fail
/// use socketserver::{ForkingTcpServer, services::Hello};
///
/// let server = ForkingTcpServer::bind("127.0.0.1:0", Hello)?.spawn()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// The cost of a fork grows with the program; a statically linked one
/// (`-C target-feature=+crt-static`) takes about a fifth less.
///
/// Children are reaped as soon as they end, by their pidfds; other children of the program are left
/// alone. This needs Linux 5.4 or newer, and `pidfd_open`, which the seccomp filters of old
/// containers forbid: without it, [`serve_forever`](crate::Server::serve_forever) fails. It also
/// needs exit statuses: if `SIGCHLD` is ignored, its action becomes the default one. The first
/// `SIGINT` and the first `SIGTERM` end a child gracefully. It is sent `SIGTERM` when the parent's
/// thread that forked it exits.
#[derive(Debug)]
#[must_use = "a mixin does nothing until a server is built with it"]
pub struct Forking {
    max_children: usize,
    despite_threads: Option<ForkDespiteThreads>,
    processes: OnceLock<ChildProcesses>,
}

#[derive(Debug)]
struct ChildProcesses {
    children: Children<Registration>,
    dev_null: DevNull,
}

impl Default for Forking {
    fn default() -> Forking {
        Forking::new()
    }
}

impl Forking {
    /// Forking with its defaults.
    pub fn new() -> Forking {
        Forking { max_children: 40, despite_threads: None, processes: OnceLock::new() }
    }

    /// How many requests run at a time, each in a child; further ones wait in the backlog. 40 by
    /// default, as in CPython. Zero counts as one. A child takes two descriptors of the server, its
    /// connection and a pidfd; when those run out earlier, requests wait too.
    pub fn max_children(mut self, children: usize) -> Forking {
        self.max_children = children;
        self
    }

    /// Forks although the process has other threads; see [`ForkDespiteThreads::new`] for what the
    /// caller promises. [`std::io::stdout`] is then not flushed before a fork, since another thread may
    /// hold its lock.
    pub fn despite_threads(mut self, promise: ForkDespiteThreads) -> Forking {
        self.despite_threads = Some(promise);
        self
    }

    fn processes(&self) -> Result<&ChildProcesses> {
        if let Some(processes) = self.processes.get() {
            return Ok(processes);
        }
        child_process::probe()?;
        let new = || Ok(ChildProcesses { children: Children::new()?, dev_null: DevNull::open()? });
        let processes = new().map_err(Error::system("watch children"))?;
        Ok(self.processes.get_or_init(|| processes))
    }

    fn fork(&self) -> Result<(&ChildProcesses, Fork)> {
        let processes = self.processes()?;
        // Reserves the descriptor for the pidfd: without one, do not fork.
        let _reserved = processes.dev_null.reserve().map_err(Error::system("watch a child"))?;
        Ok((processes, child_process::fork(self.despite_threads)?))
    }

    fn reap(&self) {
        let Some(processes) = self.processes.get() else { return };
        for (pid, exit, registration) in processes.children.reap() {
            match exit {
                Some(exit) if exit.is_success() => {}
                // The child has counted its outcome and handled the error.
                Some(exit @ Exit::Status(FAILED | PANICKED)) => log::debug!("child {pid} {exit}"),
                Some(exit) => {
                    log::warn!("child {pid} {exit}");
                    registration.state.stats().failed.add_one();
                }
                None => log::debug!("child {pid} was reaped by another waiter"),
            }
        }
    }
}

impl Mixin for Forking {
    fn start(&self, _server: &BaseServer) -> Result<()> {
        child_process::prepare_to_fork(self.despite_threads)?;
        self.processes().map(drop)
    }

    fn process_request(&self, server: &BaseServer, mut request: Request) {
        self.reap();
        request.begin_in_child();
        match self.fork() {
            Ok((processes, Fork::Child { parent, signals })) => {
                run_child(processes, parent, signals, server, request)
            }
            Ok((processes, Fork::Parent(pid))) => {
                // The registry keeps the connection open here, for a stop or a disconnect. It
                // counts as active until the child ends.
                let (task, registration) = request.into_parts();
                drop(task);
                let state = registration.state.clone();
                if let Err(error) = processes.children.add(pid, registration) {
                    state.stats().failed.add_one();
                    log::error!("child {pid:?} cannot be watched and was killed: {error}");
                }
            }
            Err(error) => request.refuse(&error),
        }
    }

    fn max_requests(&self) -> usize {
        self.max_children
    }

    fn descriptors_per_request(&self) -> usize {
        // The connection and the child's pidfd.
        2
    }

    fn forks_requests(&self) -> bool {
        true
    }

    fn next_request(&self, server: &BaseServer, deadline: Option<Instant>) -> NextRequest {
        loop {
            self.reap();
            let children = self.processes.get().map(|processes| processes.children.as_fd());
            match server.next_request_or_ready(deadline, children) {
                NextRequest::Ready => {}
                next => return next,
            }
        }
    }

    fn wait(&self, _server: &ServerHandle, deadline: &dyn Fn() -> Instant) -> bool {
        let Some(processes) = self.processes.get() else { return true };
        processes.children.drain(Registration::is_read_shutdown);
        loop {
            self.reap();
            if processes.children.is_empty() {
                return true;
            }
            let deadline = deadline();
            let ended =
                poll([Some((processes.children.as_fd(), Interest::Read))], [], Some(deadline));
            if !matches!(ended, Ok([true])) && Instant::now() >= deadline {
                return false;
            }
        }
    }

    fn terminate(&self) {
        if let Some(processes) = self.processes.get() {
            processes.children.terminate(false);
        }
    }

    fn close(&self, server: &ServerHandle) {
        if let Some(processes) = self.processes.get() {
            if !processes.children.is_empty() {
                server.state().record_killed();
            }
            processes.children.terminate(true);
            let give_up = Instant::now() + KILL_GRACE;
            self.wait(server, &|| give_up);
        }
    }
}

/// Serves a request in the child, and exits. The order of these steps matters:
///
/// 1. Expect the parent to shut down the read side in a stop. From then on, EOF may be the stop
///    rather than the client's.
/// 2. Install the child's signal handlers, and then unblock the signals, which are blocked since
///    before the fork. A signal that arrived in between drains the connection instead of running
///    the parent's handler.
/// 3. Ask for `SIGTERM` at the parent's death, which the handlers now expect.
/// 4. Replace the descriptors of the parent's accept loop, so that the listener closes with the
///    parent, and the child does not wake the accept loop.
/// 5. Forget the siblings and the other connections, which closes the child's copies of their
///    descriptors.
/// 6. Run the handler.
/// 7. Count the outcome, in memory that is shared with the parent.
/// 8. Shut down the connection, which the parent has open too.
/// 9. Leave the registration: the parent releases it when the child has exited.
/// 10. Exit without destructors, with a status that tells the parent what is counted already.
fn run_child(
    processes: &ChildProcesses,
    parent: Pid,
    signals: BlockedSignals,
    server: &BaseServer,
    request: Request,
) -> ! {
    let reason = catch_unwind(AssertUnwindSafe(|| {
        let (task, registration) = request.into_parts();
        // The parent releases it, also if this panics.
        let registration = ManuallyDrop::new(registration);
        let stream = task.shared_stream().cloned();
        if let Some(stream) = &stream {
            stream.assume_read_shutdown();
        }
        signals::drain_on_signals(stream.as_ref().and_then(|stream| stream.inner().as_fd()));
        drop(signals);
        if let Err(error) = signals::end_with_parent(parent) {
            log::warn!("a child may outlive its parent: {error}");
        }
        let kept = stream.is_none().then(|| task.listener().id);
        release_inherited(processes, server, kept);
        processes.children.forget();
        let state = &registration.state;
        state.registry.retain_only(registration.id);
        state.rejected.clear_in_child();

        let mut traffic = Traffic::default();
        let reason = task.run(&mut traffic);
        state.record_in_child(registration.id, Ended::now(reason, traffic));
        state.tell_folded(true);
        if let Some(stream) = stream {
            let _ = stream.inner().shutdown(Shutdown::Both);
        }
        reason
    }));
    fork::exit(match reason {
        Ok(CloseReason::Panicked) | Err(_) => PANICKED,
        Ok(
            CloseReason::Completed | CloseReason::Eof | CloseReason::Reset | CloseReason::Stopped,
        ) => 0,
        Ok(_) => FAILED,
    })
}

/// Replaces the parent's descriptors in a child, but for a datagram's socket, that of the listener
/// `kept`: the reply is sent through it.
fn release_inherited(processes: &ChildProcesses, server: &BaseServer, kept: Option<ListenerId>) {
    let replace = |descriptor: BorrowedFd<'_>| {
        if let Err(error) = processes.dev_null.replace(descriptor) {
            log::warn!("a child keeps a descriptor of its parent: {error}");
        }
    };
    replace(processes.children.as_fd());
    server.release_inherited(kept, replace);
}
