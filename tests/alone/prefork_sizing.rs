//! How many children a server with `Prefork` has, and when one takes the place of another.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socketserver::*;

use super::children::Commands;
use super::prefork::{MIXINS, activity, has_children, prefork};
use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, rest_of, tcp};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::system::pid_of;
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![
    a_child_ends_after_about_as_many_requests_as_it_may_serve,
    children_that_end_under_load_lose_no_connection,
    a_child_that_ends_serves_its_last_requests_beside_another,
    the_eldest_that_ends_is_stopped_if_its_place_is_needed,
    a_stop_while_children_end_answers_what_is_queued,
    a_stop_while_all_places_are_taken_answers_what_is_queued,
    as_many_children_are_idle_as_there_should_be,
    a_busy_server_with_idle_children_to_spare_loses_no_connection,
    a_request_that_takes_too_long_is_ended,
    a_child_that_hangs_is_replaced_at_once_and_killed,
    the_other_requests_of_a_child_that_hangs_end_gracefully,
    a_server_that_watches_its_children_sleeps_when_they_do,
];

pub(crate) const PARTS: &[Part] = &[("prefork-sizing", |argument| {
    serve(builder(argument).bind("127.0.0.1:0", Commands).unwrap());
})];

/// By settings such as `threading children=2 max_requests=10`.
fn builder(argument: &str) -> Builder<transport::Tcp, Prefork> {
    let mut words = argument.split(' ');
    let mut prefork = prefork(words.next().unwrap());
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        let number = || value.parse::<usize>().unwrap();
        prefork = match name {
            "children" => prefork.children(number()),
            "max_requests" => prefork.max_requests(number() as u64),
            "max_children" => prefork.max_children(number()),
            "longest_ms" => prefork.longest_request(Duration::from_millis(number() as u64)),
            "spare" => {
                let (min, max) = value.split_once('-').unwrap();
                prefork.spare(min.parse().unwrap()..=max.parse().unwrap())
            }
            name => panic!("{name}"),
        };
    }
    TcpServer::builder().mixin(prefork).stop_timeout(STOP_TIMEOUT)
}

/// Longer than the requests that end by themselves, and how long one that hangs is left to.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

#[track_caller]
fn start(settings: &str, children: usize) -> ServerProcess {
    let server = ServerProcess::start("prefork-sizing", settings);
    has_children(&server, children);
    server
}

fn pid(client: &TcpStream) -> Pid {
    pid_of(&ask(client, "pid"))
}

/// Sends a line and the end of the input, and has it answered.
#[track_caller]
fn is_answered(mut client: TcpStream) {
    client.write_all(b"hello\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest_of(&client), b"hello\n");
}

/// Four clients at a time, each of which is answered.
fn load(server: &ServerProcess, time: Duration) -> u64 {
    let (address, until) = (server.endpoint(), Instant::now() + time);
    thread::scope(|scope| {
        let clients = [(); 4].map(|()| {
            scope.spawn(|| {
                let mut count = 0;
                while Instant::now() < until {
                    is_answered(tcp(address.clone()));
                    count += 1;
                }
                count
            })
        });
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

// After so many requests.

fn a_child_ends_after_about_as_many_requests_as_it_may_serve() {
    for mixin in MIXINS {
        let server = start(&format!("{mixin} children=2 max_requests=20"), 2);
        let mut counts = HashMap::new();
        for _ in 0..400 {
            *counts.entry(ask(&server.client(), "pid")).or_insert(0) += 1;
        }
        has_children(&server, 2);
        let children: HashSet<_> = server.children().iter().map(Pid::to_string).collect();
        let ended: Vec<_> =
            counts.iter().filter(|(pid, _)| !children.contains(*pid)).map(|(_, n)| *n).collect();
        assert!(ended.len() > 10, "{mixin}: {counts:?}");
        assert!(ended.iter().all(|count| (18..=22).contains(count)), "{mixin}: {counts:?}");
        assert!(ended.iter().collect::<HashSet<_>>().len() > 1, "{mixin}: {counts:?}");
        let ended = server.stop();
        assert_eq!(["finished", "failed"].map(|name| ended.count(name)), [400, 0]);
        assert_eq!(ended.logged("child"), 0, "{ended:?}");
    }
}

fn children_that_end_under_load_lose_no_connection() {
    for mixin in MIXINS {
        let server = start(&format!("{mixin} children=2 max_requests=10"), 2);
        let count = load(&server, Duration::from_secs(2));
        has_children(&server, 2);
        let ended = server.stop();
        let counts = ["accepted", "finished", "failed"].map(|name| ended.count(name));
        assert_eq!(counts, [count, count, 0], "{mixin}");
    }
}

fn a_child_that_ends_serves_its_last_requests_beside_another() {
    for mixin in &MIXINS[1..] {
        let server = start(&format!("{mixin} children=1 max_requests=2"), 1);
        let first = [server.client(), server.client()];
        let pids = first.each_ref().map(pid);
        assert_eq!(pids[0], pids[1]);
        let later = server.client();
        assert_ne!(pid(&later), pids[0]);
        has_children(&server, 2);
        first.iter().for_each(|client| assert_eq!(pid(client), pids[0]));
        drop(first);
        has_children(&server, 1);
        drop(later);
        assert_eq!(server.stop().count("failed"), 0);
    }
}

fn the_eldest_that_ends_is_stopped_if_its_place_is_needed() {
    for mixin in &MIXINS[1..] {
        let server = start(&format!("{mixin} children=1 max_requests=1"), 1);
        let clients = [(); 3].map(|()| {
            let client = server.client();
            assert_eq!(ask(&client, "hello"), "hello");
            client
        });
        // There are places for two children. To accept the third client, and a fourth one, each takes
        // the place of one that serves its last request.
        clients[..2].iter().for_each(|client| assert!(rest_of(client).is_empty()));
        assert_eq!(ask(&clients[2], "still"), "still");
        let ended = server.stop();
        assert_eq!((ended.count("stopped"), ended.count("failed")), (3, 0), "{mixin}");
    }
}

/// Also if the last child has just ended.
fn a_stop_while_children_end_answers_what_is_queued() {
    for round in 0..20 {
        let server = start("sequential children=1 max_requests=1", 1);
        let clients: Vec<_> = (0..30).map(|_| server.client()).collect();
        for mut client in &clients {
            client.write_all(b"hello\n").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        }
        // The stop finds the server in another state each time.
        thread::sleep(Duration::from_micros(300 * round));
        server.signal(Signal::TERM);
        for client in &clients {
            assert_eq!(rest_of(client), b"hello\n");
        }
        let ended = server.wait();
        assert_eq!(["finished", "failed"].map(|name| ended.count(name)), [30, 0]);
    }
}

/// Both children have accepted their last request, and serve it.
fn a_stop_while_all_places_are_taken_answers_what_is_queued() {
    for mixin in &MIXINS[1..] {
        let server = start(&format!("{mixin} children=1 max_requests=1"), 1);
        let served = [(); 2].map(|()| {
            let client = server.client();
            assert_eq!(ask(&client, "hello"), "hello");
            client
        });
        let mut queued = server.client();
        queued.write_all(b"queued\n").unwrap();
        queued.shutdown(Shutdown::Write).unwrap();
        server.signal(Signal::TERM);
        assert_eq!(rest_of(&queued), b"queued\n", "{mixin}");
        assert!(served.iter().all(|client| rest_of(client).is_empty()));
        let ended = server.wait();
        assert_eq!(["finished", "failed"].map(|name| ended.count(name)), [3, 0], "{mixin}");
    }
}

// As many as needed.

fn as_many_children_are_idle_as_there_should_be() {
    let server = start("sequential spare=2-3 max_children=6", 2);
    let mut clients = Vec::new();
    for children in [3, 4, 5, 6, 6, 6] {
        let client = server.client();
        assert_eq!(ask(&client, "hello"), "hello");
        clients.push(client);
        has_children(&server, children);
    }
    // All are busy.
    let mut waiting = server.client();
    waiting.write_all(b"waiting\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(waiting.read(&mut [0]).is_err());
    waiting.set_read_timeout(None).unwrap();
    drop(clients.pop());
    assert_eq!(ask(&waiting, ""), "waiting");
    drop((clients, waiting));
    // One each second.
    let began = Instant::now();
    has_children(&server, 3);
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    thread::sleep(Duration::from_millis(1500));
    has_children(&server, 3);
    // Of those that are left, one may be killed.
    kill_process(server.children()[0], Signal::KILL).unwrap();
    wait_until("it is gone", || server.children().len() == 2);
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    assert_eq!(["finished", "failed"].map(|name| ended.count(name)), [8, 0]);
}

fn a_busy_server_with_idle_children_to_spare_loses_no_connection() {
    for mixin in MIXINS {
        let server = start(&format!("{mixin} spare=1-1 max_children=4 max_requests=50"), 1);
        let mut count = 0;
        for _ in 0..3 {
            count += load(&server, Duration::from_millis(500));
            // Time for children to end.
            thread::sleep(Duration::from_millis(1200));
        }
        let ended = server.stop();
        let counts = ["accepted", "finished", "failed"].map(|name| ended.count(name));
        assert_eq!(counts, [count, count, 0], "{mixin}");
    }
}

// Requests that take too long.

fn a_request_that_takes_too_long_is_ended() {
    for mixin in MIXINS {
        let server = start(&format!("{mixin} children=1 longest_ms=300"), 1);
        let began = Instant::now();
        let client = server.client();
        let child = pid(&client);
        // A later one does not hide it.
        if *mixin != "sequential" {
            echoes(server.endpoint(), "short\n");
        }
        assert!(rest_of(&client).is_empty());
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_millis(300) && elapsed < STOP_TIMEOUT, "{elapsed:?}");
        wait_until("the child has ended", || !server.children().contains(&child));
        echoes(server.endpoint(), "served by another\n");
        let ended = server.stop();
        let line = format!("child {child} has served a request for longer than 300ms; ending it");
        assert_eq!(ended.logged(&line), 1, "{ended:?}");
        assert_eq!((ended.count("stopped"), ended.count("failed")), (1, 0), "{mixin}");
    }
}

fn a_child_that_hangs_is_replaced_at_once_and_killed() {
    for mixin in MIXINS {
        let server = start(&format!("{mixin} children=1 longest_ms=200"), 1);
        let began = Instant::now();
        let hanging = server.client();
        let child = pid(&hanging);
        assert_eq!(ask(&hanging, "hang"), "hanging");
        // Those that come later wait for another child at most until then.
        wait_until("the replacement", || server.children().len() == 2);
        wait_until("a client is served by it", || {
            let client = server.client();
            pid(&client) != child
        });
        assert!(began.elapsed() < STOP_TIMEOUT, "{:?}", began.elapsed());
        assert!(matches!((&hanging).read(&mut [0]), Ok(0) | Err(_)));
        let elapsed = began.elapsed();
        assert!(elapsed < 2 * STOP_TIMEOUT, "{elapsed:?}");
        has_children(&server, 1);
        let ended = server.stop();
        assert_eq!(ended.count("failed"), 1, "{mixin}: {ended:?}");
    }
}

fn the_other_requests_of_a_child_that_hangs_end_gracefully() {
    // Of fibers, one that hangs would keep the others of its worker from running.
    let server = start("threading children=1 longest_ms=300", 1);
    let hanging = server.client();
    assert_eq!(ask(&hanging, "hang"), "hanging");
    let other = server.client();
    let child = pid(&other);
    (&other).write_all(b"one\ntwo\n").unwrap();
    assert_eq!(rest_of(&other), b"one\ntwo\n");
    wait_until("the child has ended", || !server.children().contains(&child));
    let ended = server.stop();
    assert_eq!((ended.count("stopped"), ended.count("failed")), (1, 1), "{ended:?}");
}

fn a_server_that_watches_its_children_sleeps_when_they_do() {
    let settings = "sequential spare=2-4 max_children=8 max_requests=100 longest_ms=200";
    let server = start(settings, 2);
    (0..8).for_each(|_| echoes(server.endpoint(), "a while ago\n"));
    thread::sleep(Duration::from_millis(1500));
    let processes = [server.children(), vec![server.pid()]].concat();
    let activity = || processes.iter().map(|pid| activity(*pid)).collect::<Vec<_>>();
    let before = activity();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(activity(), before);
    server.stop();
}
