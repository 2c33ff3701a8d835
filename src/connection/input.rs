//! The bytes that were read from a connection and not used yet.

use std::io;

/// A buffer that is allocated by the first read, and grows when reads fill it.
#[derive(Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// The buffer's first size: most connections of most servers are idle, or send short lines.
pub(super) const SMALLEST: usize = 512;

/// The buffer's last size.
const LARGEST: usize = 64 * 1024;

impl Input {
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
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        debug_assert!(self.is_empty());
        if self.buffer.is_empty() || self.end == self.buffer.len() {
            let size = (4 * self.buffer.len()).clamp(SMALLEST, LARGEST);
            if size > self.buffer.len() {
                // Nothing in it is worth copying over.
                self.buffer = vec![0; size];
            }
        }
        (self.start, self.end) = (0, 0);
        self.end = read(&mut self.buffer)?;
        Ok(self.end)
    }
}
