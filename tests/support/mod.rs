//! What the test programs share: clients, servers, processes, and waiting with a bound.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod clients;
pub(crate) mod close_reasons;
pub(crate) mod process;
pub(crate) mod proxies;
pub(crate) mod recorder;
pub(crate) mod server_process;
pub(crate) mod servers;
pub(crate) mod system;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long any one step of a test may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

thread_local! {
    /// Dropped when the thread ends, which tells the thread that watches it.
    static BOUND: Option<Sender<()>> = watch_this_thread();
}

/// Bounds the time of the current test, if it is one of the standard harness, which has no bound of
/// its own. The functions of this module that tests start with call it.
pub(crate) fn bound_test() {
    BOUND.with(|_| ());
}

fn watch_this_thread() -> Option<Sender<()>> {
    // The standard harness names the thread of a test by the test's path.
    let name = thread::current().name().filter(|name| name.contains("::"))?.to_owned();
    let (sender, ended) = channel();
    thread::spawn(move || {
        if ended.recv_timeout(2 * TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            // Not by `eprintln!`, whose output is captured here.
            let _ = writeln!(std::io::stderr(), "test {name} has not ended after a minute");
            std::process::exit(101);
        }
    });
    Some(sender)
}

/// Waits for a condition that no event announces.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    bound_test();
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The next message on a channel.
#[track_caller]
pub(crate) fn next<T>(receiver: &Receiver<T>) -> T {
    bound_test();
    receiver.recv_timeout(TIMEOUT).expect("a message")
}

/// Blocks threads while it is closed, which it is at first.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    pub(crate) fn close(&self) {
        *self.0.0.lock() = false;
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.0.lock()
    }

    /// Blocks the thread until the gate is open.
    pub(crate) fn pass(&self) {
        let mut is_open = self.0.0.lock();
        self.0.1.wait_while_for(&mut is_open, |is_open| !*is_open, TIMEOUT);
        assert!(*is_open, "timed out: the gate is not opened");
    }
}

fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An unused abstract name of a Unix socket, as `@name`. Where a server cannot have one, a path in the
/// directory for temporary files.
pub(crate) fn abstract_name() -> String {
    let name = format!("socketserver-test-{}", unique());
    if cfg!(all(target_os = "linux", not(socketserver_portable))) {
        format!("@{name}")
    } else {
        std::env::temp_dir().join(name).display().to_string()
    }
}

/// A directory of one test, removed on drop.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        let path = std::env::temp_dir().join(format!("socketserver-test-{}", unique()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
