//! [`IdleAcceptors`]: idle threads that wait for the listener beside the acceptor, so that a
//! connection is accepted by the thread that serves it.

use std::io;

use crate::primitive::atomic::{AtomicUsize, Ordering};
use crate::primitive::{Mutex, SleepFlag};
use crate::sys::poller::{ExclusiveWaiter, ListenerWaiter};

#[cfg(all(test, shuttle))]
mod model;

/// How many threads may wait. With one, each accept would have to wake the acceptor to take over;
/// with many, connections would go around among threads with cold caches.
const MAX_IDLE_ACCEPTORS: usize = 4;

/// The threads that wait for the listener beside the acceptor.
#[derive(Debug, Default)]
pub(super) struct IdleAcceptors {
    unused: Mutex<Unused>,
    count: WaiterCount,
}

#[derive(Debug, Default)]
struct Unused {
    acceptors: Vec<IdleAcceptor>,
    /// How many there are, used or not.
    created: usize,
}

/// What an idle thread waits with.
#[derive(Debug)]
pub(super) struct IdleAcceptor {
    waiter: ExclusiveWaiter,
    /// How many of its timer's ticks have passed without a request.
    idle_ticks: u32,
}

impl IdleAcceptors {
    /// `None` when there are enough of them. The interval of its timer is to be the idle time.
    pub(super) fn take(
        &self,
        new: impl FnOnce() -> io::Result<ExclusiveWaiter>,
    ) -> Option<IdleAcceptor> {
        let mut unused = self.unused.lock();
        if let Some(mut acceptor) = unused.acceptors.pop() {
            acceptor.idle_ticks = 0;
            return Some(acceptor);
        }
        if unused.created == MAX_IDLE_ACCEPTORS {
            return None;
        }
        match new() {
            Ok(waiter) => {
                unused.created += 1;
                Some(IdleAcceptor { waiter, idle_ticks: 0 })
            }
            // The next idle thread tries again: there may be descriptors then. With a listener that
            // epoll(7) cannot wait for, these are a few system calls in vain.
            Err(error) => {
                log::debug!("idle threads cannot wait for the listener: {error}");
                None
            }
        }
    }

    /// In a forked child: those that are left wait for the parent's shutdown, and must not be used.
    pub(super) fn become_child(&self) {
        *self.unused.lock() = Unused::default();
    }

    pub(super) fn put_back(&self, acceptor: IdleAcceptor) {
        self.unused.lock().acceptors.push(acceptor);
    }

    /// Adds a waiter, with an [`IdleAcceptor`] or its own epoll.
    pub(super) fn register(&self) {
        self.count.register();
    }

    /// Removes a waiter. True if it was the last one, and the acceptor relied on it.
    #[must_use]
    pub(super) fn unregister(&self) -> bool {
        self.count.unregister()
    }

    /// Whether there are any. If so, the acceptor relies on them until the last one unregisters.
    pub(super) fn has_waiters(&self) -> bool {
        self.count.has_waiters()
    }
}

#[derive(Debug, Default)]
struct WaiterCount {
    registered: AtomicUsize,
    /// Armed while the acceptor leaves the listener to the waiters.
    relied_on: SleepFlag,
}

impl WaiterCount {
    fn register(&self) {
        self.registered.fetch_add(1, Ordering::SeqCst);
    }

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
    pub(super) fn listener_waiter(&self) -> ListenerWaiter {
        self.waiter.listener_waiter()
    }

    /// Waits until a connection may be pending. False when none was for one to two intervals of the
    /// timer, or the server stops.
    pub(super) fn wait(&mut self) -> bool {
        loop {
            let wakeups = self.waiter.wait();
            self.idle_ticks += u32::from(wakeups.tick);
            if wakeups.shutdown {
                return false;
            } else if wakeups.listener {
                return true;
            } else if self.idle_ticks > 1 {
                // The timer was running before this wait: its first tick says nothing.
                return false;
            }
        }
    }
}

#[cfg(all(test, not(shuttle), target_os = "linux", not(socketserver_portable)))]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::time::Duration;

    use super::*;
    use crate::sys::waker::ShutdownSignal;

    #[test]
    fn a_listener_that_cannot_be_waited_for_does_not_use_up_the_idle_acceptors() {
        let (idle, shutdown) = (IdleAcceptors::default(), ShutdownSignal::new().unwrap());
        // epoll(7) refuses a regular file.
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let waiter = |listener: BorrowedFd<'_>| {
            let waiter = ExclusiveWaiter::new(shutdown.as_fd(), Duration::MAX)?;
            waiter.listener_waiter().add(listener)?;
            Ok(waiter)
        };
        for _ in 0..2 * MAX_IDLE_ACCEPTORS {
            assert!(idle.take(|| waiter(file.as_fd())).is_none());
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(idle.take(|| waiter(listener.as_fd())).is_some());
    }
}
