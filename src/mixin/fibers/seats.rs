//! Where a worker keeps its fibers, and what it knows of each.

use std::time::Instant;

use crate::stream::Interest;
use crate::sys::fiber::Fiber;
use crate::sys::prefetch::Span;
use crate::sys::readiness::Happened;

/// A fiber's place; nobody who has the same place later has the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// One number for both, below 2^63.
    pub(super) fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn of(number: u64) -> Key {
        Key { index: number as u32, generation: (number >> 32) as u32 }
    }
}

/// What is known of a fiber.
pub(super) struct Seat {
    /// `None` while it runs.
    pub(super) fiber: Option<Fiber>,
    /// The request that it serves.
    pub(super) request: u64,
    /// Where what the request needs is in memory, besides the fiber's stack.
    pub(super) needs: [Span; 3],
    pub(super) awaits: Awaits,
    /// What has happened to its stream, and was not waited for since.
    pub(super) happened: Happened,
    /// Whether that is said at all.
    pub(super) is_watched: bool,
    /// How long it waits, while it does; `None`: for ever.
    pub(super) until: Option<Instant>,
    /// Whether it has waited so long in vain.
    pub(super) is_late: bool,
    /// When its timer, of which it has one at most, goes off.
    pub(super) timer: Option<Instant>,
}

/// What a fiber needs before it can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// Its turn.
    Turn,
    /// Its stream.
    Stream(Interest),
    /// Somebody's word.
    Word,
    /// A thread that does something for it.
    Helper,
    /// The time.
    Time,
}

impl Seat {
    /// Whether the stream may be ready, going by what has happened to it since this was last asked.
    pub(super) fn take_readiness(&mut self, interest: Interest) -> bool {
        let happened = &mut self.happened;
        match interest {
            Interest::Read => std::mem::take(&mut happened.readable) || happened.ended,
            Interest::Write => std::mem::take(&mut happened.writable) || happened.broken,
        }
    }

    pub(super) fn note(&mut self, happened: Happened) {
        self.happened.readable |= happened.readable;
        self.happened.writable |= happened.writable;
        self.happened.ended |= happened.ended;
        self.happened.broken |= happened.broken;
    }
}

/// So many fibers at least need more than what stays in the processor's caches.
const MANY: usize = 256;

#[derive(Default)]
pub(super) struct Seats {
    all: Vec<Place>,
    free: Vec<u32>,
}

struct Place {
    generation: u32,
    seat: Option<Seat>,
}

impl Seats {
    pub(super) fn insert(&mut self, request: u64) -> Key {
        let seat = Seat {
            fiber: None,
            request,
            needs: [Span::default(); 3],
            awaits: Awaits::Turn,
            happened: Happened::default(),
            is_watched: false,
            until: None,
            is_late: false,
            timer: None,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Place { generation: 0, seat: None });
            (self.all.len() - 1) as u32
        });
        let place = &mut self.all[index as usize];
        place.seat = Some(seat);
        Key { index, generation: place.generation }
    }

    /// Their turns come soon, one after the other. With many fibers, what they need has left the
    /// processor's caches by then; it can be fetched while another one runs.
    pub(super) fn prepare(&mut self, next: [Option<&Key>; 2]) {
        if self.count() < MANY {
            return;
        }
        let [next, after_it] = next;
        if let Some(place) = after_it.and_then(|key| self.all.get(key.index as usize)) {
            Span::of(place).prefetch();
        }
        if let Some(seat) = next.and_then(|key| self.find(*key)) {
            for span in seat.fiber.iter().map(Fiber::top).chain(seat.needs) {
                span.prefetch();
            }
        }
    }

    /// `None` when it has gone.
    pub(super) fn find(&mut self, key: Key) -> Option<&mut Seat> {
        let place = self.all.get_mut(key.index as usize)?;
        place.seat.as_mut().filter(|_| place.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Seat> {
        let place = self.all.get_mut(key.index as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let seat = place.seat.take()?;
        // The highest bit is for numbers that are no keys.
        place.generation = (place.generation + 1) & (u32::MAX >> 1);
        self.free.push(key.index);
        Some(seat)
    }

    pub(super) fn count(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_found_by_the_key_of_who_had_the_place_before() {
        let mut seats = Seats::default();
        let others = [1, 2].map(|request| seats.insert(request));
        let mut before = Vec::new();
        for request in 3..100 {
            let key = seats.insert(request);
            assert_eq!(seats.find(key).unwrap().request, request);
            assert!(before.iter().all(|old| seats.find(*old).is_none()));
            assert!(before.iter().all(|old| seats.remove(*old).is_none()));
            assert_eq!(seats.count(), 3);
            assert_eq!(seats.remove(key).unwrap().request, request);
            before.push(key);
        }
        assert_eq!(others.map(|key| seats.find(key).unwrap().request), [1, 2]);
        assert_eq!((seats.count(), seats.all.len()), (2, 3));
    }

    #[test]
    fn a_key_is_a_number_that_leaves_the_highest_ones_to_others() {
        let mut seats = Seats::default();
        for generation in [0, 1, u32::MAX >> 1] {
            let key = seats.insert(1);
            let index = key.index as usize;
            seats.remove(key);
            seats.all[index].generation = generation;
            let key = seats.insert(1);
            assert_eq!(Key::of(key.number()), key);
            assert!(key.number() < 1 << 63);
            seats.remove(key);
            assert!(seats.all[index].generation <= u32::MAX >> 1);
        }
    }

    #[test]
    fn what_has_happened_counts_once_and_an_end_for_ever() {
        let mut seats = Seats::default();
        let key = seats.insert(1);
        let seat = seats.find(key).unwrap();
        let is_ready = |seat: &mut Seat| {
            [Interest::Read, Interest::Write].map(|interest| seat.take_readiness(interest))
        };
        let nothing = Happened::default();
        assert_eq!(is_ready(seat), [false, false]);
        seat.note(Happened { readable: true, ..nothing });
        seat.note(Happened { writable: true, ..nothing });
        assert_eq!(is_ready(seat), [true, true]);
        assert_eq!(is_ready(seat), [false, false]);
        seat.note(Happened { ended: true, ..nothing });
        seat.note(nothing);
        assert_eq!([(); 2].map(|()| is_ready(seat)), [[true, false]; 2]);
        seat.note(Happened { broken: true, ..nothing });
        seat.note(nothing);
        assert_eq!([(); 2].map(|()| is_ready(seat)), [[true, true]; 2]);
    }
}
