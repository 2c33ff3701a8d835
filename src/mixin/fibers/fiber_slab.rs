//! Where a worker keeps its fibers, and what it knows of each.

use std::time::Instant;

use crate::net::Interest;
use crate::sys::epoll::Event;
use crate::sys::fiber::Fiber;
use crate::sys::prefetch::Span;

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
pub(super) struct FiberState {
    /// `None` while it runs.
    pub(super) fiber: Option<Fiber>,
    /// The request that it serves.
    pub(super) request: u64,
    /// Where what the request needs is in memory, besides the fiber's stack.
    pub(super) spans: [Span; 3],
    pub(super) waits_for: WaitFor,
    /// What has happened to its stream, and was not waited for since.
    pub(super) event: Event,
    /// Whether that is said at all.
    pub(super) is_registered: bool,
    /// How long it waits, while it does; `None`: for ever.
    pub(super) deadline: Option<Instant>,
    /// Whether it has waited so long in vain.
    pub(super) timed_out: bool,
    /// When its timer, of which it has one at most, goes off.
    pub(super) timer: Option<Instant>,
}

/// What a fiber needs before it can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// Its turn.
    Turn,
    /// Its stream.
    Stream(Interest),
    /// Somebody's word.
    Job,
    /// A thread that does something for it.
    OffloadSlot,
    /// The time.
    Timer,
}

impl FiberState {
    /// Whether the stream may be ready, going by what has happened to it since this was last asked.
    pub(super) fn take_readiness(&mut self, interest: Interest) -> bool {
        let event = &mut self.event;
        match interest {
            // An urgent mark counts as one event more: the read after the first one ends there, and
            // there is no other event for what is behind it.
            Interest::Read => {
                std::mem::take(&mut event.readable)
                    || event.ended
                    || std::mem::take(&mut event.urgent)
            }
            Interest::Write => std::mem::take(&mut event.writable) || event.broken,
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        self.event.readable |= event.readable;
        self.event.urgent |= event.urgent;
        self.event.writable |= event.writable;
        self.event.ended |= event.ended;
        self.event.broken |= event.broken;
    }
}

/// So many fibers at least need more than what stays in the processor's caches.
const PREFETCH_THRESHOLD: usize = 256;

#[derive(Default)]
pub(super) struct FiberSlab {
    all: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    generation: u32,
    fiber_state: Option<FiberState>,
}

impl FiberSlab {
    pub(super) fn insert(&mut self, request: u64) -> Key {
        let fiber_state = FiberState {
            fiber: None,
            request,
            spans: [Span::default(); 3],
            waits_for: WaitFor::Turn,
            event: Event::default(),
            is_registered: false,
            deadline: None,
            timed_out: false,
            timer: None,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Slot { generation: 0, fiber_state: None });
            (self.all.len() - 1) as u32
        });
        let slot = &mut self.all[index as usize];
        slot.fiber_state = Some(fiber_state);
        Key { index, generation: slot.generation }
    }

    /// Their turns come soon, one after the other. With many fibers, what they need has left the
    /// processor's caches by then; it can be fetched while another one runs.
    pub(super) fn prepare(&mut self, next: [Option<&Key>; 2]) {
        if self.count() < PREFETCH_THRESHOLD {
            return;
        }
        let [next, after_it] = next;
        if let Some(slot) = after_it.and_then(|key| self.all.get(key.index as usize)) {
            Span::of(slot).prefetch();
        }
        if let Some(fiber_state) = next.and_then(|key| self.find(*key)) {
            for span in fiber_state.fiber.iter().map(Fiber::top).chain(fiber_state.spans) {
                span.prefetch();
            }
        }
    }

    /// `None` when it has gone.
    pub(super) fn find(&mut self, key: Key) -> Option<&mut FiberState> {
        let slot = self.all.get_mut(key.index as usize)?;
        slot.fiber_state.as_mut().filter(|_| slot.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<FiberState> {
        let slot = self.all.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let fiber_state = slot.fiber_state.take()?;
        // The highest bit is for numbers that are no keys.
        slot.generation = (slot.generation + 1) & (u32::MAX >> 1);
        self.free.push(key.index);
        Some(fiber_state)
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
        let mut slab = FiberSlab::default();
        let others = [1, 2].map(|request| slab.insert(request));
        let mut before = Vec::new();
        for request in 3..100 {
            let key = slab.insert(request);
            assert_eq!(slab.find(key).unwrap().request, request);
            assert!(before.iter().all(|old| slab.find(*old).is_none()));
            assert!(before.iter().all(|old| slab.remove(*old).is_none()));
            assert_eq!(slab.count(), 3);
            assert_eq!(slab.remove(key).unwrap().request, request);
            before.push(key);
        }
        assert_eq!(others.map(|key| slab.find(key).unwrap().request), [1, 2]);
        assert_eq!((slab.count(), slab.all.len()), (2, 3));
    }

    #[test]
    fn a_key_is_a_number_that_leaves_the_highest_ones_to_others() {
        let mut slab = FiberSlab::default();
        for generation in [0, 1, u32::MAX >> 1] {
            let key = slab.insert(1);
            let index = key.index as usize;
            slab.remove(key);
            slab.all[index].generation = generation;
            let key = slab.insert(1);
            assert_eq!(Key::of(key.number()), key);
            assert!(key.number() < 1 << 63);
            slab.remove(key);
            assert!(slab.all[index].generation <= u32::MAX >> 1);
        }
    }

    #[test]
    fn what_has_event_counts_once_and_an_end_for_ever() {
        let mut slab = FiberSlab::default();
        let key = slab.insert(1);
        let fiber_state = slab.find(key).unwrap();
        let is_ready = |fiber_state: &mut FiberState| {
            [Interest::Read, Interest::Write].map(|interest| fiber_state.take_readiness(interest))
        };
        let nothing = Event::default();
        assert_eq!(is_ready(fiber_state), [false, false]);
        fiber_state.on_event(Event { readable: true, ..nothing });
        fiber_state.on_event(Event { writable: true, ..nothing });
        assert_eq!(is_ready(fiber_state), [true, true]);
        assert_eq!(is_ready(fiber_state), [false, false]);
        fiber_state.on_event(Event { ended: true, ..nothing });
        fiber_state.on_event(nothing);
        assert_eq!([(); 2].map(|()| is_ready(fiber_state)), [[true, false]; 2]);
        fiber_state.on_event(Event { broken: true, ..nothing });
        fiber_state.on_event(nothing);
        assert_eq!([(); 2].map(|()| is_ready(fiber_state)), [[true, true]; 2]);
    }
}
