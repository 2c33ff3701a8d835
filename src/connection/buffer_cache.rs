//! A buffer that one connection has given back, for the next one on the same thread.

use std::cell::Cell;
use std::mem;

/// At most one buffer: where connections give theirs back before they wait, one at a time needs it.
/// It is neither allocated nor zeroed again.
pub(super) struct BufferCache(Cell<Vec<u8>>);

impl BufferCache {
    pub(super) const fn new() -> BufferCache {
        BufferCache(Cell::new(Vec::new()))
    }

    /// The buffer, as it was given back; an empty one if there is none.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.take()
    }

    /// Keeps the larger one.
    pub(super) fn put(&self, buffer: &mut Vec<u8>) {
        let (spare, given_back) = (self.0.take(), mem::take(buffer));
        self.0.set(if given_back.capacity() > spare.capacity() { given_back } else { spare });
    }
}
