//! Memory that a process shares with the children that it forks.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

/// A value, or a slice of them, in memory that a process and the children that it forks share
/// ([mmap(2)], `MAP_SHARED | MAP_ANONYMOUS`). Of all other memory a forked child has a copy.
///
/// `T` should consist of atomics: a pointer that one process stores means nothing in another, and a
/// lock would stay locked after the process that holds it is killed.
///
/// [mmap(2)]: https://man7.org/linux/man-pages/man2/mmap.2.html
pub(crate) struct Shared<T: ?Sized>(NonNull<T>);

impl<T: Default> Shared<T> {
    pub(crate) fn new() -> io::Result<Shared<T>> {
        Ok(Shared(map::<T>(1)?.cast()))
    }
}

impl<T: Default> Shared<[T]> {
    /// `count` values; zero counts as one.
    pub(crate) fn slice(count: usize) -> io::Result<Shared<[T]>> {
        map(count.max(1)).map(Shared)
    }
}

/// Maps memory for `count` values, one at least, and initializes them.
fn map<T: Default>(count: usize) -> io::Result<NonNull<[T]>> {
    const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
    const { assert!(!std::mem::needs_drop::<T>(), "drop only unmaps") };
    let length = size_of::<T>().checked_mul(count).ok_or(io::ErrorKind::OutOfMemory)?;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: without an address and `MAP_FIXED` the kernel makes a new mapping in unused address
    // space, so that no existing memory changes.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    let Some(first) = NonNull::new(address.cast::<T>()).filter(|_| address != libc::MAP_FAILED)
    else {
        return Err(io::Error::last_os_error());
    };
    for index in 0..count {
        // SAFETY: the mapping is writable, has room for `count` values, and is aligned to a page,
        // which is enough for a `T` (the assertion above). Nothing else refers to it yet.
        unsafe { first.add(index).write(T::default()) };
    }
    Ok(NonNull::slice_from_raw_parts(first, count))
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `map` has initialized the value, and it stays mapped until `drop`, which the
        // borrow of `self` outlives. No process ever has a `&mut T` to it, and what may change
        // behind a `&T` are atomics, for which processes are like threads.
        unsafe { self.0.as_ref() }
    }
}

impl<T: ?Sized> Drop for Shared<T> {
    fn drop(&mut self) {
        let length = size_of_val(&**self);
        // SAFETY: address and length are those of the mapping that `map` has made. `self` owns it,
        // and no borrow of it is left. `T` needs no drop (the assertion in `map`). The mappings of
        // other processes stay.
        unsafe { libc::munmap(self.0.as_ptr().cast(), length) };
    }
}

// SAFETY: it owns its `T`, as a `Box<T>` does; memory can be unmapped by any thread.
unsafe impl<T: Send + ?Sized> Send for Shared<T> {}
// SAFETY: a `&Shared<T>` gives access to a `&T` and to nothing else.
unsafe impl<T: Sync + ?Sized> Sync for Shared<T> {}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
