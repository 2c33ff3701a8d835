//! The registry against a stop, in all manner of orders.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::address::UnixName;
use crate::net::Stream;
use crate::sync::model::{YEAR, check, check_all};
use crate::sync::thread;

/// A time that does not come.
fn never() -> Instant {
    Instant::now() + 2 * YEAR
}

/// A connection whose peer says nothing: what its handler does is to wait for the end.
#[derive(Clone)]
struct Guest {
    id: ConnectionId,
    stream: Arc<SharedStream>,
    line: Arc<Line>,
}

#[derive(Default)]
struct Line {
    /// How it was shut, each time.
    shut: Mutex<Vec<Shutdown>>,
    changed: Condvar,
}

impl Guest {
    fn new(id: u64) -> Guest {
        let line = Arc::new(Line::default());
        let stream = SharedStream::new(Box::new(line.clone()), Address::Unix(UnixName::Unnamed));
        Guest { id: id.into(), stream: Arc::new(stream), line }
    }

    fn insert(&self, registry: &Registry) {
        registry.insert(self.id, self.stream.peer().clone(), None, Some(self.stream.clone()));
    }

    /// Waits for the end of what its peer says.
    fn read(&self) {
        self.wait_until(|shut| !shut.is_empty());
    }

    /// A handler that is busy with something else notices its end when it has to write.
    fn write(&self) {
        self.wait_until(|shut| shut.contains(&Shutdown::Both));
    }

    fn wait_until(&self, end: impl Fn(&[Shutdown]) -> bool) {
        let mut shut = self.line.shut.lock();
        self.line.changed.wait_while_for(&mut shut, |shut| !end(shut), Duration::MAX);
    }

    fn shut(&self) -> Vec<Shutdown> {
        self.line.shut.lock().clone()
    }
}

impl Stream for Arc<Line> {
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shut.lock().push(how);
        self.changed.notify_all();
        Ok(())
    }

    // The rest is not used here.

    fn read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
    }

    fn write(&self, _pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        unimplemented!()
    }

    fn try_read(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        unimplemented!()
    }

    fn try_write(&self, _pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        unimplemented!()
    }

    fn set_read_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        unimplemented!()
    }

    fn set_write_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        unimplemented!()
    }

    fn local_addr(&self) -> io::Result<Address> {
        unimplemented!()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A thread that does something with the registry.
fn spawn(
    registry: &Arc<Registry>,
    act: impl FnOnce(&Registry) + Send + 'static,
) -> thread::JoinHandle<()> {
    let registry = registry.clone();
    thread::spawn(move || act(&registry))
}

#[test]
fn whoever_is_there_in_a_stop_has_its_read_side_shut_and_is_counted() {
    check_all(|| {
        let (registry, guest) = (Arc::new(Registry::default()), Guest::new(1));
        let passing = guest.clone();
        let passing = spawn(&registry, move |registry| {
            passing.insert(registry);
            registry.remove(1.into());
        });
        registry.drain();
        passing.join().unwrap();
        // Both, or neither.
        match registry.drained_and_forced() {
            (0, 0) => assert_eq!(guest.shut(), []),
            (1, 0) => assert_eq!(guest.shut(), [Shutdown::Read]),
            counted => panic!("{counted:?}"),
        }
    });
}

#[test]
fn a_stop_that_begins_twice_shuts_and_counts_once() {
    check_all(|| {
        let (registry, guest) = (Arc::new(Registry::default()), Guest::new(1));
        let other = spawn(&registry, Registry::drain);
        guest.insert(&registry);
        registry.drain();
        registry.remove(1.into());
        other.join().unwrap();
        assert_eq!(guest.shut(), [Shutdown::Read]);
        assert_eq!(registry.drained_and_forced(), (1, 0));
    });
}

#[test]
fn whoever_is_cut_off_is_counted_as_forced_and_nobody_else() {
    check_all(|| {
        let (registry, guest) = (Arc::new(Registry::default()), Guest::new(1));
        guest.insert(&registry);
        registry.drain();
        let leaving = spawn(&registry, |registry| registry.remove(1.into()));
        registry.force();
        leaving.join().unwrap();
        match registry.drained_and_forced() {
            (1, 0) => assert_eq!(guest.shut(), [Shutdown::Read]),
            (0, 1) => assert_eq!(guest.shut(), [Shutdown::Read, Shutdown::Both]),
            counted => panic!("{counted:?}"),
        }
    });
}

#[test]
fn the_last_one_to_leave_wakes_whoever_waits_for_it() {
    check_all(|| {
        let registry = Arc::new(Registry::default());
        Guest::new(1).insert(&registry);
        let leaving = spawn(&registry, |registry| registry.remove(1.into()));
        assert!(registry.wait_until_empty(never));
        assert_eq!(registry.len(), 0);
        leaving.join().unwrap();
    });
}

#[test]
fn all_who_wait_until_it_is_empty_wait_for_all_who_are_there() {
    check(|| {
        let registry = Arc::new(Registry::default());
        let leaving = (1..=3).map(|id| {
            Guest::new(id).insert(&registry);
            spawn(&registry, move |registry| registry.remove(id.into()))
        });
        let leaving: Vec<_> = leaving.collect();
        let other = spawn(&registry, |registry| assert!(registry.wait_until_empty(never)));
        assert!(registry.wait_until_empty(never));
        assert_eq!(registry.len(), 0);
        leaving.into_iter().chain([other]).for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_deadline_that_becomes_earlier_is_noticed() {
    check_all(|| {
        let registry = Arc::new(Registry::default());
        Guest::new(1).insert(&registry);
        let over = Arc::new(AtomicBool::new(false));
        let hurry = over.clone();
        let hurry = spawn(&registry, move |registry| {
            hurry.store(true, Ordering::SeqCst);
            registry.wake();
        });
        let deadline = || if over.load(Ordering::SeqCst) { Instant::now() } else { never() };
        assert!(!registry.wait_until_empty(deadline), "nobody has left");
        hurry.join().unwrap();
    });
}

#[test]
fn whoever_is_disconnected_during_a_stop_is_counted_once() {
    check_all(|| {
        let (registry, guest) = (Arc::new(Registry::default()), Guest::new(1));
        let reader = guest.clone();
        guest.insert(&registry);
        let reader = spawn(&registry, move |registry| {
            reader.read();
            registry.remove(1.into());
        });
        registry.drain();
        let found = registry.disconnect(1.into());
        assert!(registry.wait_until_empty(never));
        reader.join().unwrap();
        assert_eq!(found, guest.shut().contains(&Shutdown::Both));
        assert_eq!(registry.drained_and_forced(), (1, 0));
        assert!(!registry.disconnect(1.into()), "it is gone");
    });
}

/// As at the end of a server: some come before the stop, some out of the backlog; some end by
/// themselves, some at the end of their input, and some not before they are cut off.
#[test]
fn a_stop_leaves_nobody_behind_and_counts_everybody_once() {
    check(|| {
        let registry = Arc::new(Registry::default());
        let (here, quick) = (Guest::new(1), Guest::new(2));
        let (late, deaf) = (Guest::new(3), Guest::new(4));
        let mut threads = Vec::new();
        let mut serve = |guest: &Guest, act: fn(&Guest)| {
            let guest = guest.clone();
            guest.insert(&registry);
            threads.push(spawn(&registry, move |registry| {
                act(&guest);
                registry.remove(guest.id);
            }));
        };
        serve(&here, Guest::read);
        serve(&quick, |_| ());
        registry.drain();
        serve(&late, Guest::read);
        serve(&deaf, Guest::write);

        let register = Arc::new(AtomicBool::new(false));
        let clock = register.clone();
        let clock = thread::spawn(move || clock.store(true, Ordering::SeqCst));
        let soon = Instant::now() + Duration::from_secs(60 * 60);
        let deadline = || if register.load(Ordering::SeqCst) { Instant::now() } else { soon };
        assert!(!registry.wait_until_empty(deadline), "one of them is deaf");
        assert!(register.load(Ordering::SeqCst), "the time has register");
        registry.force();
        assert!(registry.wait_until_empty(never));
        threads.into_iter().chain([clock]).for_each(|thread| thread.join().unwrap());

        let (drained, forced) = registry.drained_and_forced();
        let cut = |guest: &&Guest| guest.shut().contains(&Shutdown::Both);
        assert_eq!(forced, [&here, &quick, &late, &deaf].into_iter().filter(cut).count());
        // The quick one may have gone before the stop.
        assert_eq!(drained + forced, if quick.shut().is_empty() { 3 } else { 4 });
        assert!([here, late, deaf].iter().all(|guest| guest.shut()[0] == Shutdown::Read));
    });
}
