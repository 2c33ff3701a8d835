//! [`Sequential`]: one request at a time, on the thread that accepts.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::Mixin;
use crate::accept::BaseServer;
use crate::net::{Interest, Stream, Wait, WaitSource, poll_any};
use crate::request::Request;
use crate::state::ServerState;
use crate::sync::{Inputs, Resume, Resumer, Suspend, poll_inputs};
use crate::sys::poll::poll;
use crate::sys::waker::Waker;

/// Serves one request at a time; all others wait in the backlog.
///
/// For short requests, and for handlers that must not run concurrently. A connected client keeps
/// all others waiting; a [`read_timeout`](crate::Builder::read_timeout) bounds how long. A stop
/// does not wait for the client: the handler reads end-of-file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequential;

impl Mixin for Sequential {
    fn process_request(&self, server: &BaseServer, request: Request) {
        // While the only thread waits for the client, it also waits for the shutdown signal.
        request.wait_with(StopWatch::new(server.state()));
        let suspend = ThreadWithStopWatch { watch: StopWatch::new(server.state()) };
        let before = ThreadWithStopWatch::install(Some(Rc::new(suspend)));
        let _reason = request.finish();
        ThreadWithStopWatch::install(before);
    }
}

/// Waits for streams, and begins and forces a stop meanwhile: there is no other thread that would.
struct StopWatch {
    state: Arc<ServerState>,
    /// Whether the stop has been forced, in a wait that goes on after that.
    is_forced: AtomicBool,
}

impl StopWatch {
    fn new(state: &Arc<ServerState>) -> StopWatch {
        StopWatch { state: state.clone(), is_forced: AtomicBool::new(false) }
    }
}

impl Wait for StopWatch {
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        self.wait_any(&[WaitSource::new(stream, None, interest)], deadline)
    }

    fn wait_any(&self, sources: &[WaitSource<'_>], deadline: Option<Instant>) -> io::Result<()> {
        let waited = self.watch(deadline, |stop, deadline| {
            match poll_any(sources, stop.then(|| self.state.shutdown_signal()), deadline) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Woken::TimedOut),
                Err(error) => Err(error),
                Ok(true) => Ok(Woken::Stop),
                Ok(false) => Ok(Woken::Ready),
            }
        })?;
        match waited {
            Watched::Ready => Ok(()),
            Watched::TimedOut => Err(io::ErrorKind::TimedOut.into()),
            Watched::Forced => {
                for source in sources {
                    let _ = source.stream().shutdown(Shutdown::Both);
                }
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    fn for_upstream(&self) -> Option<Box<dyn Wait>> {
        Some(Box::new(StopWatch::new(&self.state)))
    }
}

/// What one poll(2) of a watch returned for.
enum Woken {
    Ready,
    Stop,
    TimedOut,
}

/// What a watch has ended with.
enum Watched {
    Ready,
    TimedOut,
    /// A stop is out of time.
    Forced,
}

impl StopWatch {
    /// Calls `poll` until it has something, or the deadline is over. The first argument says whether it
    /// has to watch the shutdown signal too, the second until when it may block.
    fn watch(
        &self,
        deadline: Option<Instant>,
        poll: impl Fn(bool, Option<Instant>) -> io::Result<Woken>,
    ) -> io::Result<Watched> {
        let state = &self.state;
        loop {
            let stopping = state.is_stopping();
            if stopping {
                // No other thread has noticed that the stop was requested.
                state.begin_stop();
            }
            let is_due = stopping && !self.is_forced.load(Ordering::Relaxed);
            let force = is_due.then(|| state.schedule().force);
            let spared = if stopping { state.spared_until() } else { None };
            let wake_up = [deadline, force, spared].into_iter().flatten().min();
            match poll(!stopping, wake_up)? {
                // Shuts down the read side of the client's connection, which makes it ready.
                Woken::Stop => state.begin_stop(),
                Woken::Ready => return Ok(Watched::Ready),
                Woken::TimedOut if force.is_some_and(|force| Instant::now() >= force) => {
                    state.registry.force();
                    return Ok(Watched::Forced);
                }
                Woken::TimedOut if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Ok(Watched::TimedOut);
                }
                Woken::TimedOut => state.drain_new_in_time(),
            }
        }
    }
}

/// How the handler waits for anything but a stream.
struct ThreadWithStopWatch {
    watch: StopWatch,
}

thread_local! {
    /// Resumes the thread of a sequential server; `None` until a handler waits for the first time.
    static RESUME: RefCell<Option<Arc<ResumeThread>>> = const { RefCell::new(None) };
}

struct ResumeThread(Waker);

impl Resume for ResumeThread {
    fn resume(&self, _number: u64) {
        self.0.wake();
    }
}

impl ThreadWithStopWatch {
    /// `None` if there is no descriptor left for it.
    fn resume_thread() -> Option<Arc<ResumeThread>> {
        RESUME.with_borrow_mut(|resume| {
            if resume.is_none() {
                *resume = Some(Arc::new(ResumeThread(Waker::new().ok()?)));
            }
            resume.clone()
        })
    }
}

impl ThreadWithStopWatch {
    /// The next wait does not end for that again.
    fn note_forced(&self, watched: io::Result<Watched>) {
        if matches!(watched, Ok(Watched::Forced)) {
            self.watch.is_forced.store(true, Ordering::Relaxed);
        }
    }
}

impl Suspend for ThreadWithStopWatch {
    fn resumer(&self) -> Option<Resumer> {
        Some(Resumer { resume: ThreadWithStopWatch::resume_thread()?, number: 0 })
    }

    fn suspend(&self, deadline: Option<Instant>) {
        let Some(thread) = ThreadWithStopWatch::resume_thread() else { return };
        // Fails for lack of memory: the caller looks whether it was resumed, and waits again.
        let watched = self.watch.watch(deadline, |stop, deadline| {
            let stop = stop.then(|| (self.watch.state.shutdown_signal(), Interest::Read));
            let [stop, resumed] =
                poll([stop, Some((thread.0.as_fd(), Interest::Read))], [], deadline)?;
            Ok(match (stop, resumed) {
                (true, _) => Woken::Stop,
                (_, true) => Woken::Ready,
                _ => Woken::TimedOut,
            })
        });
        self.note_forced(watched);
        thread.0.clear();
    }

    fn can_wait_for(&self, _number: Option<u64>) -> bool {
        true
    }

    fn look_for(&self, inputs: &dyn Inputs) -> io::Result<()> {
        poll_inputs(inputs, [], Some(Instant::now())).map(drop)
    }

    fn suspend_for(&self, inputs: &dyn Inputs, deadline: Option<Instant>) -> io::Result<()> {
        let Some(thread) = ThreadWithStopWatch::resume_thread() else { return Ok(()) };
        let watched = self.watch.watch(deadline, |stop, deadline| {
            let resumed = thread.0.as_fd();
            let stop = if stop { self.watch.state.shutdown_signal() } else { resumed };
            Ok(match poll_inputs(inputs, [resumed, stop], deadline)? {
                None => Woken::TimedOut,
                Some([false, true]) => Woken::Stop,
                Some(_) => Woken::Ready,
            })
        });
        thread.0.clear();
        self.note_forced(watched);
        Ok(())
    }
}
