//! [`RawLock`]: who holds a lock. That is all of a lock that has to be right for memory safety; how
//! the others wait is a [`LockQueue`]'s business.
#![allow(unsafe_code)]

use std::fmt;
use std::time::{Duration, Instant};

use lock_api::{GuardNoSend, RawMutex as _, RawRwLock as _};

use crate::primitive::atomic::{AtomicUsize, Ordering};

/// A lock for one writer or many readers; a mutex is one that is only locked for writing.
///
/// Its state is a word: who holds it, and what its [`LockQueue`] notes there. The queue is safe code,
/// and may do with its bits what it likes. The others change in two places:
///
/// - [`Attempt`] acquires the lock, by one compare-and-swap of a word that says that this access is
///   compatible with the present holders.
/// - [`Held`] releases it. It exists only within `unlock` and its like, which are `unsafe` for the
///   caller to vouch for holding the lock.
pub struct RawLock<Q> {
    word: AtomicUsize,
    queue: Q,
}

/// A writer holds it.
const WRITER: usize = 1;
/// The queue is not empty.
const QUEUED: usize = 2;
/// Only those in the queue may acquire it.
const RESERVED: usize = 4;
/// The first in the queue was resumed, and has not tried to acquire it yet: no other one needs to be
/// resumed when it is released.
const RESUMED: usize = 8;
/// A reader holds it: the bits from here on count them.
const READER: usize = 16;

/// What a lock is wanted or held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
}

/// How those wait that cannot acquire a lock at once.
pub(crate) trait LockQueue: Send + Sync + 'static {
    const NEW: Self;

    /// Waits until the attempt has succeeded. With a deadline it may return without that, at the
    /// deadline or when the wait is interrupted.
    fn wait(&self, attempt: &mut Attempt<'_>, deadline: Option<Instant>);

    /// Releases the lock, and resumes those whose turn it is. Called when the queue was seen not to
    /// be empty.
    fn release(&self, held: Held<'_>);

    /// A writer has acquired the lock, or is about to release it.
    fn set_writer(&self, _holds: bool) {}
}

/// A thread or fiber that wants the lock.
pub(crate) struct Attempt<'a> {
    word: &'a AtomicUsize,
    access: Access,
    succeeded: bool,
}

impl<'a> Attempt<'a> {
    #[inline]
    fn new(word: &'a AtomicUsize, access: Access) -> Attempt<'a> {
        Attempt { word, access, succeeded: false }
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// For one in the queue whose turn it is: acquires the lock if it is free, also if it is
    /// reserved. `others` says whether the queue holds more than this one.
    pub(crate) fn take_turn(&mut self, others: bool) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while !self.succeeded {
            let acquired = self.access.acquire(word);
            let new = match acquired {
                Some(acquired) if others => acquired & !(RESERVED | RESUMED) | QUEUED,
                Some(acquired) => acquired & !(RESERVED | RESUMED | QUEUED),
                None => word & !RESUMED | QUEUED,
            };
            match self.exchange(word, new) {
                Ok(()) if acquired.is_some() => self.succeeded = true,
                Ok(()) => break,
                Err(now) => word = now,
            }
        }
        self.succeeded
    }

    /// The queue is empty: the one that made this attempt has given up.
    pub(crate) fn clear_queued(&self) {
        self.word.fetch_and(!QUEUED, Ordering::Relaxed);
    }

    /// For one outside of the queue.
    #[inline]
    fn barge(&mut self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & self.access.barred() == 0
            && let Some(acquired) = self.access.acquire(word)
        {
            match self.exchange(word, acquired) {
                Ok(()) => {
                    self.succeeded = true;
                    break;
                }
                Err(now) => word = now,
            }
        }
        self.succeeded
    }

    #[inline]
    fn exchange(&self, word: usize, new: usize) -> Result<(), usize> {
        let exchange = |success| {
            self.word.compare_exchange_weak(word, new, success, Ordering::Relaxed).map(drop)
        };
        exchange(Ordering::Acquire)
    }
}

impl Access {
    /// The word when this access has been added to it; `None` if it is not compatible with the
    /// present holders.
    #[inline]
    fn acquire(self, word: usize) -> Option<usize> {
        match self {
            Access::Write => (word & WRITER == 0 && word < READER).then_some(word | WRITER),
            // More readers than fit (each a guard that was leaked) wait for ever.
            Access::Read if word & WRITER == 0 => word.checked_add(READER),
            Access::Read => None,
        }
    }

    /// What keeps one from acquiring it that is not in the queue. Readers queue behind a waiting
    /// writer.
    #[inline]
    fn barred(self) -> usize {
        match self {
            Access::Write => RESERVED,
            Access::Read => RESERVED | QUEUED,
        }
    }

    #[inline]
    fn release(self, word: usize) -> usize {
        match self {
            Access::Write => word & !WRITER,
            Access::Read => word - READER,
        }
    }
}

/// The lock as held by the one that releases it.
pub(crate) struct Held<'a> {
    word: &'a AtomicUsize,
    access: Access,
}

/// Whether a lock that is released is kept for those in the queue.
pub(crate) struct Reserved(pub(crate) bool);

impl Held<'_> {
    /// Releases the lock. If it is free then, the caller resumes the first in the queue, if there is
    /// one, and others cannot acquire the lock before it if it is `reserved` for the queue. Returns
    /// whether it is free.
    pub(crate) fn release(self, queue: Option<Reserved>) -> bool {
        let notes = match queue {
            None => 0,
            Some(Reserved(false)) => RESUMED,
            Some(Reserved(true)) => RESUMED | RESERVED,
        };
        let release = |word| {
            let released = self.access.release(word);
            let is_free = released & WRITER == 0 && released < READER;
            (if is_free { released | notes } else { released }, is_free)
        };
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let (new, is_free) = release(word);
            let order = Ordering::Release;
            match self.word.compare_exchange_weak(word, new, order, Ordering::Relaxed) {
                Ok(_) => return is_free,
                Err(now) => word = now,
            }
        }
    }
}

#[allow(private_bounds, reason = "the queues are this crate's")]
impl<Q: LockQueue> RawLock<Q> {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use makes a new lock")]
    const NEW: RawLock<Q> = RawLock { word: AtomicUsize::new(0), queue: Q::NEW };

    #[inline]
    fn try_acquire(&self, access: Access) -> bool {
        self.acquired(access, Attempt::new(&self.word, access).barge())
    }

    #[inline]
    fn acquire(&self, access: Access) {
        let mut attempt = Attempt::new(&self.word, access);
        if !attempt.barge() {
            self.wait(&mut attempt);
        }
        self.acquired(access, true);
    }

    #[cold]
    #[inline(never)]
    fn wait(&self, attempt: &mut Attempt<'_>) {
        while !attempt.succeeded {
            self.queue.wait(attempt, None);
        }
    }

    #[inline]
    fn acquire_until(&self, access: Access, deadline: Option<Instant>) -> bool {
        let mut attempt = Attempt::new(&self.word, access);
        let succeeded = attempt.barge() || self.wait_until(&mut attempt, deadline);
        self.acquired(access, succeeded)
    }

    /// Without a deadline, until it succeeds.
    #[cold]
    #[inline(never)]
    fn wait_until(&self, attempt: &mut Attempt<'_>, deadline: Option<Instant>) -> bool {
        match deadline {
            Some(_) => self.queue.wait(attempt, deadline),
            None => self.wait(attempt),
        }
        attempt.succeeded
    }

    #[inline]
    fn acquired(&self, access: Access, succeeded: bool) -> bool {
        if succeeded && access == Access::Write {
            self.queue.set_writer(true);
        }
        succeeded
    }

    /// # Safety
    /// The caller holds the lock for `access`, and regards it as released from now on.
    #[inline]
    unsafe fn release(&self, access: Access) {
        if access == Access::Write {
            self.queue.set_writer(false);
        }
        let mut word = self.word.load(Ordering::Relaxed);
        // The last one to leave a lock with a queue has to resume the next, if nothing has yet.
        while word & (QUEUED | RESUMED) != QUEUED || word >= 2 * READER {
            let new = access.release(word);
            match self.word.compare_exchange_weak(word, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        self.release_to_queue(Held { word: &self.word, access });
    }

    #[cold]
    #[inline(never)]
    fn release_to_queue(&self, held: Held<'_>) {
        self.queue.release(held);
    }
}

/// From now on; `None` if the clock does not reach so far.
fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

// SAFETY: while one has locked it, no other one can.
//
// - A call of `lock` or `try_lock*` says that it has locked it only if its own `Attempt` has
//   succeeded. That has happened by a compare-and-swap of a word without `WRITER` and readers into
//   one with `WRITER` (`Access::acquire`).
// - Nothing removes `WRITER` but `Access::release`. It is called by `RawLock::release`, which is
//   private and `unsafe`, directly or through the one `Held` that it makes, which is used up by it.
//   That is once for each `unlock`, whose caller has locked it. All else that is written to the word
//   are `QUEUED`, `RESERVED` and `RESUMED`, and readers, of which there are none while `WRITER` is set.
// - The compare-and-swap that acquires has acquire ordering, the one that releases release ordering,
//   and every other change of the word in between is a read-modify-write, which continues the release
//   sequence: what the last holder wrote is seen by the next.
unsafe impl<Q: LockQueue> lock_api::RawMutex for RawLock<Q> {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use makes a new lock")]
    const INIT: RawLock<Q> = RawLock::NEW;

    /// A fiber is unlocked by the worker that it runs on, and a thread by itself.
    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock(&self) {
        self.acquire(Access::Write);
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.try_acquire(Access::Write)
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller of `unlock` holds the mutex, which is the lock for writing.
        unsafe { self.release(Access::Write) };
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WRITER != 0
    }
}

// SAFETY: as for `RawMutex`: `true` is returned only if the call's own `Attempt` has succeeded.
unsafe impl<Q: LockQueue> lock_api::RawMutexTimed for RawLock<Q> {
    type Duration = Duration;
    type Instant = Instant;

    #[inline]
    fn try_lock_for(&self, timeout: Duration) -> bool {
        self.try_lock() || self.acquire_until(Access::Write, after(timeout))
    }

    #[inline]
    fn try_lock_until(&self, deadline: Instant) -> bool {
        self.acquire_until(Access::Write, Some(deadline))
    }
}

// SAFETY: a writer excludes all others, and readers exclude writers.
//
// - For a writer see `RawMutex` above.
// - A reader has it only if its own `Attempt` has added `READER` to a word without `WRITER`, by one
//   compare-and-swap; the addition is checked, so the count does not overflow. As long as a reader is
//   counted, the word is at least `READER`, and no writer can acquire it (`Access::acquire`).
// - Nothing subtracts `READER` but `Access::release`, once for each `unlock_shared`, whose caller is
//   a reader: the count is that of the readers, and does not underflow.
// - The orderings are those of `RawMutex`; a writer's compare-and-swap sees the release of each
//   reader before it, since all of them are in one release sequence or were synchronised with.
unsafe impl<Q: LockQueue> lock_api::RawRwLock for RawLock<Q> {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use makes a new lock")]
    const INIT: RawLock<Q> = RawLock::NEW;

    type GuardMarker = GuardNoSend;

    #[inline]
    fn lock_shared(&self) {
        self.acquire(Access::Read);
    }

    #[inline]
    fn try_lock_shared(&self) -> bool {
        self.try_acquire(Access::Read)
    }

    #[inline]
    unsafe fn unlock_shared(&self) {
        // SAFETY: the caller of `unlock_shared` is a reader.
        unsafe { self.release(Access::Read) };
    }

    #[inline]
    fn lock_exclusive(&self) {
        self.acquire(Access::Write);
    }

    #[inline]
    fn try_lock_exclusive(&self) -> bool {
        self.try_acquire(Access::Write)
    }

    #[inline]
    unsafe fn unlock_exclusive(&self) {
        // SAFETY: the caller of `unlock_exclusive` is the writer.
        unsafe { self.release(Access::Write) };
    }

    #[inline]
    fn is_locked(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word & WRITER != 0 || word >= READER
    }

    #[inline]
    fn is_locked_exclusive(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WRITER != 0
    }
}

// SAFETY: as for `RawRwLock`: `true` is returned only if the call's own `Attempt` has succeeded.
unsafe impl<Q: LockQueue> lock_api::RawRwLockTimed for RawLock<Q> {
    type Duration = Duration;
    type Instant = Instant;

    #[inline]
    fn try_lock_shared_for(&self, timeout: Duration) -> bool {
        self.try_lock_shared() || self.acquire_until(Access::Read, after(timeout))
    }

    #[inline]
    fn try_lock_shared_until(&self, deadline: Instant) -> bool {
        self.acquire_until(Access::Read, Some(deadline))
    }

    #[inline]
    fn try_lock_exclusive_for(&self, timeout: Duration) -> bool {
        self.try_lock_exclusive() || self.acquire_until(Access::Write, after(timeout))
    }

    #[inline]
    fn try_lock_exclusive_until(&self, deadline: Instant) -> bool {
        self.acquire_until(Access::Write, Some(deadline))
    }
}

impl<Q> fmt::Debug for RawLock<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawLock")
    }
}
