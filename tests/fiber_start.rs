//! A server whose fiber workers cannot be started. The tests set the limit on descriptors of their
//! process, one at a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketserver::services::Echo;
use socketserver::*;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What the two workers need: an eventfd and an epoll instance each, and an eventfd for the
/// watchdog.
const NEEDED: u64 = 5;

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock()
}

/// Leaves `count` free descriptors until it is dropped.
struct FewDescriptors(Rlimit);

impl FewDescriptors {
    fn leave(count: u64) -> FewDescriptors {
        let limit = getrlimit(Resource::Nofile);
        let is_free = |number: &u64| !Path::new(&format!("/proc/self/fd/{number}")).exists();
        let lowered = (0..).filter(is_free).nth(count as usize);
        setrlimit(Resource::Nofile, Rlimit { current: lowered, ..limit }).unwrap();
        FewDescriptors(limit)
    }
}

impl Drop for FewDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

fn bind() -> FiberTcpServer {
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    builder.request_timeout(TIMEOUT).bind("127.0.0.1:0", Echo).unwrap()
}

fn connect(address: &Address) -> TcpStream {
    let Address::Tcp(address) = address else { panic!("{address}") };
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.set_write_timeout(Some(TIMEOUT)).unwrap();
    client
}

/// What an echo server answers to "hello": nothing if it refuses the client.
fn answer(mut client: TcpStream) -> String {
    // A refused client may get RST before it has sent all.
    let _ = client.write_all(b"hello");
    let _ = client.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    answer
}

fn worker_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "socketserver").count()
}

#[track_caller]
fn assert_out_of_descriptors(result: Result<()>) {
    match result {
        Err(Error::System { doing: _, source }) => {
            assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn serving_fails_when_the_workers_cannot_be_started() {
    let _alone = alone();
    for free in 0..NEEDED {
        let (server, other) = (bind(), bind());
        let client = connect(server.local_addr());
        let few = FewDescriptors::leave(free);
        assert_out_of_descriptors(server.serve_forever());
        // The first server has returned its descriptors.
        drop(few);
        let few = FewDescriptors::leave(free);
        assert_out_of_descriptors(other.spawn().map(drop));
        drop(few);
        assert_eq!(answer(client), "");
    }
    // pthread_join returns slightly before the thread leaves /proc/self/task.
    let deadline = Instant::now() + TIMEOUT;
    while worker_threads() > 0 {
        assert!(Instant::now() < deadline, "a worker of a failed start is left");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn serving_starts_the_workers() {
    let _alone = alone();
    let server = bind();
    let few = FewDescriptors::leave(NEEDED);
    let server = server.spawn().unwrap();
    drop(few);
    assert_eq!(answer(connect(server.local_addr())), "hello");
}

#[test]
fn handle_request_refuses_a_client_without_workers_and_starts_them_for_the_next() {
    let _alone = alone();
    let server = bind();
    let client = connect(server.local_addr());
    // One more for the connection, and one too few for the second worker.
    let few = FewDescriptors::leave(NEEDED);
    assert_eq!(server.handle_request(), Handled::Request);
    drop(few);
    assert_eq!(answer(client), "");
    for _ in 0..2 {
        let client = connect(server.local_addr());
        assert_eq!(server.handle_request(), Handled::Request);
        assert_eq!(answer(client), "hello");
    }
    let stats = server.handle().stats();
    assert_eq!((stats.refused, stats.accepted), (1, 3));
}
