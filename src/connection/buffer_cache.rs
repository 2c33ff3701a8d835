//! One free buffer per thread, for the next connection on it.

use std::cell::Cell;
use std::mem;

/// At most one buffer, neither freed nor zeroed between its users. One is enough where connections
/// release theirs before they wait.
pub(super) struct BufferCache(Cell<Vec<u8>>);

impl BufferCache {
    pub(super) const fn new() -> BufferCache {
        BufferCache(Cell::new(Vec::new()))
    }

    /// The cached buffer, with its contents; an empty one if there is none.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.take()
    }

    /// Takes `buffer`, leaving it empty; of two buffers the larger is kept.
    pub(super) fn put(&self, buffer: &mut Vec<u8>) {
        let (cached, returned) = (self.0.take(), mem::take(buffer));
        self.0.set(if returned.capacity() > cached.capacity() { returned } else { cached });
    }
}
