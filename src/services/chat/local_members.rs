//! The members of a room on this server: [`LocalMembers`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::{Broadcast, MemberId};

/// The members of a room on this server, to whom a [`Backplane`](super::Backplane) delivers lines.
/// Clones share the same members.
#[derive(Clone, Default)]
pub struct LocalMembers {
    members: Broadcast,
    observer: Arc<OnceLock<Mutex<Observer>>>,
}

pub(super) type Observer = Box<dyn FnMut(&str) + Send>;

impl LocalMembers {
    /// Sends a line, given without its end, to all members but its author.
    ///
    /// `author` is the author's number on this server, [`Member::id`](crate::Member::id). `None`:
    /// the line has no author, or one on another server.
    pub fn deliver(&self, line: &str, author: Option<MemberId>) {
        let line_with_end = [line, "\r\n"].concat();
        // Sent under the observer's lock, so that it sees lines in the members' order. Sent before
        // the observer is called, so that a member that joins after the call does not receive it.
        let mut observer = self.observer.get().map(Mutex::lock);
        match author {
            Some(author) => self.members.send_except(author, line_with_end),
            None => self.members.send(line_with_end),
        }
        if let Some(observer) = &mut observer
            && catch_unwind(AssertUnwindSafe(|| observer(line))).is_err()
        {
            // `deliver` may run while a panic unwinds, where a second panic aborts the process.
            log::error!("the chat's observer panicked at {line:?}");
        }
    }

    /// The broadcast that sends to the members.
    pub fn broadcast(&self) -> &Broadcast {
        &self.members
    }

    /// Sets the observer. A later one replaces it.
    pub(super) fn observe(&self, observer: Observer) {
        if let Err(later) = self.observer.set(Mutex::new(observer))
            && let Some(earlier) = self.observer.get()
        {
            *earlier.lock() = later.into_inner();
        }
    }
}

impl fmt::Debug for LocalMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalMembers").field(&self.members).finish()
    }
}
