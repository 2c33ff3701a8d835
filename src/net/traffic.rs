//! How much a connection has received and sent: [`Traffic`].

use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes that a connection, or a datagram's request, has received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// A number of bytes that one thread at a time adds to, and all may read.
#[derive(Debug, Default)]
pub(super) struct ByteCounter(AtomicU64);

impl ByteCounter {
    /// Not `fetch_add`, which takes as long as twenty of these.
    #[inline(always)]
    pub(super) fn add(&self, bytes: usize) {
        self.0.store(self.value() + bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
