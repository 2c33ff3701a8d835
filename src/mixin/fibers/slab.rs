//! [`Slab`]: what a worker finds by a key: its fibers, and their streams.

use crate::sys::prefetch::Span;

/// A slot of a [`Slab`] and the generation of the slot, which tells its entry from later ones in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// Both in one number, for epoll. It is below 2^62.
    pub(super) fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn of(number: u64) -> Key {
        Key { index: number as u32, generation: (number >> 32) as u32 }
    }
}

/// The two highest bits of a number are not set in keys.
const MAX_GENERATION: u32 = u32::MAX >> 2;

/// Entries by key. The key of one that was removed finds nothing.
pub(super) struct Slab<T> {
    all: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { all: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, entry: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.all.push(Slot { generation: 0, entry: None });
            (self.all.len() - 1) as u32
        });
        let slot = &mut self.all[index as usize];
        slot.entry = Some(entry);
        Key { index, generation: slot.generation }
    }

    /// `None` if it was removed.
    pub(super) fn find(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.all.get_mut(key.index as usize)?;
        slot.entry.as_mut().filter(|_| slot.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.all.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = (slot.generation + 1) & MAX_GENERATION;
        self.free.push(key.index);
        Some(entry)
    }

    pub(super) fn count(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Prefetches an entry's slot.
    pub(super) fn prefetch(&self, key: Key) {
        if let Some(slot) = self.all.get(key.index as usize) {
            Span::of(slot).prefetch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_find_a_later_entry_in_its_slot() {
        let mut slab = Slab::default();
        let others = [1, 2].map(|entry| slab.insert(entry));
        let mut before = Vec::new();
        for entry in 3..100 {
            let key = slab.insert(entry);
            assert_eq!(slab.find(key), Some(&mut entry.clone()));
            assert!(before.iter().all(|old| slab.find(*old).is_none()));
            assert!(before.iter().all(|old| slab.remove(*old).is_none()));
            assert_eq!(slab.count(), 3);
            assert_eq!(slab.remove(key), Some(entry));
            before.push(key);
        }
        assert_eq!(others.map(|key| *slab.find(key).unwrap()), [1, 2]);
        assert_eq!((slab.count(), slab.all.len()), (2, 3));
    }

    #[test]
    fn the_number_of_a_key_is_below_two_to_the_62() {
        let mut slab = Slab::default();
        for generation in [0, 1, MAX_GENERATION] {
            let key = slab.insert(1);
            let index = key.index as usize;
            slab.remove(key);
            slab.all[index].generation = generation;
            let key = slab.insert(1);
            assert_eq!(Key::of(key.number()), key);
            assert!(key.number() < 1 << 62);
            slab.remove(key);
            assert!(slab.all[index].generation <= MAX_GENERATION);
        }
    }
}
