//! Requests that begin and end during a stop, in every order.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::address::UnixName;
use crate::net::Stream;
use crate::primitive::model::{YEAR, check, check_all};
use crate::primitive::thread;

/// A deadline that is never reached.
fn never() -> Instant {
    Instant::now() + 2 * YEAR
}

/// A connection whose client is silent: its handler waits for EOF.
#[derive(Clone)]
struct TestConnection {
    id: ConnectionId,
    stream: Arc<SharedStream>,
    line: Arc<TestStream>,
}

#[derive(Default)]
struct TestStream {
    /// Each shutdown of it.
    shut: Mutex<Vec<Shutdown>>,
    changed: Condvar,
    closed: Arc<AtomicBool>,
}

impl Drop for TestStream {
    fn drop(&mut self) {
        // Other threads may take steps before the socket is closed.
        thread::yield_now();
        self.closed.store(true, Ordering::SeqCst);
    }
}

impl TestConnection {
    fn new(id: u64) -> TestConnection {
        let line = Arc::new(TestStream::default());
        let stream = SharedStream::new(Box::new(line.clone()), Address::Unix(UnixName::Unnamed));
        TestConnection { id: id.into(), stream: Arc::new(stream), line }
    }

    fn insert(&self, registry: &Registry) {
        let (peer, stream) = (self.stream.peer().clone(), Some(self.stream.clone()));
        registry.insert(self.id, peer, None, stream, Arc::default(), || {});
    }

    /// Waits as a read does: until its read side is shut.
    fn read(&self) {
        self.wait_until(|shut| !shut.is_empty());
    }

    /// Waits as a handler does that only writes: until both sides are shut.
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

impl Stream for Arc<TestStream> {
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
fn a_connection_there_in_a_stop_has_its_read_side_shut_and_is_counted() {
    check_all(|| {
        let (registry, connection) = (Arc::new(Registry::default()), TestConnection::new(1));
        let passing = connection.clone();
        let passing = spawn(&registry, move |registry| {
            passing.insert(registry);
            registry.remove(1.into(), |_| {});
        });
        registry.drain(false);
        passing.join().unwrap();
        // Both, or neither.
        match registry.drained_and_forced() {
            (0, 0) => assert_eq!(connection.shut(), []),
            (1, 0) => assert_eq!(connection.shut(), [Shutdown::Read]),
            counted => panic!("{counted:?}"),
        }
    });
}

#[test]
fn a_new_client_is_spared_until_its_time_is_over() {
    check_all(|| {
        let (registry, connection) = (Arc::new(Registry::default()), TestConnection::new(1));
        let arriving = connection.clone();
        let arriving = spawn(&registry, move |registry| arriving.insert(registry));
        registry.drain(true);
        assert_eq!(connection.shut(), []);
        registry.drain_new();
        arriving.join().unwrap();
        assert_eq!(connection.shut(), [Shutdown::Read]);
    });
}

#[test]
fn a_stop_that_begins_twice_shuts_and_counts_once() {
    check_all(|| {
        let (registry, connection) = (Arc::new(Registry::default()), TestConnection::new(1));
        let other = spawn(&registry, |registry| registry.drain(false));
        connection.insert(&registry);
        registry.drain(false);
        registry.remove(1.into(), |_| {});
        other.join().unwrap();
        assert_eq!(connection.shut(), [Shutdown::Read]);
        assert_eq!(registry.drained_and_forced(), (1, 0));
    });
}

#[test]
fn only_a_connection_that_was_shut_down_counts_as_forced() {
    check_all(|| {
        let (registry, connection) = (Arc::new(Registry::default()), TestConnection::new(1));
        connection.insert(&registry);
        registry.drain(false);
        let ending = spawn(&registry, |registry| registry.remove(1.into(), |_| {}));
        registry.force();
        ending.join().unwrap();
        match registry.drained_and_forced() {
            (1, 0) => assert_eq!(connection.shut(), [Shutdown::Read]),
            (0, 1) => assert_eq!(connection.shut(), [Shutdown::Read, Shutdown::Both]),
            counted => panic!("{counted:?}"),
        }
    });
}

#[test]
fn the_last_request_to_end_wakes_the_waiting_server() {
    check_all(|| {
        let registry = Arc::new(Registry::default());
        TestConnection::new(1).insert(&registry);
        let ending = spawn(&registry, |registry| registry.remove(1.into(), |_| {}));
        assert!(registry.wait_until_empty(never));
        assert_eq!(registry.len(), 0);
        ending.join().unwrap();
    });
}

#[test]
fn a_server_waits_for_the_descriptors_of_a_request_until_its_socket_is_closed() {
    check_all(|| {
        let registry = Arc::new(Registry::default());
        let connection = TestConnection::new(1);
        let closed = connection.line.closed.clone();
        connection.insert(&registry);
        drop(connection);
        let ending = spawn(&registry, |registry| registry.remove(1.into(), |_| {}));
        assert!(registry.may_free_descriptors() || closed.load(Ordering::SeqCst));
        ending.join().unwrap();
        assert!(!registry.may_free_descriptors());
    });
}

#[test]
fn every_waiter_waits_for_every_request() {
    check(|| {
        let registry = Arc::new(Registry::default());
        let ending = (1..=3).map(|id| {
            TestConnection::new(id).insert(&registry);
            spawn(&registry, move |registry| registry.remove(id.into(), |_| {}))
        });
        let ending: Vec<_> = ending.collect();
        let other = spawn(&registry, |registry| assert!(registry.wait_until_empty(never)));
        assert!(registry.wait_until_empty(never));
        assert_eq!(registry.len(), 0);
        ending.into_iter().chain([other]).for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_deadline_that_becomes_earlier_is_noticed() {
    check_all(|| {
        let registry = Arc::new(Registry::default());
        TestConnection::new(1).insert(&registry);
        let over = Arc::new(AtomicBool::new(false));
        let hurry = over.clone();
        let hurry = spawn(&registry, move |registry| {
            hurry.store(true, Ordering::SeqCst);
            registry.wake();
        });
        let deadline = || if over.load(Ordering::SeqCst) { Instant::now() } else { never() };
        assert!(!registry.wait_until_empty(deadline), "no request has ended");
        hurry.join().unwrap();
    });
}

#[test]
fn a_connection_that_is_disconnected_during_a_stop_is_counted_once() {
    check_all(|| {
        let (registry, connection) = (Arc::new(Registry::default()), TestConnection::new(1));
        let reader = connection.clone();
        connection.insert(&registry);
        let reader = spawn(&registry, move |registry| {
            reader.read();
            registry.remove(1.into(), |_| {});
        });
        registry.drain(false);
        let found = registry.disconnect(1.into());
        assert!(registry.wait_until_empty(never));
        reader.join().unwrap();
        assert_eq!(found, connection.shut().contains(&Shutdown::Both));
        assert_eq!(registry.drained_and_forced(), (1, 0));
        assert!(!registry.disconnect(1.into()), "it is gone");
    });
}

/// As in a stop: requests from before it and from the backlog; requests that end by themselves, at
/// EOF, and not before they are shut down.
#[test]
fn a_stop_ends_and_counts_each_connection_once() {
    check(|| {
        let registry = Arc::new(Registry::default());
        let (early, quick) = (TestConnection::new(1), TestConnection::new(2));
        let (late, writer) = (TestConnection::new(3), TestConnection::new(4));
        let mut threads = Vec::new();
        let mut serve = |connection: &TestConnection, act: fn(&TestConnection)| {
            let connection = connection.clone();
            connection.insert(&registry);
            threads.push(spawn(&registry, move |registry| {
                act(&connection);
                registry.remove(connection.id, |_| {});
            }));
        };
        serve(&early, TestConnection::read);
        serve(&quick, |_| ());
        registry.drain(false);
        serve(&late, TestConnection::read);
        serve(&writer, TestConnection::write);

        let deadline_reached = Arc::new(AtomicBool::new(false));
        let clock = deadline_reached.clone();
        let clock = thread::spawn(move || clock.store(true, Ordering::SeqCst));
        let soon = Instant::now() + Duration::from_secs(60 * 60);
        let deadline =
            || if deadline_reached.load(Ordering::SeqCst) { Instant::now() } else { soon };
        assert!(!registry.wait_until_empty(deadline), "one of them only writes");
        assert!(deadline_reached.load(Ordering::SeqCst), "before the deadline");
        registry.force();
        assert!(registry.wait_until_empty(never));
        threads.into_iter().chain([clock]).for_each(|thread| thread.join().unwrap());

        let (drained, forced) = registry.drained_and_forced();
        let cut = |connection: &&TestConnection| connection.shut().contains(&Shutdown::Both);
        assert_eq!(forced, [&early, &quick, &late, &writer].into_iter().filter(cut).count());
        // `quick` may have ended before the stop.
        assert_eq!(drained + forced, if quick.shut().is_empty() { 3 } else { 4 });
        assert!(
            [early, late, writer].iter().all(|connection| connection.shut()[0] == Shutdown::Read)
        );
    });
}
