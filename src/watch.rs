//! Several threads waiting for one listener, of which each newcomer wakes one: [`Watch`].

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sys::wait::Exclusive;

#[cfg(all(test, shuttle))]
mod model;

/// How many may watch. One would do, and whenever it has found somebody the thread whose turn it
/// is would have to wake up; with a few, one is most often left. They take turns, so that with
/// many their caches would be cold.
const MOST: usize = 4;

/// The threads that watch a listener.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seats: Mutex<Seats>,
    attendance: Attendance,
}

#[derive(Debug, Default)]
struct Seats {
    free: Vec<Seat>,
    made: usize,
}

/// A place to watch from.
#[derive(Debug)]
pub(crate) struct Seat {
    exclusive: Exclusive,
    /// Since when, in ticks of its clock, nobody has come.
    idle: u32,
}

impl Watch {
    /// `None` when there are enough who watch. The clock of a seat goes by the idle time.
    pub(crate) fn take_seat(
        &self,
        listener: BorrowedFd<'_>,
        stop: BorrowedFd<'_>,
        idle_time: Duration,
    ) -> Option<Seat> {
        let mut seats = self.seats.lock();
        let mut seat = match seats.free.pop() {
            Some(seat) => seat,
            None if seats.made == MOST => return None,
            None => match Exclusive::new(listener, stop, idle_time) {
                Ok(exclusive) => {
                    seats.made += 1;
                    Seat { exclusive, idle: 0 }
                }
                // It is tried again by the next thread that is done: there may be descriptors then.
                // With a listener that epoll cannot wait for, it is a few system calls in vain.
                Err(error) => {
                    log::debug!("cannot watch the listener from several threads: {error}");
                    return None;
                }
            },
        };
        seat.idle = 0;
        Some(seat)
    }

    pub(crate) fn leave_seat(&self, seat: Seat) {
        self.seats.lock().free.push(seat);
    }

    /// Somebody watches, from a seat or in another way.
    pub(crate) fn come(&self) {
        self.attendance.come();
    }

    /// Somebody does so no longer; returns whether nobody is left, and somebody relied on it.
    #[must_use]
    pub(crate) fn go(&self) -> bool {
        self.attendance.go()
    }

    /// Whether somebody watches. If so, the last one to leave says that nobody does.
    pub(crate) fn can_be_relied_on(&self) -> bool {
        self.attendance.can_be_relied_on()
    }
}

/// How many there are, and whether somebody has to be told when there are none.
#[derive(Debug, Default)]
struct Attendance {
    present: AtomicUsize,
    is_relied_on: AtomicBool,
}

impl Attendance {
    fn come(&self) {
        self.present.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether it was the last one, and somebody relied on it.
    #[must_use]
    fn go(&self) -> bool {
        self.present.fetch_sub(1, Ordering::SeqCst) == 1
            && self.is_relied_on.swap(false, Ordering::SeqCst)
    }

    fn can_be_relied_on(&self) -> bool {
        // Said first and looked at after, so that nobody leaves unheard in between.
        self.is_relied_on.store(true, Ordering::SeqCst);
        self.present.load(Ordering::SeqCst) > 0
    }
}

impl Seat {
    /// Waits until somebody may have come; `false` when nobody did for the idle time at least, or
    /// the server stops.
    pub(crate) fn wait(&mut self) -> bool {
        loop {
            let woken = self.exclusive.wait();
            self.idle += u32::from(woken.tick);
            if woken.everybody {
                return false;
            } else if woken.one {
                return true;
            } else if self.idle > 1 {
                // The first tick may have come at once.
                return false;
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::wait::Switch;

    #[test]
    fn that_it_failed_once_keeps_nobody_from_watching() {
        let (watch, stop) = (Watch::default(), Switch::new().unwrap());
        // Nobody can wait for a file.
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(watch.take_seat(file.as_fd(), stop.as_fd(), Duration::MAX).is_none());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(watch.take_seat(listener.as_fd(), stop.as_fd(), Duration::MAX).is_some());
    }
}
