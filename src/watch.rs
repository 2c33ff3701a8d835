//! Several threads waiting for one listener, of which each newcomer wakes one: [`Watch`].

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::sys::wait::Exclusive;

/// How many may watch. One would do, and whenever it has found somebody the thread whose turn it
/// is would have to wake up; with a few, one is most often left. They take turns, so that with
/// many their caches would be cold.
const MOST: usize = 4;

/// The threads that watch a listener, and what makes one of them the last.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seats: Mutex<Seats>,
    taken: AtomicUsize,
    /// Nobody else looks at the listener.
    is_relied_on: AtomicBool,
}

#[derive(Debug, Default)]
struct Seats {
    free: Vec<Seat>,
    made: usize,
    /// The listener cannot be watched this way.
    none: bool,
}

/// A place to watch from.
#[derive(Debug)]
pub(crate) struct Seat(Exclusive);

/// What one saw from it.
pub(crate) enum Seen {
    /// The listener may have somebody.
    Something,
    Nothing,
    Stop,
}

impl Watch {
    /// `None` when there are enough who watch.
    pub(crate) fn take_seat(&self, listener: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> Option<Seat> {
        let mut seats = self.seats.lock();
        let seat = match seats.free.pop() {
            Some(seat) => seat,
            None if seats.made == MOST || seats.none => return None,
            None => match Exclusive::new(listener, stop) {
                Ok(exclusive) => {
                    seats.made += 1;
                    Seat(exclusive)
                }
                Err(error) => {
                    log::debug!("cannot watch the listener from several threads: {error}");
                    seats.none = true;
                    return None;
                }
            },
        };
        self.taken.fetch_add(1, Ordering::SeqCst);
        Some(seat)
    }

    /// Returns whether nobody is left who watches, and somebody relied on it.
    #[must_use]
    pub(crate) fn leave_seat(&self, seat: Seat) -> bool {
        self.seats.lock().free.push(seat);
        self.taken.fetch_sub(1, Ordering::SeqCst) == 1
            && self.is_relied_on.swap(false, Ordering::SeqCst)
    }

    /// Whether somebody watches. If so, the last one to leave says that nobody does.
    pub(crate) fn can_be_relied_on(&self) -> bool {
        // Said first and looked at after, so that nobody leaves unheard in between.
        self.is_relied_on.store(true, Ordering::SeqCst);
        self.taken.load(Ordering::SeqCst) > 0
    }
}

impl Seat {
    pub(crate) fn wait(&self, until: Option<Instant>) -> Seen {
        match self.0.wait(until) {
            [_, true] => Seen::Stop,
            [true, _] => Seen::Something,
            [false, false] => Seen::Nothing,
        }
    }
}
