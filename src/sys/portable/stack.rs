//! What the stacks of fibers need.
#![allow(unsafe_code)]

use std::os::raw::{c_int, c_void};

use rustix::mm::MapFlags;

pub(in crate::sys) const MAP_FLAGS: MapFlags = MapFlags::PRIVATE;

/// The signals that an access to a guard raises: `SIGBUS` on macOS.
pub(in crate::sys) const FAULTS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// There are no guards but pages without access.
///
/// # Safety
/// It does nothing.
pub(in crate::sys) unsafe fn install_guard(_bottom: *mut c_void, _length: usize) -> bool {
    false
}
