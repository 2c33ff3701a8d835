//! Starting a program. One call makes a descriptor that is closed in programs (`accept4`, `SOCK_CLOEXEC`).

/// Makes a descriptor.
pub(crate) fn make_descriptor<T>(make: impl FnOnce() -> T) -> T {
    make()
}

/// Starts a program.
pub(crate) fn start_program<T>(start: impl FnOnce() -> T) -> T {
    start()
}
