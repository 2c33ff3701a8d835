//! A server whose fiber workers cannot be started. The tests set the descriptor limit of this process.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::tcp;
use crate::support::system::serving_threads;
use crate::support::{TIMEOUT, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    serving_fails_when_the_workers_cannot_be_started,
    serving_starts_the_workers,
    handle_request_refuses_a_client_without_workers_and_starts_them_for_the_next,
];

/// What the two workers need: an eventfd and an epoll instance each, and an eventfd for the
/// watchdog. Elsewhere a pipe each, and one for the watchdog.
const NEEDED: u64 = if cfg!(socketserver_portable) { 6 } else { 5 };

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

/// What an echo server answers to "hello": nothing if it refuses the client.
fn answer(mut client: TcpStream) -> String {
    // A refused client may get RST before it has sent all.
    let _ = client.write_all(b"hello");
    let _ = client.shutdown(std::net::Shutdown::Write);
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    answer
}

#[track_caller]
fn assert_out_of_descriptors(result: Result<()>) {
    match result {
        Err(Error::System { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
        }
        other => panic!("{other:?}"),
    }
}

fn serving_fails_when_the_workers_cannot_be_started() {
    for free in 0..NEEDED {
        let (server, other) = (bind(), bind());
        let client = tcp(server.local_addr());
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
    wait_until("the workers of the failed starts have ended", || serving_threads() == 0);
}

fn serving_starts_the_workers() {
    let server = bind();
    let few = FewDescriptors::leave(NEEDED);
    let server = server.spawn().unwrap();
    drop(few);
    assert_eq!(answer(tcp(server.local_addr())), "hello");
}

fn handle_request_refuses_a_client_without_workers_and_starts_them_for_the_next() {
    let server = bind();
    let client = tcp(server.local_addr());
    // One more for the connection, and one too few for the second worker.
    let few = FewDescriptors::leave(NEEDED);
    assert_eq!(server.handle_request(), Handled::Request);
    drop(few);
    assert_eq!(answer(client), "");
    for _ in 0..2 {
        let client = tcp(server.local_addr());
        assert_eq!(server.handle_request(), Handled::Request);
        assert_eq!(answer(client), "hello");
    }
    let stats = server.handle().stats();
    assert_eq!((stats.refused, stats.accepted), (1, 3));
}
