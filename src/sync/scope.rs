//! [`scope`]: parts of a request that run at the same time.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::{fmt, io, mem};

use parking_lot::Mutex;

use super::current::suspends;
use super::{Activity, Current};
use crate::error::{Error, Result};
use crate::sys::job::Job;
use crate::sys::scope::{JobScope, run_scope};

/// Runs parts of a request at the same time, as [`std::thread::scope`] runs threads: on fibers of the same
/// worker where the caller is a handler under [`Fibers`](crate::Fibers), on threads elsewhere. They may
/// borrow from the caller, and have ended when this returns.
///
/// The first panic of a part that was not [joined](ScopedJoinHandle::join) goes on in the caller, after
/// all have ended.
///
/// A part belongs to the request: each of its waits ends when a stop is out of time, and at the end of a
/// [`Connection::within`](crate::Connection::within) in which the scope is. The scope itself waits for its
/// parts in any case. A fiber's worker goes on with others meanwhile.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use socketserver::{Connection, HandlerResult, sync};
///
/// /// Asks two upstreams at the same time.
/// fn handle(client: &mut Connection) -> HandlerResult {
///     let timeout = Duration::from_secs(3);
///     let (mut one, mut other) = (
///         client.connect("10.0.0.5:4000", timeout)?,
///         client.connect("10.0.0.6:4000", timeout)?,
///     );
///     let ask = |upstream: &mut Connection| -> std::io::Result<String> {
///         upstream.write_all(b"status\n")?;
///         let mut answer = String::new();
///         upstream.read_line(&mut answer)?;
///         Ok(answer)
///     };
///     let (one, other) = sync::scope(|scope| {
///         let part = scope.spawn(|| ask(&mut one))?;
///         let other = ask(&mut other)?;
///         let one = part.join().expect("it does not panic")?;
///         Ok::<_, socketserver::Error>((one, other))
///     })?;
///     Ok(write!(client, "{one}{other}")?)
/// }
/// ```
///
/// A part cannot outlive what it borrows, and two parts cannot write to one thing:
///
/// ```compile_fail,E0373
/// use socketserver::sync;
///
/// sync::scope(|scope| {
///     let inside = String::new();
///     scope.spawn(|| inside.len()).map(drop)
/// })?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// ```compile_fail,E0499
/// use socketserver::{Connection, sync};
///
/// fn handle(client: &mut Connection) -> socketserver::Result<()> {
///     sync::scope(|scope| {
///         scope.spawn(|| client.read_line(&mut String::new()))?;
///         scope.spawn(|| client.read_line(&mut String::new()))?;
///         Ok(())
///     })
/// }
/// ```
///
/// # Panics
/// With the panic of `call`, or else of a part.
pub fn scope<'env, R>(call: impl for<'scope> FnOnce(Scope<'scope, 'env>) -> R) -> R {
    let parent = Current::get();
    let shared = Arc::<Shared>::default();
    let on_end = {
        let parent = parent.clone();
        move || parent.unpark()
    };
    let wait = || parent.doing(Activity::Waiting, || parent.park_uninterrupted(None));
    let result = run_scope(shared.clone(), on_end, wait, |jobs| call(Scope(jobs)));
    for thread in mem::take(&mut *shared.threads.lock()) {
        // It has run its part.
        let _ = thread.join();
    }
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    if let Some(panic) = shared.panic.lock().take() {
        resume_unwind(panic);
    }
    result
}

/// What [`scope`] calls its closure with. Copies start parts of the same scope.
#[derive(Clone, Copy)]
pub struct Scope<'scope, 'env: 'scope>(&'scope JobScope<'scope, 'env, Arc<Shared>>);

#[derive(Default)]
struct Shared {
    /// The first one of a part that was not joined.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a part, which may borrow what was there before the scope. On a fiber's worker it runs when
    /// this one waits next, or yields. A part may start others of the same scope.
    ///
    /// ```
    /// use socketserver::sync;
    ///
    /// let mut numbers = [1, 2, 3];
    /// sync::scope(|scope| {
    ///     numbers.iter_mut().try_for_each(|number| scope.spawn(|| *number += 1).map(drop))
    /// })?;
    /// assert_eq!(numbers, [2, 3, 4]);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::System`] if no thread can be started, or there is no memory for the stack of a fiber. The
    /// part is dropped then.
    pub fn spawn<T: Send + 'scope>(
        self,
        call: impl FnOnce() -> T + Send + 'scope,
    ) -> Result<ScopedJoinHandle<'scope, T>> {
        let shared = self.0.context.clone();
        let outcome = Arc::new(Outcome { state: Mutex::default(), shared });
        let (theirs, part) = (outcome.clone(), Current::get().new_part());
        let job = self.0.job(move || {
            let result = part.run(|| catch_unwind(AssertUnwindSafe(call)));
            theirs.set(result);
        });
        self.start(job).map_err(Error::system("start a part of a request"))?;
        Ok(ScopedJoinHandle { outcome, scope: PhantomData })
    }

    fn start(self, job: Job) -> io::Result<()> {
        let job = match suspends() {
            Some((suspend, _)) => match suspend.start(job) {
                Ok(started) => return started,
                Err(job) => job,
            },
            None => job,
        };
        let builder = thread::Builder::new().name("request part".to_owned());
        let thread = builder.spawn(|| job.run())?;
        self.0.context.threads.lock().push(thread);
        Ok(())
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

/// Joins a part of a [`scope`]. The scope does so by itself if this is dropped.
#[must_use = "the panic of a part that is not joined goes on in the scope"]
pub struct ScopedJoinHandle<'scope, T> {
    outcome: Arc<Outcome<T>>,
    scope: PhantomData<&'scope ()>,
}

/// What a part has come to.
struct Outcome<T> {
    state: Mutex<State<T>>,
    shared: Arc<Shared>,
}

struct State<T> {
    result: Option<thread::Result<T>>,
    has_ended: bool,
    /// What joins it.
    joiner: Option<Arc<Current>>,
}

impl<T> Default for State<T> {
    fn default() -> State<T> {
        State { result: None, has_ended: false, joiner: None }
    }
}

impl<T> Outcome<T> {
    fn set(&self, result: thread::Result<T>) {
        let mut state = self.state.lock();
        (state.result, state.has_ended) = (Some(result), true);
        let joiner = state.joiner.take();
        drop(state);
        joiner.inspect(|joiner| joiner.unpark());
    }

    /// `None` if it has not ended, which then unparks `joiner`.
    fn take(&self, joiner: &Arc<Current>) -> Option<thread::Result<T>> {
        let mut state = self.state.lock();
        let result = state.result.take();
        if result.is_none() {
            state.joiner = Some(joiner.clone());
        }
        result
    }
}

impl<T> Drop for Outcome<T> {
    fn drop(&mut self) {
        if let Some(Err(panic)) = self.state.get_mut().result.take() {
            self.shared.panic.lock().get_or_insert(panic);
        }
    }
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits for the end of the part. Neither a stop nor a time limit ends this wait; they end those of
    /// the part.
    ///
    /// # Errors
    /// With the panic of the part, which then does not go on in the scope.
    pub fn join(self) -> thread::Result<T> {
        let current = Current::get();
        loop {
            if let Some(result) = self.outcome.take(&current) {
                return result;
            }
            current.doing(Activity::Waiting, || current.park_uninterrupted(None));
        }
    }

    /// Whether the part has ended, so that [`join`](ScopedJoinHandle::join) does not wait.
    pub fn is_finished(&self) -> bool {
        self.outcome.state.lock().has_ended
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle").field("is_finished", &self.is_finished()).finish()
    }
}
