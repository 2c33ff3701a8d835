//! [`WaitQueue`]: threads and fibers that wait for their turn, FIFO.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Current, Interrupted};
use crate::primitive::Mutex;
use crate::primitive::atomic::{AtomicBool, AtomicUsize, Ordering};

/// One wait of a thread or fiber.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) current: Arc<Current>,
    granted: AtomicBool,
}

impl Waiter {
    pub(super) fn new(current: &Arc<Current>) -> Arc<Waiter> {
        Arc::new(Waiter { current: current.clone(), granted: AtomicBool::new(false) })
    }

    /// Ends the wait. Called by the one that has taken the waiter out of its queue.
    pub(super) fn grant(&self) {
        self.granted.store(true, Ordering::SeqCst);
        self.current.unpark();
    }

    /// Waits until it is granted. After an error it may still be, until it is out of its queue.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<(), Interrupted> {
        while !self.granted.load(Ordering::SeqCst) {
            self.current.park(deadline)?;
        }
        Ok(())
    }
}

/// A queue of waiters that others grant one by one, or all at once. That costs one load if there are
/// none.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    /// How many there are in `entries`.
    count: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    waiters: VecDeque<Arc<Waiter>>,
    /// Unparked whenever a waiter would be granted, and otherwise left alone.
    observers: Vec<Arc<Current>>,
}

impl WaitQueue {
    pub(super) const fn new() -> WaitQueue {
        let entries = Entries { waiters: VecDeque::new(), observers: Vec::new() };
        WaitQueue { count: AtomicUsize::new(0), entries: Mutex::new(entries) }
    }

    pub(super) fn push_back(&self, waiter: Arc<Waiter>) {
        self.change(|entries| entries.waiters.push_back(waiter));
    }

    /// For one that was granted, and came too late.
    pub(super) fn push_front(&self, waiter: Arc<Waiter>) {
        self.change(|entries| entries.waiters.push_front(waiter));
    }

    /// Takes a waiter out. `false` if it was not in the queue: then it is granted.
    pub(super) fn remove(&self, waiter: &Arc<Waiter>) -> bool {
        self.change(|entries| take(&mut entries.waiters, waiter))
    }

    pub(super) fn add_observer(&self, current: &Arc<Current>) {
        self.change(|entries| entries.observers.push(current.clone()));
    }

    pub(super) fn remove_observer(&self, current: &Arc<Current>) {
        self.change(|entries| {
            let position = entries.observers.iter().position(|other| Arc::ptr_eq(other, current));
            position.map(|position| entries.observers.swap_remove(position))
        });
    }

    /// Grants the first waiter; returns whether there was one.
    #[inline]
    pub(super) fn grant_one(&self) -> bool {
        !self.is_empty() && self.grant_first()
    }

    #[cold]
    #[inline(never)]
    fn grant_first(&self) -> bool {
        let (first, observers) =
            self.change(|entries| (entries.waiters.pop_front(), entries.observers.clone()));
        observers.iter().for_each(|observer| observer.unpark());
        first.inspect(|waiter| waiter.grant()).is_some()
    }

    /// Grants all waiters; returns how many there were.
    pub(super) fn grant_all(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let (waiters, observers) = self
            .change(|entries| (std::mem::take(&mut entries.waiters), entries.observers.clone()));
        observers.iter().for_each(|observer| observer.unpark());
        waiters.iter().for_each(|waiter| waiter.grant());
        waiters.len()
    }

    /// To be called after the change that waiters wait for, and which they look at again when they
    /// are in the queue: one of both sees the other (no lost wake-up).
    #[inline]
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn change<R>(&self, change: impl FnOnce(&mut Entries) -> R) -> R {
        let mut entries = self.entries.lock();
        let result = change(&mut entries);
        // A read-modify-write, so that later loads of this thread do not come before it.
        self.count.swap(entries.waiters.len() + entries.observers.len(), Ordering::SeqCst);
        result
    }
}

/// Takes a waiter out of a queue; returns whether it was there.
pub(super) fn take<T>(queue: &mut VecDeque<Arc<T>>, waiter: &Arc<T>) -> bool {
    let position = queue.iter().position(|other| Arc::ptr_eq(other, waiter));
    position.and_then(|position| queue.remove(position)).is_some()
}
