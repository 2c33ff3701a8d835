//! Memory that forked children share with their parent.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

/// A value that a process and the children it forks see in common, where everything else is a
/// copy after the fork ([mmap(2)], `MAP_SHARED | MAP_ANONYMOUS`).
///
/// What is put there should be atomics alone: a pointer means nothing in another process, and a
/// lock would stay locked when a child that holds it is killed.
///
/// [mmap(2)]: https://man7.org/linux/man-pages/man2/mmap.2.html
pub(crate) struct Shared<T>(NonNull<T>);

impl<T: Default> Shared<T> {
    pub(crate) fn new() -> io::Result<Shared<T>> {
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, wherever the system likes: no memory that is in use is touched.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), size_of::<T>(), protection, flags, -1, 0) };
        match NonNull::new(at.cast::<T>()) {
            Some(at) if at.as_ptr().cast() != libc::MAP_FAILED => {
                // SAFETY: the mapping is as large as a `T`, aligned to a page, writable, and known
                // to nobody else yet.
                unsafe { at.write(T::default()) };
                Ok(Shared(at))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it was initialized when it was made and is mapped until this is dropped; it is
        // given out by shared reference only, here as in other processes.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody can borrow from it any more. What is
        // in it has no destructor that matters, being atomics. Other processes keep theirs.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}

// SAFETY: it owns its `T` as a box does.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: it gives out `&T` and nothing else.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
