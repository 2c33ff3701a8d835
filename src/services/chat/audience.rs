//! Those who hear a room at this server: [`Audience`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::{Broadcast, MemberId};

/// Those who hear a room at this server: where a [`Backplane`](super::Backplane) delivers what was
/// said. Clones are the same audience.
#[derive(Clone, Default)]
pub struct Audience {
    members: Broadcast,
    observer: Arc<OnceLock<Mutex<Observer>>>,
}

pub(super) type Observer = Box<dyn FnMut(&str) + Send>;

impl Audience {
    /// Has everybody read a line, given without its end, but for the member of the number `author`,
    /// whose line it is. `None`: it is nobody's, or that of somebody at another server.
    pub fn deliver(&self, line: &str, author: Option<MemberId>) {
        let with_its_end = [line, "\r\n"].concat();
        // Sent under the observer's lock: it sees what the members see, in the same order. And sent
        // first: whoever joins after the observer has seen it is not told again.
        let mut observer = self.observer.get().map(Mutex::lock);
        match author {
            Some(author) => self.members.send_except(author, with_its_end),
            None => self.members.send(with_its_end),
        }
        if let Some(observer) = &mut observer
            && catch_unwind(AssertUnwindSafe(|| observer(line))).is_err()
        {
            // This may be running because of a panic, and a second one would end the process.
            log::error!("the chat's observer panicked at {line:?}");
        }
    }

    /// The broadcast behind it.
    pub fn members(&self) -> &Broadcast {
        &self.members
    }

    /// Whoever was set last observes.
    pub(super) fn observe(&self, observer: Observer) {
        if let Err(later) = self.observer.set(Mutex::new(observer))
            && let Some(earlier) = self.observer.get()
        {
            *earlier.lock() = later.into_inner();
        }
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Audience").field(&self.members).finish()
    }
}
