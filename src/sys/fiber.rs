//! Fibers: code that runs on a stack of its own, suspends itself, and is resumed later on the same
//! thread. Also [`run_scoped`], by which a fiber has another thread run code that borrows from it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::mpsc::{self, TryRecvError};

use corosensei::{Coroutine, Yielder};

pub(crate) use super::job::Job;
use super::prefetch::Span;
use super::stack::{Bounds, Stack};

/// A function that runs on a stack of its own. It stays on the thread that made it.
pub(crate) struct Fiber {
    coroutine: ManuallyDrop<Coroutine<(), (), (), Stack>>,
    /// The lowest stack address in use when the fiber last suspended itself.
    top: usize,
    bounds: Bounds,
}

thread_local! {
    /// The yielder of the fiber that this thread is running; null while it runs none.
    static YIELDER: Cell<*const Yielder<(), ()>> = const { Cell::new(ptr::null()) };

    /// The lowest stack address in use of the fiber that suspended itself last.
    static TOP: Cell<usize> = const { Cell::new(0) };
}

/// How much of its stack a resumed fiber touches first, in bytes: the frames that return from a
/// wait, and the handler's loop.
const WARM_BYTES: usize = 2048;

impl Fiber {
    pub(crate) fn new(stack: Stack, run: impl FnOnce() + 'static) -> Fiber {
        let bounds = stack.bounds();
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
            YIELDER.set(yielder);
            // A panic must not unwind into the worker.
            let _ = catch_unwind(AssertUnwindSafe(run));
            YIELDER.set(ptr::null());
        });
        Fiber { coroutine: ManuallyDrop::new(coroutine), top: bounds.base(), bounds }
    }

    /// Runs the fiber until it suspends itself or ends; returns whether it has ended.
    pub(crate) fn resume(&mut self) -> bool {
        self.bounds.enter();
        let has_ended = self.coroutine.resume(()).as_return().is_some();
        self.top = TOP.get();
        has_ended
    }

    /// The part of its stack that it touches first when it is resumed.
    pub(crate) fn top(&self) -> Span {
        Span::between(self.top, self.bounds.base().min(self.top + WARM_BYTES))
    }

    /// The stack of a fiber that has ended. `None` for another, which is leaked, as by `drop`.
    pub(crate) fn into_stack(mut self) -> Option<Stack> {
        // SAFETY: the coroutine is taken once: this function owns `self`, and forgets it in the
        // next line, so that neither `drop` nor other code uses the field again.
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
    /// A fiber that has not ended is leaked with its stack: another thread may use what is on the
    /// stack, as in [`run_scoped`], and a handler cannot be unwound from outside.
    fn drop(&mut self) {
        if self.coroutine.done() {
            // SAFETY: `drop` is called once, and nothing can use the field after it. (`into_stack`
            // forgets `self`, so that it never comes here.)
            unsafe { ManuallyDrop::drop(&mut self.coroutine) };
        }
    }
}

/// Suspends the fiber that this thread is running until it is resumed. Does nothing if the thread
/// runs none.
pub(crate) fn suspend() {
    let yielder = YIELDER.replace(ptr::null());
    // SAFETY: the pointer is null, or a fiber of this thread stored it: when it began, or, below,
    // when it was resumed. The yielder lives on that fiber's stack until the fiber ends. A fiber
    // leaves null when it suspends itself (the line above) and when it ends, a panic included (see
    // `Fiber::new`). So a pointer that is not null belongs to the fiber that runs this code.
    if let Some(yielder) = unsafe { yielder.as_ref() } {
        TOP.set(&raw const yielder as usize);
        yielder.suspend(());
        YIELDER.set(yielder);
    }
}

/// A call and the channel for its result. Fields are dropped in this order: a job that is dropped
/// without being run drops the call before it closes the channel.
struct ScopedCall<F, T> {
    call: F,
    sender: mpsc::SyncSender<std::thread::Result<T>>,
}

impl<F: FnOnce() -> T, T> ScopedCall<F, T> {
    fn run(self) {
        let ScopedCall { call, sender } = self;
        let result = catch_unwind(AssertUnwindSafe(call));
        let _ = sender.send(result);
    }
}

/// Gives `start` a job that calls `call`, and returns the result of `call`, or its panic. Until the
/// job has ended, `wait` is called in a loop. The job calls `end` last. A job that is dropped
/// without being run is an `Err`.
///
/// `call` may borrow from the caller, as in [`std::thread::scope`].
pub(crate) fn run_scoped<T: Send>(
    call: impl FnOnce() -> T + Send,
    end: impl FnOnce() + Send + 'static,
    start: impl FnOnce(Job),
    wait: impl Fn(),
) -> std::thread::Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let call = ScopedCall { call, sender };
    let job = move || {
        call.run();
        end();
    };
    let job: Box<dyn FnOnce() + Send + '_> = Box::new(job);
    // SAFETY: the two types differ in the lifetime of what `call` and its result borrow, and
    // nothing else. That outlives every use, because this function does not return before one of
    // two things has happened. Either the result was received: `call` was consumed, and its result
    // moved here, before that. Or the channel was closed without a result: the job was dropped,
    // and `call` before the channel (see `ScopedCall`). No panic leaves this function early: those
    // of `start` and `wait` are caught.
    let job = Job(unsafe {
        std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Box<dyn FnOnce() + Send>>(job)
    });
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
    fn suspended_fibers_resume_where_they_suspended_themselves() {
        let log = Rc::new(RefCell::new(Vec::new()));
        let counts = |name: &'static str| {
            let log = log.clone();
            fiber(move || {
                for count in 1..=3 {
                    log.borrow_mut().push((name, count));
                    suspend();
                }
            })
        };
        let (mut one, mut other) = (counts("one"), counts("other"));
        while !(one.resume() | other.resume()) {
            // Outside of a fiber it does nothing.
            suspend();
        }
        let expected: Vec<_> =
            (1..=3).flat_map(|count| [("one", count), ("other", count)]).collect();
        assert_eq!(*log.borrow(), expected);
    }

    #[test]
    fn the_stack_of_an_ended_fiber_can_be_reused_even_after_a_panic() {
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
    fn a_suspended_fiber_is_leaked_with_what_is_on_its_stack() {
        let in_use = Rc::new(());
        let suspended = || {
            let in_use = in_use.clone();
            let mut fiber = fiber(move || {
                suspend();
                drop(in_use);
            });
            assert!(!fiber.resume());
            fiber
        };
        drop(suspended());
        assert!(suspended().into_stack().is_none());
        assert_eq!(Rc::strong_count(&in_use), 3);
    }

    /// As [`run_scoped`], with a thread for each job.
    fn on_a_thread<T: Send>(call: impl FnOnce() -> T + Send, wait: impl Fn()) -> thread::Result<T> {
        run_scoped(call, || (), |job| drop(thread::spawn(|| job.run())), wait)
    }

    #[test]
    fn a_job_may_borrow_and_its_panic_is_its_result() {
        let mut text = "hello".to_owned();
        let length = on_a_thread(
            || {
                text.push('!');
                text.len()
            },
            thread::yield_now,
        );
        assert_eq!((length.unwrap(), &*text), (6, "hello!"));
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
    fn run_scoped_returns_after_the_call_of_a_dropped_job_was_dropped() {
        struct SlowToDrop<'a>(&'a AtomicUsize);
        impl Drop for SlowToDrop<'_> {
            fn drop(&mut self) {
                thread::sleep(std::time::Duration::from_millis(20));
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let drops = AtomicUsize::new(0);
        let captured = SlowToDrop(&drops);
        let call = move || drop(captured);
        let start = |job: Job| drop(thread::spawn(move || drop(job)));
        run_scoped(call, || (), start, thread::yield_now).unwrap_err();
        assert_eq!(drops.into_inner(), 1);
    }

    #[test]
    fn run_scoped_returns_after_the_job_has_ended_even_if_start_and_wait_panic() {
        let (borrowed, panics) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = || {
            while panics.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            borrowed.fetch_add(1, Ordering::SeqCst);
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
        assert_eq!((borrowed.into_inner(), panics.into_inner()), (1, 1));
    }
}
