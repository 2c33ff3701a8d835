//! A thread per request; threads that are done wait a while for the next one.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::Mixin;
use crate::base::BaseServer;
use crate::handle::ServerHandle;
use crate::request::Request;

/// Serves each request on a thread of its own.
///
/// A thread that is done waits [`idle_time`](Threading::idle_time) for another request, the one
/// that was busy last getting it first, so that short connections cost no thread each and a burst
/// of threads is given back. When the system will start no more threads, the newcomer is refused
/// and everybody else served.
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
pub struct Threading {
    options: Options,
    crew: Arc<Crew>,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    stack_size: usize,
    max_threads: usize,
    idle_time: Duration,
}

impl Default for Threading {
    fn default() -> Threading {
        Threading::new()
    }
}

impl Threading {
    /// Threading with its defaults.
    pub fn new() -> Threading {
        let options = Options {
            stack_size: 512 * 1024,
            max_threads: usize::MAX,
            idle_time: Duration::from_secs(10),
        };
        Threading { options, crew: Arc::default() }
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
        self.options.max_threads = threads;
        self
    }

    /// How long a thread that is done waits for another request; 10 s by default. Zero: not at
    /// all.
    pub fn idle_time(mut self, time: Duration) -> Threading {
        self.options.idle_time = time;
        self
    }
}

impl Mixin for Threading {
    fn process_request(&self, _server: &BaseServer, mut request: Request) {
        loop {
            let worker = match self.crew.idle_worker() {
                Some(worker) => worker,
                None => match self.crew.hire(self.options) {
                    Ok(worker) => worker,
                    Err(error) => return request.refuse(&error),
                },
            };
            match worker.send(Some(request)) {
                Ok(()) => return,
                Err(unsent) => match unsent.into_inner() {
                    Some(unserved) => request = unserved,
                    None => return,
                },
            }
        }
    }

    fn max_requests(&self) -> usize {
        self.options.max_threads
    }

    fn close(&self, server: &ServerHandle) {
        self.crew.dismiss(|| server.control().registry.len());
    }
}

/// What a worker is sent: a request to serve, or `None` to go home.
type Task = Option<Request>;

/// The threads: those that wait for a request, and the handles of all.
#[derive(Debug, Default)]
struct Crew {
    roll: Mutex<Roll>,
    gone: Condvar,
}

#[derive(Debug, Default)]
struct Roll {
    next_number: u64,
    /// The last one in is the first one out: its caches are warm, and the others can go home.
    idle: Vec<(u64, Sender<Task>)>,
    threads: HashMap<u64, JoinHandle<()>>,
    /// Numbers of threads that have returned or are about to, to be joined.
    leaving: Vec<u64>,
    closed: bool,
}

impl Crew {
    fn idle_worker(&self) -> Option<Sender<Task>> {
        self.roll.lock().idle.pop().map(|(_, worker)| worker)
    }

    fn hire(self: &Arc<Crew>, options: Options) -> io::Result<Sender<Task>> {
        let mut roll = self.roll.lock();
        roll.join_leaving();
        roll.closed = false;
        let number = roll.next_number;
        roll.next_number += 1;
        let (sender, receiver) = bounded(1);
        let worker = Worker { number, sender: sender.clone(), receiver, crew: self.clone() };
        let thread = thread::Builder::new()
            .name("socketserver".to_owned())
            .stack_size(options.stack_size)
            .spawn(move || worker.work(options.idle_time))?;
        roll.threads.insert(number, thread);
        Ok(sender)
    }

    /// Sends the idle ones home and joins all but those that are still at a request.
    fn dismiss(&self, busy: impl Fn() -> usize) {
        let mut roll = self.roll.lock();
        roll.closed = true;
        for (_, worker) in roll.idle.drain(..) {
            // It waits for exactly one message.
            let _ = worker.try_send(None);
        }
        // Whoever is not at a request has nothing left to do but to return.
        let give_up = Instant::now() + Duration::from_secs(1);
        while roll.threads.len() - roll.leaving.len() > busy() {
            if self.gone.wait_until(&mut roll, give_up).timed_out() {
                break;
            }
        }
        roll.join_leaving();
        // The rest is stuck, and known to be from the report.
        roll.threads.clear();
    }
}

impl Roll {
    fn join_leaving(&mut self) {
        for number in std::mem::take(&mut self.leaving) {
            if let Some(thread) = self.threads.remove(&number) {
                // A worker catches what its handler throws, so there is no panic to pass on.
                let _ = thread.join();
            }
        }
    }
}

struct Worker {
    number: u64,
    sender: Sender<Task>,
    receiver: Receiver<Task>,
    crew: Arc<Crew>,
}

impl Worker {
    fn work(self, idle_time: Duration) {
        let mut next = self.receiver.recv().ok().flatten();
        while let Some(request) = next {
            let _outcome = request.finish();
            next = self.wait(idle_time);
        }
        let mut roll = self.crew.roll.lock();
        // Each joins those who left before, so that of a burst no more than one is kept.
        roll.join_leaving();
        // The last thing this thread does: joining it waits for no more than its return.
        roll.leaving.push(self.number);
        drop(roll);
        self.crew.gone.notify_all();
    }

    fn wait(&self, idle_time: Duration) -> Option<Request> {
        let mut roll = self.crew.roll.lock();
        if roll.closed || idle_time.is_zero() {
            return None;
        }
        roll.join_leaving();
        roll.idle.push((self.number, self.sender.clone()));
        drop(roll);
        if let Ok(task) = self.receiver.recv_timeout(idle_time) {
            return task;
        }
        let mut roll = self.crew.roll.lock();
        match roll.idle.iter().position(|(number, _)| *number == self.number) {
            Some(at) => {
                roll.idle.remove(at);
                None
            }
            // Somebody has just taken this worker off the list: its task is on the way.
            None => {
                drop(roll);
                self.receiver.recv().ok().flatten()
            }
        }
    }
}
