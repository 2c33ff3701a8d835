//! Fibers: code that can be put aside in the middle, on a stack of its own, and gone on with later
//! on the same thread.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::mpsc::{self, TryRecvError};

use corosensei::{Coroutine, Yielder};

use super::prefetch::Span;
use super::stack::{Bounds, Stack};

/// Code on a stack of its own. It stays on the thread that made it.
pub(crate) struct Fiber {
    coroutine: ManuallyDrop<Coroutine<(), (), (), Stack>>,
    /// How far down its stack has been put aside.
    top: usize,
    bounds: Bounds,
}

thread_local! {
    /// The way out of the fiber that this thread is running; null while it runs none.
    static YIELDER: Cell<*const Yielder<(), ()>> = const { Cell::new(ptr::null()) };

    /// How far down its stack the fiber was that suspended itself last.
    static TOP: Cell<usize> = const { Cell::new(0) };
}

/// How much of its stack a fiber needs first, in bytes: what it takes to return from a wait, and a
/// handler's loop.
const WARM_BYTES: usize = 2048;

impl Fiber {
    pub(crate) fn new(stack: Stack, run: impl FnOnce() + 'static) -> Fiber {
        let bounds = stack.bounds();
        let coroutine = Coroutine::with_stack(stack, move |out: &Yielder<(), ()>, ()| {
            YIELDER.set(out);
            // Whatever comes of it, the worker goes on.
            let _ = catch_unwind(AssertUnwindSafe(run));
            YIELDER.set(ptr::null());
        });
        Fiber { coroutine: ManuallyDrop::new(coroutine), top: 0, bounds }
    }

    /// Runs it until it suspends itself, or ends; returns whether it has ended.
    pub(crate) fn resume(&mut self) -> bool {
        self.bounds.enter();
        let has_ended = self.coroutine.resume(()).as_return().is_some();
        self.top = TOP.get();
        has_ended
    }

    /// What of its stack it needs when it is resumed.
    pub(crate) fn top(&self) -> Span {
        Span::between(self.top, self.bounds.base().min(self.top + WARM_BYTES))
    }

    /// The stack of one that has ended; `None` before.
    pub(crate) fn into_stack(mut self) -> Option<Stack> {
        // SAFETY: it is taken once, and `forget` keeps `drop` from using it again.
        let coroutine = unsafe { ManuallyDrop::take(&mut self.coroutine) };
        std::mem::forget(self);
        if coroutine.done() {
            return Some(coroutine.into_stack());
        }
        std::mem::forget(coroutine);
        None
    }
}

impl Drop for Fiber {
    /// One that has not ended stays in memory for ever: what is on its stack may be in use
    /// elsewhere, as by [`run_scoped`], and a handler cannot be unwound against its will.
    fn drop(&mut self) {
        if self.coroutine.done() {
            // SAFETY: it is dropped here and nowhere else.
            unsafe { ManuallyDrop::drop(&mut self.coroutine) };
        }
    }
}

/// Suspends the fiber that this thread runs, until it is resumed; does nothing outside of one.
pub(crate) fn suspend() {
    let out = YIELDER.replace(ptr::null());
    // SAFETY: it was set by the fiber that this code is a part of, points to what lives on that
    // fiber's stack as long as the fiber does, and is null wherever that fiber is not running.
    if let Some(out) = unsafe { out.as_ref() } {
        TOP.set(&raw const out as usize);
        out.suspend(());
        YIELDER.set(out);
    }
}

/// Something to do on another thread.
pub(crate) struct Job(Box<dyn FnOnce() + Send>);

impl Job {
    pub(crate) fn new(call: impl FnOnce() + Send + 'static) -> Job {
        Job(Box::new(call))
    }

    pub(crate) fn run(self) {
        (self.0)();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// Calls `call` wherever `start` has the job done, and returns when that has ended: `wait` is
/// called, again and again, until then, and `end` at the end of the job.
///
/// `call` may borrow from the caller, as in [`std::thread::scope`].
pub(crate) fn run_scoped<T: Send>(
    call: impl FnOnce() -> T + Send,
    end: impl FnOnce() + Send + 'static,
    start: impl FnOnce(Job),
    wait: impl Fn(),
) -> std::thread::Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let job = move || {
        let result = catch_unwind(AssertUnwindSafe(call));
        // Here ends all use of what the caller has lent.
        let _ = sender.send(result);
        end();
    };
    let job: Box<dyn FnOnce() + Send + '_> = Box::new(job);
    // SAFETY: the two types differ in how long what is borrowed must live. It lives until this
    // function returns, and that is after the result has come, or the job been dropped.
    let job = Job(unsafe {
        std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Box<dyn FnOnce() + Send>>(job)
    });
    // Not even a panic may end this function early.
    let _ = catch_unwind(AssertUnwindSafe(|| start(job)));
    loop {
        match receiver.try_recv() {
            Ok(result) => return result,
            Err(TryRecvError::Empty) if catch_unwind(AssertUnwindSafe(&wait)).is_ok() => {}
            Err(_) => return receiver.recv().unwrap_or_else(|_| Err(Box::new("the job was lost"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn fiber(run: impl FnOnce() + 'static) -> Fiber {
        Fiber::new(Stack::new(128 * 1024).unwrap(), run)
    }

    #[test]
    fn fibers_take_turns_where_they_suspend_themselves() {
        let said = Rc::new(RefCell::new(Vec::new()));
        let says = |name: &'static str| {
            let said = said.clone();
            fiber(move || {
                for count in 1..=3 {
                    said.borrow_mut().push((name, count));
                    suspend();
                }
            })
        };
        let (mut one, mut other) = (says("one"), says("other"));
        while !(one.resume() | other.resume()) {
            // Nobody is suspended who is no fiber.
            suspend();
        }
        let expected: Vec<_> =
            (1..=3).flat_map(|count| [("one", count), ("other", count)]).collect();
        assert_eq!(*said.borrow(), expected);
    }

    #[test]
    fn a_stack_comes_back_from_a_fiber_that_has_ended_even_by_a_panic() {
        let mut fiber = fiber(|| {
            suspend();
            panic!("as it should");
        });
        assert!(!fiber.resume());
        assert!(fiber.resume());
        let stack = fiber.into_stack().unwrap();
        let mut next = Fiber::new(stack, || ());
        assert!(next.resume());
    }

    #[test]
    fn what_is_on_a_stack_that_is_in_use_is_never_dropped() {
        let in_use = Rc::new(());
        let waits = || {
            let in_use = in_use.clone();
            let mut fiber = fiber(move || {
                suspend();
                drop(in_use);
            });
            assert!(!fiber.resume());
            fiber
        };
        drop(waits());
        assert!(waits().into_stack().is_none());
        assert_eq!(Rc::strong_count(&in_use), 3);
    }

    /// As [`run_scoped`], with a thread for each job.
    fn on_a_thread<T: Send>(call: impl FnOnce() -> T + Send, wait: impl Fn()) -> thread::Result<T> {
        run_scoped(call, || (), |job| drop(thread::spawn(|| job.run())), wait)
    }

    #[test]
    fn a_job_may_borrow_and_its_panic_is_its_result() {
        let mut word = "hello".to_owned();
        let length = on_a_thread(
            || {
                word.push('!');
                word.len()
            },
            thread::yield_now,
        );
        assert_eq!((length.unwrap(), &*word), (6, "hello!"));
        let panic = on_a_thread(|| panic!("as it should"), thread::yield_now).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"as it should"));
    }

    #[test]
    fn a_job_that_is_dropped_is_an_error() {
        let panics = |_| panic!("as it should");
        for start in [drop as fn(Job), panics] {
            let result = run_scoped(|| (), || unreachable!(), start, || unreachable!());
            assert_eq!(result.unwrap_err().downcast_ref(), Some(&"the job was lost"));
        }
    }

    #[test]
    fn nothing_returns_before_the_job_has_ended() {
        let (lent, panics) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = || {
            while panics.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            lent.fetch_add(1, Ordering::SeqCst);
        };
        let start = |job: Job| {
            thread::spawn(|| job.run());
            panic!("as it should");
        };
        let wait = || {
            panics.fetch_add(1, Ordering::SeqCst);
            panic!("as it should");
        };
        run_scoped(call, || (), start, wait).unwrap();
        assert_eq!((lent.into_inner(), panics.into_inner()), (1, 1));
    }
}
