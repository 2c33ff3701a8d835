//! [`FiberSlab`]: the fibers of a worker by key, and the state of each.

use std::time::Instant;

use crate::net::Interest;
use crate::sys::epoll::Event;
use crate::sys::fiber::Fiber;
use crate::sys::prefetch::Span;

/// A fiber's slot and the generation of the slot, which tells the fiber from later ones in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Both in one number, for epoll. It is below 2^63.
    pub(super) fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn of(number: u64) -> Key {
        Key { index: number as u32, generation: (number >> 32) as u32 }
    }
}

pub(super) struct FiberState {
    /// `None` while it runs.
    pub(super) fiber: Option<Fiber>,
    /// The request that it serves.
    pub(super) request: u64,
    /// Memory besides the fiber's stack to prefetch before the fiber is resumed.
    pub(super) spans: [Span; 3],
    pub(super) waits_for: WaitFor,
    /// Events of its stream that no wait has consumed. They are edge-triggered.
    pub(super) event: Event,
    /// Whether the stream is registered for events.
    pub(super) is_registered: bool,
    /// Of its current or last wait; `None`: no deadline.
    pub(super) deadline: Option<Instant>,
    /// Whether its wait ended at the deadline.
    pub(super) timed_out: bool,
    /// Its entry among the scheduler's timers, of which it has one at most.
    pub(super) timer: Option<Instant>,
}

/// What a fiber waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// To be resumed: it is running, ready, or has yielded.
    Turn,
    /// Its stream is ready.
    Stream(Interest),
    /// Its offloaded job has ended.
    Job,
    /// It may offload a job.
    OffloadSlot,
    /// Its deadline has passed.
    Timer,
}

impl FiberState {
    /// Whether the stream may be ready. Consumes the event, unless it is one that lasts.
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

/// From this number of fibers on, their memory exceeds the processor's caches.
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

    /// Prefetches what the next two fibers need, while another one runs: of the first its memory,
    /// of the second its slot, which says where its memory is.
    pub(super) fn prefetch(&mut self, next: [Option<&Key>; 2]) {
        if self.count() < PREFETCH_THRESHOLD {
            return;
        }
        let [first, second] = next;
        if let Some(slot) = second.and_then(|key| self.all.get(key.index as usize)) {
            Span::of(slot).prefetch();
        }
        if let Some(fiber_state) = first.and_then(|key| self.find(*key)) {
            for span in fiber_state.fiber.iter().map(Fiber::top).chain(fiber_state.spans) {
                span.prefetch();
            }
        }
    }

    /// `None` if the fiber has ended.
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
        // The highest bit of a number is not set in keys.
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
    fn a_key_does_not_find_a_later_fiber_in_its_slot() {
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
    fn the_number_of_a_key_is_below_two_to_the_63() {
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
    fn readiness_is_consumed_but_an_end_lasts() {
        let mut slab = FiberSlab::default();
        let key = slab.insert(1);
        let fiber_state = slab.find(key).unwrap();
        let is_ready = |fiber_state: &mut FiberState| {
            [Interest::Read, Interest::Write].map(|interest| fiber_state.take_readiness(interest))
        };
        let none = Event::default();
        assert_eq!(is_ready(fiber_state), [false, false]);
        fiber_state.on_event(Event { readable: true, ..none });
        fiber_state.on_event(Event { writable: true, ..none });
        assert_eq!(is_ready(fiber_state), [true, true]);
        assert_eq!(is_ready(fiber_state), [false, false]);
        fiber_state.on_event(Event { ended: true, ..none });
        fiber_state.on_event(none);
        assert_eq!([(); 2].map(|()| is_ready(fiber_state)), [[true, false]; 2]);
        fiber_state.on_event(Event { broken: true, ..none });
        fiber_state.on_event(none);
        assert_eq!([(); 2].map(|()| is_ready(fiber_state)), [[true, true]; 2]);
    }
}
