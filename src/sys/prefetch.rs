//! Fetching what will be used soon into the processor's caches.
#![allow(unsafe_code)]

/// A cache line, in bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Where something is in memory, or was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    pub(crate) fn of<T: ?Sized>(thing: &T) -> Span {
        let start = (&raw const *thing).addr();
        Span { start, end: start + size_of_val(thing) }
    }

    /// From one address up to another.
    pub(crate) fn between(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// Has it fetched while the caller goes on; does nothing on processors other than x86-64.
    pub(crate) fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        for address in (self.start / LINE * LINE..self.end).step_by(LINE) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: it is a hint that reads nothing, and does nothing for an address that is not
            // mapped.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address as *const i8) };
        }
    }
}
