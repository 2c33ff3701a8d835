//! Servers that relay: what they keep open, what they do without descriptors, and in children. Each
//! server is a process of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::{NAMES, mixin_named};
use crate::support::TIMEOUT;
use crate::support::clients::{line_of, reset, rest_of};
use crate::support::server_process::{Part, ServerProcess, serve};
#[cfg(feature = "fibers")]
use crate::support::system::{raise_descriptor_limit, status_of};

pub(crate) const TESTS: &[Test] = tests![
    relays_one_at_a_time_leave_no_descriptor_behind,
    relays_on_threads_leave_no_descriptor_behind,
    relays_in_children_leave_no_descriptor_behind,
    a_relay_without_descriptors_for_a_pipe_copies,
    connecting_without_descriptors_is_an_error_and_the_server_goes_on,
    a_child_relays_and_a_stop_drains_it,
];

#[cfg(feature = "fibers")]
pub(crate) const FIBER_TESTS: &[Test] = tests![
    relays_on_fibers_leave_no_descriptor_behind,
    thousands_of_pairs_are_relayed_by_two_workers,
];

pub(crate) const PARTS: &[Part] = &[
    ("relay", serve_relay),
    #[cfg(feature = "fibers")]
    ("many", serve_many),
];

/// A relay as a process, and the server behind it, played by the test.
struct Scene {
    gateway: ServerProcess,
    upstream: TcpListener,
}

impl Scene {
    fn new(mixin: &str, way: &str) -> Scene {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let argument = format!("{mixin} {way} {}", upstream.local_addr().unwrap());
        Scene { gateway: ServerProcess::start("relay", &argument), upstream }
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.gateway.client();
        let (upstream, _) = self.upstream.accept().unwrap();
        upstream.set_read_timeout(Some(TIMEOUT)).unwrap();
        upstream.set_write_timeout(Some(TIMEOUT)).unwrap();
        (client, upstream)
    }

    fn descriptors(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.gateway.pid().as_raw_nonzero());
        let all = std::fs::read_dir(folder).unwrap();
        let links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    }

    fn open(&self, what: &str) -> usize {
        self.descriptors().iter().filter(|link| link.starts_with(what)).count()
    }
}

/// So much, with both directions at the same time, is spliced if that is possible.
fn carries_bulk(client: &TcpStream, upstream: &TcpStream) {
    const LENGTH: usize = 1_000_000;
    let bytes: Vec<u8> = (0..LENGTH as u32).flat_map(|number| number.to_le_bytes()).collect();
    let send = |mut stream: &TcpStream| stream.write_all(&bytes[..LENGTH]).unwrap();
    let receive = |mut stream: &TcpStream| {
        let mut received = vec![0; LENGTH];
        stream.read_exact(&mut received).unwrap();
        assert!(received == bytes[..LENGTH]);
    };
    thread::scope(|scope| {
        scope.spawn(|| send(client));
        scope.spawn(|| send(upstream));
        scope.spawn(|| receive(client));
        receive(upstream);
    });
}

fn relays_one_at_a_time_leave_no_descriptor_behind() {
    leaves_no_descriptor_behind("sequential");
}

fn relays_on_threads_leave_no_descriptor_behind() {
    leaves_no_descriptor_behind("threading");
}

fn relays_in_children_leave_no_descriptor_behind() {
    leaves_no_descriptor_behind("forking");
}

#[cfg(feature = "fibers")]
fn relays_on_fibers_leave_no_descriptor_behind() {
    leaves_no_descriptor_behind("fibers");
}

fn leaves_no_descriptor_behind(mixin: &str) {
    let scene = Scene::new(mixin, "plainly");
    let open = || ["socket:", "pipe:"].map(|what| scene.open(what));
    let before = open();
    let (client, upstream) = scene.pair();
    carries_bulk(&client, &upstream);
    let splices = cfg!(not(socketserver_portable));
    if splices && mixin != "forking" {
        assert!(scene.open("pipe:") >= before[1] + 4, "{mixin}: {:?}", scene.descriptors());
    }
    drop((client, upstream));
    for ending in 0..12 {
        let (client, upstream) = scene.pair();
        if ending % 2 == 0 {
            carries_bulk(&client, &upstream);
        }
        match ending / 2 {
            0 => drop((client, upstream)),
            1 => {
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(rest_of(&upstream), b"");
                drop(upstream);
                assert_eq!(rest_of(&client), b"");
            }
            2 => reset(client),
            3 => reset(upstream),
            4 => {
                reset(client);
                reset(upstream);
            }
            _ => {
                (&client).write_all(b"bye").unwrap();
                drop(client);
                assert_eq!(rest_of(&upstream), b"bye");
            }
        }
    }
    let begin = Instant::now();
    while open() != before {
        assert!(begin.elapsed() < TIMEOUT, "{mixin}: {:?}", scene.descriptors());
        thread::sleep(Duration::from_millis(5));
    }
    // A pair is open when the server stops.
    let (client, _upstream) = scene.pair();
    let begin = Instant::now();
    let ended = scene.gateway.stop();
    assert!(begin.elapsed() < Duration::from_secs(15), "{mixin}: {:?}", begin.elapsed());
    assert!(ended.says("drained 0, forced 1"), "{mixin}: {ended:?}");
    assert_eq!(rest_of(&client), b"", "{mixin}");
}

fn a_relay_without_descriptors_for_a_pipe_copies() {
    for mixin in NAMES {
        let scene = Scene::new(mixin, "without-descriptors");
        let (client, upstream) = scene.pair();
        assert_eq!(line_of(&client), "all are taken", "{mixin}");
        let pipes = scene.open("pipe:");
        for _ in 0..2 {
            carries_bulk(&client, &upstream);
        }
        assert_eq!(scene.open("pipe:"), pipes, "{mixin}");
        drop(upstream);
        assert_eq!(rest_of(&client), b"");
        drop(client);
        let ended = scene.gateway.stop();
        assert!(ended.lines().any(|line| line.ends_with(", forced 0")), "{mixin}: {ended:?}");
    }
}

fn connecting_without_descriptors_is_an_error_and_the_server_goes_on() {
    for mixin in NAMES {
        let scene = Scene::new(mixin, "after-descriptors");
        for _ in 0..3 {
            let client = scene.gateway.client();
            let line = line_of(&client);
            assert!(line.contains("cannot connect to 127.0.0.1:"), "{mixin}: {line}");
            assert!(line.contains("Too many open files"), "{mixin}: {line}");
            drop(client);
        }
        let ended = scene.gateway.stop();
        if *mixin != "forking" {
            assert_eq!([ended.count("upstreams"), ended.count("upstream_errors")], [0, 3]);
        }
    }
}

fn a_child_relays_and_a_stop_drains_it() {
    let scene = Scene::new("forking", "plainly");
    let (first, second) = (scene.pair(), scene.pair());
    assert_eq!(scene.gateway.children().len(), 2);
    for (client, upstream) in [&first, &second] {
        carries_bulk(client, upstream);
    }
    let (client, upstream) = first;
    (&client).write_all(b"question\n").unwrap();
    assert_eq!(line_of(&upstream), "question");
    drop(second);
    let Scene { gateway, .. } = scene;
    thread::scope(|scope| {
        let stop = scope.spawn(|| gateway.stop());
        assert_eq!(rest_of(&upstream), b"");
        // The upstream answers later.
        thread::sleep(Duration::from_millis(200));
        (&upstream).write_all(b"answer\n").unwrap();
        drop(upstream);
        assert_eq!(rest_of(&client), b"answer\n");
        drop(client);
        let ended = stop.join().unwrap();
        assert!(ended.lines().any(|line| line.ends_with("forced 0")), "{ended:?}");
        assert!(!ended.lines().any(|line| line.starts_with("killed")), "{ended:?}");
    });
}

/// As many as the limits on descriptors allow: a pair takes two of the gateway.
#[cfg(feature = "fibers")]
fn thousands_of_pairs_are_relayed_by_two_workers() {
    let count = (raise_descriptor_limit().saturating_sub(200) / 2).min(10_000);
    let echo = ServerProcess::start("many", "echo");
    let gateway = ServerProcess::start("many", &echo.address);
    let memory = || status_of(gateway.pid(), "VmRSS").parse::<usize>().unwrap();
    let (before, begin) = (memory(), Instant::now());
    let clients: Vec<_> = (0..count).map(|_| gateway.client()).collect();
    for round in 0..3 {
        for mut client in &clients {
            client.write_all(format!("{round}\n").as_bytes()).unwrap();
        }
        for client in &clients {
            assert_eq!(line_of(client), round.to_string());
        }
    }
    let each = 1024 * (memory() - before) / count;
    println!("  {count} pairs, {:?}, {each} bytes of memory each", begin.elapsed());
    assert!(each < 64 * 1024);
    drop(clients);
    let ended = gateway.stop();
    assert_eq!(ended.count("upstreams"), count as u64);
    assert_eq!([ended.count("upstream_errors"), ended.count("failed")], [0; 2]);
    assert!(ended.lines().any(|line| line.ends_with(", forced 0")), "{ended:?}");
    echo.stop();
}

// The servers.

#[cfg(feature = "fibers")]
fn serve_many(what: &str) {
    raise_descriptor_limit();
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(2));
    let builder = builder.max_connections(20_000).backlog(4096);
    if what == "echo" {
        return serve(builder.bind("127.0.0.1:0", services::Echo).unwrap());
    }
    let upstream = what.to_owned();
    let relay = handler_fn(move |client| {
        let mut upstream = client.connect(&*upstream, TIMEOUT)?;
        client.relay(&mut upstream)?;
        Ok(())
    });
    serve(builder.bind("127.0.0.1:0", relay).unwrap());
}

fn serve_relay(argument: &str) {
    let words: Vec<_> = argument.split(' ').collect();
    let [mixin, way, upstream] = words[..] else { panic!("{argument}") };
    let (way, upstream) = (way.to_owned(), upstream.to_owned());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..limit }).unwrap();
    let handler = handler_fn(move |client| {
        let take_all = || -> Vec<File> {
            let files = std::iter::repeat_with(|| File::open("/dev/null"));
            files.map_while(std::result::Result::ok).collect()
        };
        let mut held = Vec::new();
        if way == "after-descriptors" {
            held = take_all();
        }
        let connected = client.connect(&*upstream, TIMEOUT);
        if way == "without-descriptors" {
            held = take_all();
            client.write_all(b"all are taken\n")?;
        }
        match connected {
            Ok(mut upstream) => _ = client.relay(&mut upstream),
            Err(error) => writeln!(client, "{error}")?,
        }
        drop(held);
        Ok(())
    });
    let mixin = mixin_named(mixin);
    let builder = TcpServer::builder().mixin(mixin).stop_timeout(Duration::from_secs(2));
    serve(builder.bind("127.0.0.1:0", handler).unwrap());
}
