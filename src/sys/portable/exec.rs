//! Starting a program. On macOS it takes two calls to make a descriptor that is closed in programs, and
//! a program that starts between them would have a client's connection, and keep it open.

use parking_lot::RwLock;

/// Read while a descriptor is made, written while a program starts (as `syscall.ForkLock` of Go). A program
/// that the rest of the process starts does not know it.
static LOCK: RwLock<()> = RwLock::new(());

/// Makes a descriptor, without blocking, while this library starts no program.
pub(crate) fn make_descriptor<T>(make: impl FnOnce() -> T) -> T {
    let _making = LOCK.read();
    make()
}

/// Starts a program while no descriptor is being made.
pub(crate) fn start_program<T>(start: impl FnOnce() -> T) -> T {
    let _starting = LOCK.write();
    start()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_program_starts_when_no_descriptor_is_being_made() {
        let (started, when) = mpsc::channel();
        let waiting = make_descriptor(|| {
            let waiting = thread::spawn(move || start_program(|| started.send(()).unwrap()));
            assert!(when.recv_timeout(Duration::from_millis(50)).is_err());
            waiting
        });
        waiting.join().unwrap();
        when.recv().unwrap();
    }
}
