//! What the stacks of fibers need.
#![allow(unsafe_code)]

use std::os::raw::{c_int, c_void};

use rustix::mm::MapFlags;

/// `MAP_STACK` keeps Linux from 6.7 on from using huge pages, of which a stack would waste the most.
pub(in crate::sys) const MAP_FLAGS: MapFlags =
    MapFlags::PRIVATE.union(MapFlags::NORESERVE).union(MapFlags::STACK);

/// The signals that an access to a guard raises.
pub(in crate::sys) const FAULTS: [c_int; 1] = [libc::SIGSEGV];

/// Makes the lowest whole pages of a new stack its guard; `false` on a kernel that has no guards of this
/// kind, which Linux has since 6.13. They do not split the mapping, so that adjacent stacks count as one
/// mapping.
///
/// # Safety
/// The pages are mapped, and nothing uses them.
pub(in crate::sys) unsafe fn install_guard(bottom: *mut c_void, length: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { libc::madvise(bottom, length, MADV_GUARD_INSTALL) == 0 }
}

/// From `linux/mman.h`: [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html).
const MADV_GUARD_INSTALL: c_int = 102;
