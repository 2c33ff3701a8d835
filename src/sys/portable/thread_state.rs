//! What another thread of this process does is not known.

use std::convert::Infallible;
use std::fmt;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadId;

pub(crate) fn current_thread() -> ThreadId {
    ThreadId
}

/// It has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadState(Infallible);

impl ThreadState {
    pub(crate) fn of(_thread: ThreadId) -> Option<ThreadState> {
        None
    }
}

impl fmt::Display for ThreadState {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}
