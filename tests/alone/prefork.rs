//! What a server with `Prefork` promises. Each server is a process of its own, with its children.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::*;

use super::children::Commands;
use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, rest_of, tcp, unix, unixgram};
use crate::support::server_process::{Part, ServerProcess, announce, serve};
use crate::support::system::{Bystanders, pid_of};
use crate::support::{TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    four_transports_are_served_under_each_mixin_beside_other_children,
    datagrams_of_different_lengths_are_received_whole,
    children_serve_at_the_same_time,
    connections_are_spread_over_the_children,
    every_child_serves_every_listener,
    a_child_at_its_limit_leaves_connections_to_the_others,
    handle_request_serves_in_this_process,
    it_refuses_a_process_with_threads,
    a_child_has_none_of_its_parents_descriptors,
    an_idle_server_and_its_children_sleep,
    a_thousand_killed_children_are_replaced_and_leave_no_zombie,
    a_crash_costs_one_child_and_is_logged,
    children_that_die_at_once_are_started_again_ever_more_slowly,
    sigterm_to_a_child_ends_it_gracefully_and_another_takes_its_place,
    a_child_can_shut_the_server_down,
    a_childs_stop_is_as_short_for_all,
    a_stop_answers_what_was_received_and_what_is_queued,
    a_signal_to_all_processes_loses_nothing,
    children_whose_requests_do_not_end_are_killed_by_a_stop,
    orphans_answer_what_was_received_and_end,
    clients_are_served_while_children_are_killed,
];

pub(crate) const PARTS: &[Part] = &[
    ("prefork-matrix", serve_matrix),
    ("prefork", |argument| {
        serve(builder::<Tcp>(argument).bind("127.0.0.1:0", Commands).unwrap());
    }),
    ("prefork-unix", |path| {
        serve(builder::<UnixStream>("sequential 2").bind(path, Commands).unwrap())
    }),
    ("prefork-listeners", |argument| {
        let builder = builder::<Tcp>(argument).also("127.0.0.1:0");
        serve(builder.bind("127.0.0.1:0", Commands).unwrap());
    }),
    ("prefork-one-thread", |_| {
        let mixin = Prefork::of(Threading::new().max_threads(1)).children(2);
        serve(TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Commands).unwrap());
    }),
    ("prefork-handle-request", |_| {
        let server = builder::<Tcp>("threading 2").bind("127.0.0.1:0", Commands).unwrap();
        announce(server.local_addr());
        println!("{} {:?}", std::process::id(), server.handle_request());
    }),
    ("prefork-threads", |_| {
        let server = builder::<Tcp>("sequential 2").bind("127.0.0.1:0", Echo).unwrap();
        announce(server.local_addr());
        thread::scope(|scope| {
            let (keep, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || _ = wait.recv());
            println!("{}", server.serve_forever().unwrap_err());
            drop(keep);
        });
    }),
];

/// Long enough for all requests that end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(feature = "fibers")]
pub(crate) const MIXINS: &[&str] = &["sequential", "threading", "fibers"];
#[cfg(not(feature = "fibers"))]
pub(crate) const MIXINS: &[&str] = &["sequential", "threading"];

/// By a mixin and a number of children: `threading 2`.
fn builder<T: Transport>(argument: &str) -> Builder<T, Prefork> {
    let (mixin, children) = argument.split_once(' ').unwrap();
    let prefork = prefork(mixin).children(children.parse().unwrap());
    Server::<T, Sequential>::builder().mixin(prefork).stop_timeout(STOP_TIMEOUT)
}

pub(crate) fn prefork(mixin: &str) -> Prefork {
    match mixin {
        "sequential" => Prefork::new(),
        "threading" => Prefork::of(Threading::new()),
        #[cfg(feature = "fibers")]
        "fibers" => Prefork::of(Fibers::new().workers(1)),
        mixin => panic!("{mixin}"),
    }
}

fn serve_matrix(argument: &str) {
    let (mixin, address) = argument.split_once(' ').unwrap();
    let mixin = format!("{mixin} 3");
    let bystanders = Bystanders::start();
    match address.parse::<Endpoint>().unwrap().scheme() {
        Some(Scheme::Udp) => serve(builder::<Udp>(&mixin).bind(address, Echo).unwrap()),
        Some(Scheme::Unix) => serve(builder::<UnixStream>(&mixin).bind(address, Echo).unwrap()),
        Some(Scheme::UnixDatagram) => {
            serve(builder::<UnixDatagram>(&mixin).bind(address, Echo).unwrap());
        }
        _ => serve(builder::<Tcp>(&mixin).bind(address, Echo).unwrap()),
    }
    bystanders.are_unharmed();
    println!("bystanders are unharmed");
}

/// A server that has all of its children.
#[track_caller]
fn start(mixin: &str, children: usize) -> ServerProcess {
    let server = ServerProcess::start("prefork", &format!("{mixin} {children}"));
    has_children(&server, children);
    server
}

/// Waits until it has so many children, none of them a zombie.
#[track_caller]
pub(crate) fn has_children(server: &ServerProcess, number: usize) {
    let is_alive = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    wait_until("the children", || {
        let children = server.children();
        children.len() == number && children.iter().all(is_alive)
    });
}

// Serving.

fn four_transports_are_served_under_each_mixin_beside_other_children() {
    let directory = TempDir::new();
    let path = |scheme| format!("{scheme}:{}", directory.join(scheme).display());
    for mixin in MIXINS {
        for address in [
            "tcp://127.0.0.1:0".to_owned(),
            "tcp://[::1]:0".to_owned(),
            "udp://127.0.0.1:0".to_owned(),
            path("unix"),
            path("unixgram"),
            format!("unix:{}", abstract_name()),
        ] {
            let server = ServerProcess::start("prefork-matrix", &format!("{mixin} {address}"));
            for text in ["first", "second\nand more\n", "third \u{1F980}\n"] {
                echoes(server.endpoint(), text);
            }
            let ended = server.stop();
            assert!(ended.says("bystanders are unharmed"), "{mixin} {address}: {ended:?}");
            let counts = ["accepted", "finished", "active", "failed"].map(|name| ended.count(name));
            assert_eq!(counts, [3, 3, 0, 0], "{mixin} {address}");
            let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// A child that has asked for the length of one may receive another, which is longer.
fn datagrams_of_different_lengths_are_received_whole() {
    let address = format!("unixgram:{}", abstract_name());
    let server = ServerProcess::start("prefork-matrix", &format!("sequential {address}"));
    thread::scope(|scope| {
        for client in 1..=4 {
            let socket = unixgram(server.endpoint());
            scope.spawn(move || {
                for number in 0..5000 {
                    let data = vec![b'x'; 1 + (client * number) % 1000];
                    socket.send(&data).unwrap();
                    let mut answer = [0; 1001];
                    assert_eq!(socket.recv(&mut answer).unwrap(), data.len());
                }
            });
        }
    });
    let ended = server.stop();
    assert_eq!(["finished", "truncated"].map(|name| ended.count(name)), [20_000, 0]);
}

fn children_serve_at_the_same_time() {
    let server = start("sequential", 3);
    let clients: Vec<_> = (0..3).map(|_| server.client()).collect();
    let pids: HashSet<_> = clients.iter().map(|client| ask(client, "pid")).collect();
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(!pids.contains(&server.pid().to_string()));
    let ended = server.stop();
    assert_eq!((ended.count("accepted"), ended.count("stopped")), (3, 3));
    assert!(ended.says("drained 3, forced 0"), "{ended:?}");
}

fn connections_are_spread_over_the_children() {
    for mixin in &MIXINS[1..] {
        let server = start(mixin, 3);
        // Each child has started.
        let (mut started, mut pids) = (Vec::new(), HashSet::new());
        wait_until("a connection to each child", || {
            let client = server.client();
            pids.insert(ask(&client, "pid"));
            started.push(client);
            pids.len() == 3
        });
        drop(started);
        let mut counts = HashMap::new();
        let clients = [(); 30].map(|()| {
            let client = server.client();
            *counts.entry(ask(&client, "pid")).or_insert(0) += 1;
            client
        });
        // Those of before, which are just ending, count too where they are.
        assert!(
            counts.len() == 3 && counts.values().all(|count| *count > 1),
            "{mixin}: {counts:?}"
        );
        drop(clients);
        server.stop();
    }
}

fn every_child_serves_every_listener() {
    for mixin in MIXINS {
        let server = ServerProcess::start("prefork-listeners", &format!("{mixin} 2"));
        let [first, second] = &server.addresses(2)[..] else { unreachable!() };
        has_children(&server, 2);
        let (mut seen, mut pairs) = (HashSet::new(), 0);
        wait_until("each child has served at each listener", || {
            let clients = [first, second].map(|address| tcp(address.clone()));
            // Both are answered at the same time, by whichever child was woken for which.
            let pids = clients.each_ref().map(|client| ask(client, "pid"));
            assert!(*mixin != "sequential" || pids[0] != pids[1], "{pids:?}");
            seen.extend(pids.into_iter().enumerate());
            pairs += 1;
            pairs >= 300 && seen.len() == 4
        });
        let clients: Vec<_> = (0..20).map(|n| tcp([first, second][n % 2].clone())).collect();
        clients.iter().for_each(|mut client| client.write_all(b"one\ntwo\n").unwrap());
        server.signal(Signal::TERM);
        for client in &clients {
            assert_eq!(rest_of(client), b"one\ntwo\n", "{mixin}");
        }
        assert_eq!(server.wait().count("failed"), 0);
    }
}

/// The wake-up for a connection may reach an idle thread of a child which is full.
fn a_child_at_its_limit_leaves_connections_to_the_others() {
    let server = ServerProcess::start("prefork-one-thread", "");
    for _ in 0..200 {
        let clients = [server.client(), server.client()];
        let pids: HashSet<_> = clients.iter().map(|client| ask(client, "pid")).collect();
        assert_eq!(pids.len(), 2, "{pids:?}");
    }
    assert_eq!(server.stop().count("finished"), 400);
}

fn handle_request_serves_in_this_process() {
    let server = ServerProcess::start("prefork-handle-request", "");
    let client = server.client();
    let pid = server.pid().to_string();
    assert_eq!(ask(&client, "pid"), pid);
    drop(client);
    server.reads(&format!("{pid} Request"));
    server.wait();
}

fn it_refuses_a_process_with_threads() {
    let ended = ServerProcess::start("prefork-threads", "").wait();
    assert!(ended.says("refusing to fork: the process has 1 other thread"), "{ended:?}");
}

fn a_child_has_none_of_its_parents_descriptors() {
    for mixin in MIXINS {
        let server = start(mixin, 3);
        let children = server.children();
        // As many as the first child, which has no elder siblings.
        wait_until("the children have started", || {
            let counts: HashSet<_> =
                children.iter().map(|child| descriptors(*child).len()).collect();
            counts.len() == 1
        });
        for child in children {
            let all = descriptors(child);
            let count = |what| all.iter().filter(|link| link.contains(what)).count();
            assert_eq!((count("socket:"), count("pidfd")), (1, 0), "{mixin}: {all:?}");
        }
        server.stop();
    }
}

fn descriptors(pid: Pid) -> Vec<String> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

fn an_idle_server_and_its_children_sleep() {
    let mut servers: Vec<_> = MIXINS.iter().map(|mixin| start(mixin, 4)).collect();
    servers.push(ServerProcess::start("prefork-listeners", "sequential 4"));
    for server in &servers {
        (0..8).for_each(|_| echoes(server.endpoint(), "a while ago\n"));
    }
    // Time for what follows a request: fibers look once more after a second.
    thread::sleep(Duration::from_millis(1500));
    let processes =
        servers.iter().flat_map(|server| [server.children(), vec![server.pid()]].concat());
    let processes: Vec<_> = processes.collect();
    let activity = || processes.iter().map(|pid| activity(*pid)).collect::<Vec<_>>();
    let before = activity();
    thread::sleep(Duration::from_secs(2));
    assert_eq!(activity(), before);
    servers.into_iter().for_each(|server| _ = server.stop());
}

/// How often all threads of a process have slept, and its processor time in hundredths of a second.
pub(crate) fn activity(pid: Pid) -> (u64, String) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let switches = tasks.map(|task| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:\t"));
        line.unwrap().parse::<u64>().unwrap()
    });
    let switches = switches.sum();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let times: Vec<_> = fields.split(' ').skip(11).take(2).collect();
    (switches, times.join(" "))
}

// How children end, and are replaced.

fn a_thousand_killed_children_are_replaced_and_leave_no_zombie() {
    let kills = 1000;
    let server = start("sequential", 4);
    for _ in 0..kills {
        let client = server.client();
        let child = pid_of(&ask(&client, "pid"));
        kill_process(child, Signal::KILL).unwrap();
        assert!(matches!((&client).read(&mut [0]), Ok(0) | Err(_)));
    }
    has_children(&server, 4);
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    let counts = ["accepted", "finished", "failed", "active"].map(|name| ended.count(name));
    assert_eq!(counts, [kills + 1, kills + 1, kills, 0]);
}

fn a_crash_costs_one_child_and_is_logged() {
    let server = start("threading", 2);
    for (command, how) in [("segfault", "signal 11"), ("abort", "signal 6")] {
        let clients: Vec<_> = (0..8).map(|_| server.client()).collect();
        let pids: Vec<_> = clients.iter().map(|client| ask(client, "pid")).collect();
        (&clients[0]).write_all(format!("{command}\n").as_bytes()).unwrap();
        for (mut client, pid) in clients.iter().zip(&pids) {
            if *pid == pids[0] {
                assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "{how}");
            } else {
                assert_eq!(ask(client, "hello"), "hello", "{how}");
            }
        }
        drop(clients);
        has_children(&server, 2);
        let of_first = pids.iter().filter(|pid| **pid == pids[0]).count();
        server.wait_for(&format!("was killed by {how}, with {of_first} requests"));
    }
    server.stop();
}

fn children_that_die_at_once_are_started_again_ever_more_slowly() {
    let server = start("sequential", 1);
    let (mut starts, until) = (HashSet::new(), Instant::now() + Duration::from_secs(2));
    while Instant::now() < until {
        for child in server.children() {
            starts.insert(child);
            let _ = kill_process(child, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(1));
    }
    // After 10, 20, 40, 80, 160, 320, 640 and 1280 ms, on a fast machine.
    assert!((2..=9).contains(&starts.len()), "{}", starts.len());
    has_children(&server, 1);
    echoes(server.endpoint(), "serving again\n");
    assert_eq!(server.stop().logged("at its start; trying again"), 1);
}

fn sigterm_to_a_child_ends_it_gracefully_and_another_takes_its_place() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = ServerProcess::start("prefork-unix", &format!("unix:{}", path.display()));
    for signal in [Signal::TERM, Signal::INT] {
        has_children(&server, 2);
        let client = unix(server.endpoint());
        let child = pid_of(&ask(&client, "pid"));
        (&client).write_all(b"last\n").unwrap();
        kill_process(child, signal).unwrap();
        assert_eq!(rest_of(&client), b"last\n");
        wait_until("the child has ended", || !server.children().contains(&child));
        has_children(&server, 2);
        // The socket's file belongs to the server.
        echoes(server.endpoint(), "the server goes on\n");
    }
    let ended = server.stop();
    assert_eq!((ended.count("failed"), ended.count("finished")), (0, 4), "{ended:?}");
    assert!(!path.exists());
}

// The end of all.

fn a_child_can_shut_the_server_down() {
    for mixin in MIXINS {
        let server = start(mixin, 3);
        let (other, client) = (server.client(), server.client());
        assert_eq!(ask(&other, "hello"), "hello");
        assert_eq!(ask(&client, "shutdown"), "shutting down");
        assert!(rest_of(&client).is_empty());
        assert!(rest_of(&other).is_empty());
        assert_eq!(server.wait().count("finished"), 2, "{mixin}");
    }
}

fn a_childs_stop_is_as_short_for_all() {
    let server = start("sequential", 3);
    let [hanging, idle, stopping] = [(); 3].map(|()| {
        let client = server.client();
        ask(&client, "hello");
        client
    });
    assert_eq!(ask(&hanging, "hang"), "hanging");
    let began = Instant::now();
    (&stopping).write_all(b"stop in 300 ms\n").unwrap();
    assert!(rest_of(&idle).is_empty());
    let ended = server.wait();
    assert!(began.elapsed() < STOP_TIMEOUT / 2, "{:?}", began.elapsed());
    assert!(ended.says("drained 2, forced 1") || ended.says("drained 1, forced 2"), "{ended:?}");
}

fn a_stop_answers_what_was_received_and_what_is_queued() {
    let server = start("sequential", 2);
    let serving = [server.client(), server.client()];
    serving.iter().for_each(|client| _ = ask(client, "hello"));
    let queued: Vec<_> = (0..100).map(|_| server.client()).collect();
    let all = || serving.iter().chain(&queued);
    all().for_each(|mut client| client.write_all(b"one\ntwo\n").unwrap());
    server.signal(Signal::TERM);
    for client in all() {
        assert_eq!(rest_of(client), b"one\ntwo\n");
    }
    let address = server.address.clone();
    let ended = server.wait();
    assert_eq!(["finished", "failed"].map(|name| ended.count(name)), [102, 0]);
    assert!(ended.says("drained 102, forced 0"), "{ended:?}");
    TcpServer::bind(address, Echo).unwrap();
}

fn a_signal_to_all_processes_loses_nothing() {
    for mixin in MIXINS {
        let this_program = std::env::current_exe().unwrap();
        let mut command = Command::new(this_program);
        command.process_group(0);
        let server = ServerProcess::start_by(command, "prefork", &format!("{mixin} 4"));
        has_children(&server, 4);
        let clients: Vec<_> = (0..40).map(|_| server.client()).collect();
        clients.iter().for_each(|mut client| client.write_all(b"one\ntwo\n").unwrap());
        kill_process_group(server.pid(), Signal::TERM).unwrap();
        for client in &clients {
            assert_eq!(rest_of(client), b"one\ntwo\n", "{mixin}");
        }
        let ended = server.wait();
        assert_eq!(["finished", "failed"].map(|name| ended.count(name)), [40, 0], "{mixin}");
    }
}

fn children_whose_requests_do_not_end_are_killed_by_a_stop() {
    for mixin in MIXINS {
        let server = start(mixin, 2);
        let hanging = server.client();
        assert_eq!(ask(&hanging, "hang"), "hanging");
        let child = server.children();
        let idle = server.client();
        assert_eq!(ask(&idle, "hello"), "hello", "{child:?}");
        let began = Instant::now();
        server.signal(Signal::TERM);
        assert!(rest_of(&idle).is_empty());
        let ended = server.wait();
        let elapsed = began.elapsed();
        assert!(elapsed < 2 * STOP_TIMEOUT, "{mixin}: {elapsed:?}");
        assert!(ended.says("drained 1, forced 1"), "{mixin}: {ended:?}");
        let counts = ["finished", "stopped", "failed"].map(|name| ended.count(name));
        assert_eq!(counts, [2, 1, 1], "{mixin}: {ended:?}");
    }
}

fn orphans_answer_what_was_received_and_end() {
    for mixin in MIXINS {
        let server = start(mixin, 3);
        let clients: Vec<_> = (0..3).map(|_| server.client()).collect();
        for mut client in &clients {
            ask(client, "hello");
            client.write_all(b"one\ntwo").unwrap();
        }
        let address = server.address.clone();
        // Returns when the last child has ended: all of them have the server's standard output open.
        server.kill();
        for client in &clients {
            assert_eq!(rest_of(client), b"one\ntwo", "{mixin}");
        }
        TcpServer::bind(address, Echo).unwrap();
    }
}

/// No connection waits for ever because its wake-up went to a child that was killed.
fn clients_are_served_while_children_are_killed() {
    for mixin in MIXINS {
        let server = start(mixin, 3);
        let address = server.endpoint();
        let killed = thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| serve_clients(&address))).collect();
            let mut killed = 0;
            while clients.iter().any(|client| !client.is_finished()) {
                if let Some(child) = server.children().first() {
                    killed += u64::from(kill_process(*child, Signal::KILL).is_ok());
                }
                thread::sleep(Duration::from_millis(20));
            }
            clients.into_iter().for_each(|client| client.join().unwrap());
            killed
        });
        has_children(&server, 3);
        assert!(killed > 3, "{killed}");
        let ended = server.stop();
        assert_eq!(ended.count("accepted"), ended.count("finished"), "{mixin}");
        assert!(ended.count("failed") <= killed * 4, "{mixin}: {ended:?}");
    }
}

/// Clients one after the other, each of which is answered, or cut off when its child is killed.
fn serve_clients(address: &Endpoint) {
    let until = Instant::now() + Duration::from_secs(1);
    let mut answered = 0;
    while Instant::now() < until {
        answered += u32::from(is_answered(&tcp(address.clone())));
    }
    assert!(answered > 0);
}

fn is_answered(mut client: &TcpStream) -> bool {
    if client.write_all(b"hello\n").and_then(|()| client.shutdown(Shutdown::Write)).is_err() {
        return false;
    }
    let mut answer = Vec::new();
    match client.read_to_end(&mut answer) {
        Ok(_) => answer == b"hello\n",
        // A read that waits for its timeout is a lost connection.
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}
