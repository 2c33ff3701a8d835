//! The bytes that were read from a connection and not used yet.

use std::io;

use super::buffer_cache::BufferCache;

/// A buffer that is allocated by the first read, and grows when reads fill it.
pub(super) struct InputBuffer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// What its length should be, going by the last read.
    size: usize,
}

/// The buffer's first size: most connections of most servers are idle, or send short lines.
pub(super) const MIN_BUFFER: usize = 512;

/// The buffer's last size.
const MAX_BUFFER: usize = 64 * 1024;

thread_local! {
    static INPUT_CACHE: BufferCache = const { BufferCache::new() };
}

/// See [`prepare_thread`](super::prepare_thread).
pub(super) fn prepare_thread() {
    INPUT_CACHE.with(|_| {});
}

impl Default for InputBuffer {
    fn default() -> InputBuffer {
        InputBuffer { buffer: Vec::new(), start: 0, end: 0, size: MIN_BUFFER }
    }
}

impl InputBuffer {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn available(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, length: usize) {
        self.start = (self.start + length).min(self.end);
    }

    /// Puts back what was taken out, once that has emptied the buffer.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.is_empty());
        (self.start, self.end) = (0, bytes.len());
        self.buffer = bytes;
    }

    /// Reads once, into the empty buffer; says how much.
    pub(super) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<Option<usize>>,
    ) -> io::Result<Option<usize>> {
        debug_assert!(self.is_empty());
        if self.buffer.len() < self.size {
            self.buffer = INPUT_CACHE.with(BufferCache::take);
        }
        if self.buffer.len() < self.size {
            // Nothing in it is worth copying over.
            self.buffer = vec![0; self.size];
        }
        (self.start, self.end) = (0, 0);
        let length = read(&mut self.buffer[..self.size])?;
        self.end = length.unwrap_or(0);
        if self.end == self.size {
            self.size = (4 * self.size).min(MAX_BUFFER);
        } else if 0 < self.end && self.end < self.size / 4 {
            self.size = (self.size / 4).max(MIN_BUFFER);
        }
        Ok(length)
    }

    /// Gives the empty buffer back.
    pub(super) fn release(&mut self) {
        debug_assert!(self.is_empty());
        INPUT_CACHE.with(|spare| spare.put(&mut self.buffer));
        (self.start, self.end) = (0, 0);
    }
}
