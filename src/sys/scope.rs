//! [`run_scope`]: jobs that borrow from the code that waits for them, as the threads of
//! [`std::thread::scope`] do.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fmt, mem};

use super::job::Job;

/// Makes jobs that may borrow what outlives `'scope`. [`run_scope`] returns after all of them.
pub(crate) struct JobScope<'scope, 'env: 'scope, C> {
    pub(crate) context: C,
    unfinished: Arc<Unfinished>,
    /// Invariant, as in std: else a job could borrow what lives shorter than the scope.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// The jobs that were neither run to their end nor dropped.
struct Unfinished {
    count: AtomicUsize,
    on_end: Box<dyn Fn() + Send + Sync>,
}

/// One of them.
struct Ticket(Arc<Unfinished>);

impl Ticket {
    fn new(unfinished: &Arc<Unfinished>) -> Ticket {
        unfinished.count.fetch_add(1, Ordering::SeqCst);
        Ticket(unfinished.clone())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        // From here on what the job has borrowed may be gone.
        (self.0.on_end)();
    }
}

/// Fields are dropped in this order: a job that is dropped without being run drops the call before
/// its ticket.
struct ScopedJob<F> {
    call: F,
    ticket: Ticket,
}

impl<F: FnOnce()> ScopedJob<F> {
    fn run(self) {
        let ScopedJob { call, ticket } = self;
        // The call is consumed here, a panic included.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            // Its destructor might panic.
            mem::forget(panic);
        }
        drop(ticket);
    }
}

/// Calls `call`, and returns what it has returned, or its panic, when all jobs have ended that were
/// made from its argument. Until then `wait` is called in a loop. `on_end` is called at the end of each
/// job.
pub(crate) fn run_scope<'env, C, R>(
    context: C,
    on_end: impl Fn() + Send + Sync + 'static,
    wait: impl Fn(),
    call: impl for<'scope> FnOnce(&'scope JobScope<'scope, 'env, C>) -> R,
) -> std::thread::Result<R> {
    let unfinished = Unfinished { count: AtomicUsize::new(0), on_end: Box::new(on_end) };
    let scope = JobScope {
        context,
        unfinished: Arc::new(unfinished),
        scope: PhantomData,
        env: PhantomData,
    };
    // No panic leaves this function before the jobs have ended: see `JobScope::job`.
    let result = catch_unwind(AssertUnwindSafe(|| call(&scope)));
    while scope.unfinished.count.load(Ordering::SeqCst) > 0 {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(&wait)) {
            mem::forget(panic);
        }
    }
    result
}

impl<'scope, C> JobScope<'scope, '_, C> {
    /// A job that calls `call`, for any thread or fiber. A panic of it is lost.
    pub(crate) fn job(&'scope self, call: impl FnOnce() + Send + 'scope) -> Job {
        let job = ScopedJob { call, ticket: Ticket::new(&self.unfinished) };
        let run: Box<dyn FnOnce() + Send + 'scope> = Box::new(move || job.run());
        // SAFETY: the two types differ in the lifetime of what `call` borrows, and nothing else.
        //
        // Everything that `call` borrows lives until `'scope` ends. `'scope` is chosen by `run_scope`,
        // which calls its argument for every `'scope`, and lends it `scope` for `'scope`: so it does not
        // end before `run_scope` is left. That is after the count of tickets was found to be 0, with no
        // other way out: it returns behind the loop only, and the panics of `call` and `wait` are
        // caught. A fiber on which it waits is never unwound from outside; it is leaked, and `'scope`
        // then never ends (`Drop for Fiber`).
        //
        // This job's ticket is counted from here until the job has let go of `call`: it was consumed, or
        // dropped without being run, before the ticket is dropped (`ScopedJob`). What is left of the job
        // after that is its box, whose memory is freed, the `Arc` of the ticket, and `on_end`, none of
        // which borrows. A job that is leaked keeps its ticket, and `run_scope` does not return.
        //
        // The count cannot rise again after it was found to be 0: a ticket is made with a `&'scope self`,
        // which only the argument of `run_scope` has had, which has returned, and jobs, which have ended.
        Job(unsafe {
            mem::transmute::<Box<dyn FnOnce() + Send + 'scope>, Box<dyn FnOnce() + Send>>(run)
        })
    }
}

impl<C> fmt::Debug for JobScope<'_, '_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobScope({})", self.unfinished.count.load(Ordering::SeqCst))
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::panic::resume_unwind;
    use std::sync::Mutex;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn scope<'env, R>(
        call: impl for<'scope> FnOnce(&'scope JobScope<'scope, 'env, ()>) -> R,
    ) -> thread::Result<R> {
        run_scope((), || (), thread::yield_now, call)
    }

    /// Adds one to a number when it is dropped, slowly.
    struct Slow<'a>(&'a AtomicUsize);

    impl Drop for Slow<'_> {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(20));
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn jobs_may_borrow_and_start_others() {
        let (mut text, log) = ("hello".to_owned(), Mutex::new(Vec::new()));
        scope(|jobs| {
            let first = jobs.job(|| {
                text.push('!');
                let second = jobs.job(|| log.lock().unwrap().push("second"));
                thread::spawn(|| second.run());
                log.lock().unwrap().push("first");
            });
            thread::spawn(|| first.run());
        })
        .unwrap();
        let mut log = log.into_inner().unwrap();
        log.sort_unstable();
        assert_eq!((&*text, log), ("hello!", vec!["first", "second"]));
    }

    #[test]
    fn all_jobs_are_waited_for_whatever_panics_and_however_they_end() {
        let ended = AtomicUsize::new(0);
        let waits = AtomicUsize::new(0);
        let wait = || {
            waits.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            panic!("as it should");
        };
        let result = run_scope(
            (),
            || (),
            wait,
            |jobs| {
                let (slow, waits) = (Slow(&ended), &waits);
                let runs = jobs.job(move || {
                    while waits.load(Ordering::SeqCst) == 0 {
                        thread::yield_now();
                    }
                    drop(slow);
                });
                thread::spawn(|| runs.run());
                let slow = Slow(&ended);
                let panics = jobs.job(move || {
                    let _slow = slow;
                    panic!("as it should");
                });
                thread::spawn(|| panics.run());
                let slow = Slow(&ended);
                let is_dropped = jobs.job(move || drop(slow));
                thread::spawn(|| drop(is_dropped));
                panic!("of the scope");
            },
        );
        let panic = result.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"of the scope"));
        assert_eq!(ended.into_inner(), 3);
        assert!(waits.into_inner() > 0);
        let caught = catch_unwind(|| scope(|_| resume_unwind(Box::new(1))).unwrap());
        assert!(caught.is_err());
    }
}
