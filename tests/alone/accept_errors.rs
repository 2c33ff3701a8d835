//! Failures of `accept`: those that concern one connection are ignored, and those of the system make
//! the server wait and log, but not end. This test sets the logger of the process.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::Tcp;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::TIMEOUT;
use crate::support::clients::echoes;

pub(crate) const TESTS: &[Test] =
    tests![accept_errors_do_not_end_the_server_and_only_those_of_the_system_delay_it];

/// TCP whose `accept` fails as long as there are failures left.
struct Faulty(Tcp);

static FAILURES: Mutex<Vec<Failure>> = Mutex::new(Vec::new());

#[derive(Clone, Copy, Debug)]
enum Failure {
    Errno(i32),
    Panic,
}

impl AsFd for Faulty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for Faulty {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> socketserver::Result<Faulty> {
        Tcp::bind(endpoint, options).map(Faulty)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingStream> {
        match FAILURES.lock().pop() {
            None => self.0.accept(options),
            Some(Failure::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            // The panic hook is not called, and prints nothing.
            Some(Failure::Panic) => resume_unwind(Box::new("as told")),
        }
    }
}

/// Keeps warnings and errors.
struct Kept(Mutex<Vec<String>>);

static LOG: Kept = Kept(Mutex::new(Vec::new()));

impl Log for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

const AT_ONCE: Duration = Duration::from_millis(100);
/// The pauses after three failures of the system.
const BACKOFF: Duration = Duration::from_millis(5 + 10 + 20);

fn accept_errors_do_not_end_the_server_and_only_those_of_the_system_delay_it() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(LevelFilter::Trace);
    for errno in [
        libc::ECONNABORTED,
        libc::ECONNRESET,
        libc::EINTR,
        libc::EPROTO,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        #[cfg(target_os = "linux")]
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
        libc::EPERM,
        libc::ETIMEDOUT,
    ] {
        fails(Failure::Errno(errno), 50, 0, Duration::ZERO..AT_ONCE);
    }
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINVAL] {
        fails(Failure::Errno(errno), 3, 3, BACKOFF..BACKOFF + AT_ONCE);
    }
    // More than a hundred in a row are taken for a failure of the system.
    fails(Failure::Errno(libc::EPROTO), 103, 3, BACKOFF..BACKOFF + AT_ONCE);
    fails(Failure::Panic, 3, 3, BACKOFF..BACKOFF + AT_ONCE);
}

/// `accept` fails so many times, of which so many are counted, and then a client is served.
#[track_caller]
fn fails(failure: Failure, times: usize, counted: u64, within: Range<Duration>) {
    // The fastest of three rounds counts, since other programs may delay one.
    let rounds = [(); 3].map(|()| {
        let server = Server::<Faulty, Threading>::bind("127.0.0.1:0", Echo).unwrap();
        let server = server.spawn().unwrap();
        *FAILURES.lock() = vec![failure; times];
        let began = Instant::now();
        echoes(server.local_addr(), "hello\n");
        let took = began.elapsed();
        assert!(FAILURES.lock().is_empty());
        assert_eq!(server.stats().accept_errors, counted, "{failure:?}");
        assert!(server.stop(TIMEOUT).is_clean());
        took
    });
    let fastest = rounds.into_iter().min().unwrap();
    assert!(within.contains(&fastest), "{failure:?}: {rounds:?}");
    // Logged once in each round, with the error.
    let logged = std::mem::take(&mut *LOG.0.lock());
    let says = |line: &String| match failure {
        Failure::Errno(errno) => line.contains(&format!("(os error {errno}); trying again")),
        Failure::Panic => line.contains("the transport panicked: as told; trying again"),
    };
    assert_eq!(logged.len(), if counted == 0 { 0 } else { 3 }, "{failure:?}: {logged:?}");
    assert!(logged.iter().all(says), "{failure:?}: {logged:?}");
}
