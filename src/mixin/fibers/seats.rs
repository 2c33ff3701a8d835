//! Where a worker keeps its fibers, and what it knows of each.

use std::time::Instant;

use crate::stream::Interest;
use crate::sys::fiber::Fiber;
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
    pub(super) awaits: Awaits,
    /// What has happened to its stream, and was not waited for since.
    pub(super) happened: Happened,
    /// Whether that is said at all.
    pub(super) is_watched: bool,
    /// Whether a word has come that was not waited for.
    pub(super) has_word: bool,
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
            awaits: Awaits::Turn,
            happened: Happened::default(),
            is_watched: false,
            has_word: false,
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
