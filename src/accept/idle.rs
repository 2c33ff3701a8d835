//! Several threads waiting for one listener, of which each newcomer wakes one: [`IdleAcceptors`].

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::sync::Mutex;
use crate::sync::SleepFlag;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sys::epoll::ExclusiveWaiter;

#[cfg(all(test, shuttle))]
mod model;

/// How many may watch. One would do, and whenever it has found somebody the thread whose turn it
/// is would have to wake up; with a few, one is most often left. They take turns, so that with
/// many their caches would be cold.
const MAX_IDLE_ACCEPTORS: usize = 4;

/// The threads that watch a listener.
#[derive(Debug, Default)]
pub(crate) struct IdleAcceptors {
    waiters: Mutex<Waiters>,
    count: WaiterCount,
}

#[derive(Debug, Default)]
struct Waiters {
    free: Vec<IdleAcceptor>,
    created: usize,
}

/// A place to watch from.
#[derive(Debug)]
pub(crate) struct IdleAcceptor {
    waiter: ExclusiveWaiter,
    /// Since when, in ticks of its clock, nobody has come.
    idle_ticks: u32,
}

impl IdleAcceptors {
    /// `None` when there are enough who watch. The clock of a seat goes by the idle time.
    pub(crate) fn take(
        &self,
        listener: BorrowedFd<'_>,
        stop: BorrowedFd<'_>,
        idle_time: Duration,
    ) -> Option<IdleAcceptor> {
        let mut waiters = self.waiters.lock();
        let mut acceptor = match waiters.free.pop() {
            Some(acceptor) => acceptor,
            None if waiters.created == MAX_IDLE_ACCEPTORS => return None,
            None => match ExclusiveWaiter::new(listener, stop, idle_time) {
                Ok(waiter) => {
                    waiters.created += 1;
                    IdleAcceptor { waiter, idle_ticks: 0 }
                }
                // It is tried again by the next thread that is done: there may be descriptors then.
                // With a listener that epoll cannot wait for, it is a few system calls in vain.
                Err(error) => {
                    log::debug!("cannot watch the listener from several threads: {error}");
                    return None;
                }
            },
        };
        acceptor.idle_ticks = 0;
        Some(acceptor)
    }

    pub(crate) fn put_back(&self, acceptor: IdleAcceptor) {
        self.waiters.lock().free.push(acceptor);
    }

    /// Somebody watches, from a seat or in another way.
    pub(crate) fn register(&self) {
        self.count.register();
    }

    /// Somebody does so no longer; returns whether nobody is left, and somebody relied on it.
    #[must_use]
    pub(crate) fn unregister(&self) -> bool {
        self.count.unregister()
    }

    /// Whether somebody watches. If so, the last one to leave says that nobody does.
    pub(crate) fn has_waiters(&self) -> bool {
        self.count.has_waiters()
    }
}

/// How many there are, and whether somebody has to be told when there are none.
#[derive(Debug, Default)]
struct WaiterCount {
    registered: AtomicUsize,
    relied_on: SleepFlag,
}

impl WaiterCount {
    fn register(&self) {
        self.registered.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether it was the last one, and somebody relied on it.
    #[must_use]
    fn unregister(&self) -> bool {
        self.registered.fetch_sub(1, Ordering::SeqCst) == 1 && self.relied_on.take()
    }

    fn has_waiters(&self) -> bool {
        self.relied_on.arm();
        self.registered.load(Ordering::SeqCst) > 0
    }
}

impl IdleAcceptor {
    /// Waits until somebody may have come; `false` when nobody did for the idle time at least, or
    /// the server stops.
    pub(crate) fn wait(&mut self) -> bool {
        loop {
            let wakeups = self.waiter.wait();
            self.idle_ticks += u32::from(wakeups.tick);
            if wakeups.shutdown {
                return false;
            } else if wakeups.listener {
                return true;
            } else if self.idle_ticks > 1 {
                // The first tick may have come at once.
                return false;
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::waker::ShutdownSignal;

    #[test]
    fn that_it_failed_once_keeps_nobody_from_watching() {
        let (watch, stop) = (IdleAcceptors::default(), ShutdownSignal::new().unwrap());
        // Nobody can wait for a file.
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(watch.take(file.as_fd(), stop.as_fd(), Duration::MAX).is_none());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(watch.take(listener.as_fd(), stop.as_fd(), Duration::MAX).is_some());
    }
}
