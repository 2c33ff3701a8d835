//! Prefetching: a hint to the processor to load memory into its caches.
#![allow(unsafe_code)]

/// The length of a cache line, in bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// A range of addresses. The memory may be gone by the time that it is prefetched.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The memory of a value, without what it points to.
    pub(crate) fn of<T: ?Sized>(value: &T) -> Span {
        let start = (&raw const *value).addr();
        Span { start, end: start + size_of_val(value) }
    }

    /// From `start` up to `end`, which is not included.
    pub(crate) fn between(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// Starts loading the range into the caches, without waiting for it. Does nothing on processors
    /// other than x86-64.
    pub(crate) fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        for address in (self.start / LINE * LINE..self.end).step_by(LINE) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch is a hint. It accesses no memory that a program could observe, and
            // does not fault, also for an address that is not mapped; SSE, which the intrinsic
            // needs, is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address as *const i8) };
        }
    }
}
