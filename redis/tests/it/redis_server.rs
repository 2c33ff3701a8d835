//! A `redis-server` of a test's own, and a proxy to it that can fail.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::process::Signal;

use crate::support::process::Process;
use crate::support::{TempDir, wait_until};

/// A `redis-server` on a Unix socket, with an append-only file: its data outlive the process.
pub(crate) struct RedisServer {
    directory: TempDir,
    process: Option<Process>,
}

/// An entry of a room's stream: its author, as `server:member`, and the line.
pub(crate) type Entry = (String, String);

impl RedisServer {
    pub(crate) fn start() -> RedisServer {
        let mut redis = RedisServer { directory: TempDir::new(), process: None };
        redis.start_again();
        redis
    }

    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""]);
        // With `everysec` it may reply before it has written.
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        command.current_dir(self.directory.path());
        let process = Process::spawn(command);
        while !process.line().contains("eady to accept connections") {}
        self.process = Some(process);
    }

    /// With SIGKILL.
    pub(crate) fn kill(&mut self) {
        let process = self.process.take().expect("it runs");
        process.signal(Signal::KILL);
        process.wait();
    }

    /// Stops it until [`thaw`](RedisServer::thaw).
    pub(crate) fn freeze(&self) {
        self.process.as_ref().expect("it runs").freeze();
    }

    pub(crate) fn thaw(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::CONT);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.directory.join("redis.sock").display())
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// All entries of a room, in their order.
    pub(crate) fn entries(&self, room: &str) -> Vec<Entry> {
        let entries: Vec<(String, Vec<(String, String)>)> = redis::cmd("XRANGE")
            .arg(&[&format!("chat:{{{room}}}:stream"), "-", "+"])
            .query(&mut self.connect())
            .unwrap();
        let entry = |fields: Vec<(String, String)>| {
            let field = |name: &str| {
                fields
                    .iter()
                    .find(|(field, _)| field == name)
                    .unwrap_or_else(|| panic!("{name}"))
                    .1
                    .clone()
            };
            (field("author"), field("line"))
        };
        entries.into_iter().map(|(_, fields)| entry(fields)).collect()
    }

    /// A proxy to it, on a socket of its own.
    pub(crate) fn proxy(&self) -> Proxy {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(&format!("proxy-{number}.sock"));
        let proxy =
            Proxy { url: format!("redis+unix://{}", path.display()), traffic: Arc::default() };
        let listener = UnixListener::bind(path).unwrap();
        let (redis, traffic) = (self.directory.join("redis.sock"), proxy.traffic.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Locked before the check, so that `cut` misses no connection.
                let mut known = traffic.ends.lock();
                if traffic.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = UnixStream::connect(&redis) else { continue };
                let ends = [client, server];
                let clones = || ends.each_ref().map(|end| end.try_clone().unwrap());
                let ([from, to], [back_to, back_from]) = (clones(), clones());
                let (there, back) = (traffic.clone(), traffic.clone());
                thread::spawn(move || there.carry(from, to, true));
                thread::spawn(move || back.carry(back_from, back_to, false));
                known.extend(ends);
            }
        });
        proxy
    }
}

/// Forwards all bytes between chat servers and Redis, until it is told to fail.
pub(crate) struct Proxy {
    url: String,
    traffic: Arc<Traffic>,
}

#[derive(Default)]
struct Traffic {
    is_cut: AtomicBool,
    ends: Mutex<Vec<UnixStream>>,
    /// A request with these bytes cuts its connection before the reply.
    cut_trigger: Mutex<Option<Vec<u8>>>,
    /// Locked while such a request is held back.
    held: Mutex<()>,
    /// The delay of each part of a request.
    delay: Mutex<Duration>,
}

impl Proxy {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn cut(&self) {
        self.traffic.is_cut.store(true, Ordering::SeqCst);
        self.traffic.disconnect_all();
    }

    pub(crate) fn restore(&self) {
        self.traffic.is_cut.store(false, Ordering::SeqCst);
    }

    /// Forwards the next request with these bytes, and cuts its connection before the reply.
    pub(crate) fn cut_after(&self, bytes: &str) {
        *self.traffic.cut_trigger.lock() = Some(bytes.into());
    }

    /// Cuts the connection of the next request with these bytes, and forwards the request when the
    /// guard is dropped.
    pub(crate) fn hold(&self, bytes: &str) -> MutexGuard<'_, ()> {
        self.cut_after(bytes);
        self.traffic.held.lock()
    }

    pub(crate) fn slow_down(&self, delay: Duration) {
        *self.traffic.delay.lock() = delay;
    }

    /// Waits for the request of [`cut_after`](Proxy::cut_after) or [`hold`](Proxy::hold).
    #[track_caller]
    pub(crate) fn was_cut(&self) {
        wait_until("the proxy is cut", || self.traffic.cut_trigger.lock().is_none());
    }
}

impl Traffic {
    /// Forwards one direction, until either end is closed.
    fn carry(&self, mut from: UnixStream, mut to: UnixStream, is_request: bool) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            if is_request {
                let delay = *self.delay.lock();
                thread::sleep(delay);
            }
            if is_request && self.triggers_cut(bytes) {
                let _ = from.shutdown(Shutdown::Both);
                let _held = self.held.lock();
                let _ = to.write_all(bytes);
            } else if to.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    fn triggers_cut(&self, bytes: &[u8]) -> bool {
        let mut cut_trigger = self.cut_trigger.lock();
        let has = |cut_trigger: &Vec<u8>| {
            bytes.windows(cut_trigger.len()).any(|part| part == cut_trigger)
        };
        cut_trigger.take_if(|cut_trigger| has(cut_trigger)).is_some()
    }

    fn disconnect_all(&self) {
        for end in self.ends.lock().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}
