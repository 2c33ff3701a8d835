//! The input buffer of a connection.

use std::io;

use super::buffer_cache::BufferCache;

/// Bytes read from the stream and not consumed yet. Allocated by the first read; the size follows
/// the lengths of the reads.
pub(super) struct InputBuffer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The size for the next read.
    size: usize,
}

/// The initial size: most connections of most servers are idle, or send short lines.
pub(super) const MIN_BUFFER: usize = 512;

/// The largest size.
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

    /// Puts back all bytes that were consumed. The buffer must be empty.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.is_empty());
        (self.start, self.end) = (0, bytes.len());
        self.buffer = bytes;
    }

    /// Reads once into the buffer, which must be empty. Returns what `read` returned.
    pub(super) fn fill(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<Option<usize>>,
    ) -> io::Result<Option<usize>> {
        debug_assert!(self.is_empty());
        if self.buffer.len() < self.size {
            self.buffer = INPUT_CACHE.with(BufferCache::take);
        }
        if self.buffer.len() < self.size {
            // Not `resize`, which would copy the old contents.
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

    /// Gives the buffer, which must be empty, back to the thread's cache.
    pub(super) fn release(&mut self) {
        debug_assert!(self.is_empty());
        INPUT_CACHE.with(|cache| cache.put(&mut self.buffer));
        (self.start, self.end) = (0, 0);
    }
}
