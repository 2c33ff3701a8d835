//! Memory that a process shares with the children that it forks.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

/// A value in memory that a process and the children that it forks share ([mmap(2)],
/// `MAP_SHARED | MAP_ANONYMOUS`). Of all other memory a forked child has a copy.
///
/// `T` should consist of atomics: a pointer that one process stores means nothing in another, and a
/// lock would stay locked after the process that holds it is killed.
///
/// [mmap(2)]: https://man7.org/linux/man-pages/man2/mmap.2.html
pub(crate) struct Shared<T>(NonNull<T>);

impl<T: Default> Shared<T> {
    pub(crate) fn new() -> io::Result<Shared<T>> {
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        const { assert!(!std::mem::needs_drop::<T>(), "drop only unmaps") };
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: without an address and `MAP_FIXED` the kernel makes a new mapping in unused
        // address space, so that no existing memory changes.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, flags, -1, 0) };
        match NonNull::new(address.cast::<T>()) {
            Some(value) if address != libc::MAP_FAILED => {
                // SAFETY: the mapping is writable, at least as large as a `T`, and aligned to a
                // page, which is enough for a `T` (the assertion above). Nothing else refers to it
                // yet.
                unsafe { value.write(T::default()) };
                Ok(Shared(value))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` has initialized the value, and it stays mapped until `drop`, which the
        // borrow of `self` outlives. No process ever has a `&mut T` to it, and what may change
        // behind a `&T` are atomics, for which processes are like threads.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping that `new` has made. `self` owns it,
        // and no borrow of it is left. `T` needs no drop (the assertion in `new`). The mappings of
        // other processes stay.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}

// SAFETY: it owns its `T`, as a `Box<T>` does; memory can be unmapped by any thread.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: a `&Shared<T>` gives access to a `&T` and to nothing else.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
