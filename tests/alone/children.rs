//! How the children of a forking server end: by themselves, by a crash, by a stop, and by the death of
//! their parent. Each server is a process of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, rest_of, tcp};
use crate::support::process::{Ended, Server, example};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::servers::{flood, long_queue, many_connections};
use crate::support::system::{pid_of, status_of};
use crate::support::{TIMEOUT, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    an_error_or_a_panic_is_handled_in_the_child_and_the_server_goes_on,
    a_child_that_is_killed_crashes_or_exits_is_logged_and_counted_as_failed,
    sigterm_to_a_child_ends_it_gracefully,
    a_signal_to_a_child_that_has_just_started_does_not_stop_the_server,
    a_second_signal_to_a_child_ends_it_at_once,
    sigterm_answers_what_was_received_and_frees_the_port,
    a_busy_child_sees_the_stop_and_sends_its_last_line,
    a_stop_reports_which_children_drained_were_forced_or_killed,
    stuck_children_at_max_children_delay_a_stop_by_its_timeout_only,
    a_stop_serves_all_connections_that_are_queued,
    orphans_answer_what_was_received_and_end,
    two_signals_to_the_echo_example_leave_nothing_running,
];

pub(crate) const PARTS: &[Part] = &[
    ("children", |max_children| {
        let mixin = Forking::new().max_children(max_children.parse().unwrap());
        let builder = ForkingTcpServer::builder().mixin(mixin).stop_timeout(STOP_TIMEOUT);
        serve(builder.bind("127.0.0.1:0", Commands).unwrap());
    }),
    ("suspended", |_| {
        let listener = long_queue(&SocketAddr::from(([127, 0, 0, 1], 0)).into());
        let server = ForkingTcpServer::from_listener(TcpListener::from(listener), Echo).unwrap();
        server.handle().suspend();
        serve(server);
    }),
];

/// Long enough for all children that end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

// By themselves.

fn an_error_or_a_panic_is_handled_in_the_child_and_the_server_goes_on() {
    let server = ServerProcess::start("children", "40");
    for (command, error) in
        [("fail", "handle_error: as told"), ("panic", "handle_error: handler panicked: as told")]
    {
        let client = server.client();
        let pid = ask(&client, "pid");
        (&client).write_all(format!("{command}\n").as_bytes()).unwrap();
        assert!(rest_of(&client).is_empty());
        // `handle_error` is called in the child.
        server.reads(&format!("{pid} {error}"));
    }
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    let counts = ["failed", "panicked", "finished"].map(|name| ended.count(name));
    assert_eq!(counts, [1, 1, 3]);
    // The server does not log it again.
    assert_eq!(ended.logged("child"), 0, "{ended:?}");
}

fn a_child_that_is_killed_crashes_or_exits_is_logged_and_counted_as_failed() {
    let ways = [
        ("kill", "was killed by signal 9"),
        ("abort", "was killed by signal 6"),
        ("exit 3", "exited with status 3"),
    ];
    let server = ServerProcess::start("children", "40");
    let expected = ways.map(|(command, how)| {
        let client = server.client();
        let pid = ask(&client, "pid");
        (&client).write_all(format!("{command}\n").as_bytes()).unwrap();
        assert!(rest_of(&client).is_empty());
        format!("WARN: child {pid} {how}")
    });
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    for line in &expected {
        assert_eq!(ended.logged(line), 1, "{line}: {ended:?}");
    }
    let counts = ["failed", "panicked", "eof", "finished"].map(|name| ended.count(name));
    assert_eq!(counts, [3, 0, 1, 4]);
}

// By a stop.

fn sigterm_to_a_child_ends_it_gracefully() {
    let server = ServerProcess::start("children", "40");
    let client = server.client();
    let pid = pid_of(&ask(&client, "pid"));
    (&client).write_all(b"last\n").unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(rest_of(&client), b"last\n");
    echoes(server.endpoint(), "the server goes on\n");
    assert_eq!(server.stop().count("failed"), 0);
}

fn a_signal_to_a_child_that_has_just_started_does_not_stop_the_server() {
    let server = ServerProcess::start("children", "40");
    let pid = server.pid();
    let first_child = || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().map(pid_of)
    };
    for _ in 0..50 {
        let client = server.client();
        let child = std::iter::repeat_with(first_child).flatten().next().unwrap();
        kill_process(child, Signal::TERM).unwrap();
        assert!(rest_of(&client).is_empty());
        wait_until("the child is reaped", || first_child().is_none());
    }
    echoes(server.endpoint(), "the server goes on\n");
    assert_eq!(server.stop().count("failed"), 0);
}

fn a_second_signal_to_a_child_ends_it_at_once() {
    let server = ServerProcess::start("children", "40");
    for signal in [Signal::INT, Signal::TERM] {
        let client = server.client();
        let pid = pid_of(&ask(&client, "pid"));
        assert_eq!(ask(&client, "hang"), "hanging");
        kill_process(pid, signal).unwrap();
        wait_until("the child has handled the first", || !catches(pid, signal));
        kill_process(pid, signal).unwrap();
        assert!(rest_of(&client).is_empty());
    }
    let ended = server.stop();
    assert_eq!((ended.count("failed"), ended.logged("was killed by signal")), (2, 2), "{ended:?}");
}

fn sigterm_answers_what_was_received_and_frees_the_port() {
    // At `max_children`, with one more connection in the backlog.
    let server = ServerProcess::start("children", "2");
    let serving = [server.client(), server.client()];
    for client in &serving {
        ask(client, "hello");
    }
    let waiting = server.client();
    for mut client in serving.iter().chain([&waiting]) {
        client.write_all(b"one\ntwo\n").unwrap();
    }
    server.signal(Signal::TERM);
    for client in serving.iter().chain([&waiting]) {
        assert_eq!(rest_of(client), b"one\ntwo\n");
    }
    let address = server.address.clone();
    let ended = server.wait();
    assert_eq!(["finished", "failed", "stopped"].map(|name| ended.count(name)), [3, 0, 3]);
    assert!(ended.says("drained 3, forced 0"), "{ended:?}");
    can_be_bound(&address);
}

fn a_busy_child_sees_the_stop_and_sends_its_last_line() {
    let server = ServerProcess::start("children", "40");
    let clients = [server.client(), server.client()];
    for client in &clients {
        assert_eq!(ask(client, "work until the stop"), "working");
    }
    server.signal(Signal::TERM);
    for client in &clients {
        assert_eq!(rest_of(client), b"goodbye\n");
    }
    let ended = server.wait();
    assert!(ended.says("drained 2, forced 0"), "{ended:?}");
}

fn a_stop_reports_which_children_drained_were_forced_or_killed() {
    let server = ServerProcess::start("children", "3");
    let hanging = server.client();
    assert_eq!(ask(&hanging, "hang"), "hanging");
    // Its child waits in a write, which fails when the server shuts the connection down.
    let slow = server.client();
    assert_eq!(ask(&slow, "flood"), "flooding");
    let idle = server.client();
    assert_eq!(ask(&idle, "hello"), "hello");
    let mut waiting = server.client();
    waiting.write_all(b"waiting\n").unwrap();

    let (address, began) = (server.address.clone(), Instant::now());
    server.signal(Signal::TERM);
    assert!(rest_of(&idle).is_empty());
    // The place of the idle one is free now.
    assert_eq!(rest_of(&waiting), b"waiting\n");
    let ended = server.wait();
    let elapsed = began.elapsed();
    assert!(elapsed < 2 * STOP_TIMEOUT, "{elapsed:?}");
    assert!(ended.says("drained 2, forced 2"), "{ended:?}");
    // On a busy machine the child that writes may not have ended in time either.
    let killed = killed(&ended);
    assert_eq!(killed[0], (1, peer_of(&hanging)), "{ended:?}");
    assert!(killed.len() == 1 || killed[1] == (2, peer_of(&slow)), "{ended:?}");
    let number = killed.len() as u64;
    let counts = ["finished", "stopped", "failed"].map(|name| ended.count(name));
    assert_eq!(counts, [4, 4 - number, number], "{ended:?}");
    assert_eq!(ended.logged("was killed by signal 9"), killed.len(), "{ended:?}");
    can_be_bound(&address);
}

fn stuck_children_at_max_children_delay_a_stop_by_its_timeout_only() {
    let server = ServerProcess::start("children", "2");
    let stuck = [server.client(), server.client()];
    for client in &stuck {
        assert_eq!(ask(client, "hang"), "hanging");
    }
    let mut waiting = server.client();
    waiting.write_all(b"waiting\n").unwrap();
    let (address, began) = (server.address.clone(), Instant::now());
    let ended = server.stop();
    let elapsed = began.elapsed();
    assert!(elapsed < 2 * STOP_TIMEOUT, "{elapsed:?}");
    // It was not accepted, and is closed.
    assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
    assert!(ended.says("drained 0, forced 2"), "{ended:?}");
    assert_eq!(killed(&ended), [(1, peer_of(&stuck[0])), (2, peer_of(&stuck[1]))], "{ended:?}");
    assert_eq!(["accepted", "finished", "failed"].map(|name| ended.count(name)), [2, 2, 2]);
    can_be_bound(&address);
}

/// Id and peer of the connections that the report calls killed, at an age of about the timeout.
#[track_caller]
fn killed(ended: &Ended) -> Vec<(u64, String)> {
    let lines = ended.lines().filter_map(|line| line.strip_prefix("killed "));
    let parts = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    parts
        .map(|parts| {
            let [id, "from", peer, "after", age, "ms"] = parts[..] else { panic!("{parts:?}") };
            let age = Duration::from_millis(age.parse().unwrap());
            assert!((STOP_TIMEOUT / 2..2 * STOP_TIMEOUT).contains(&age), "{age:?}");
            (id.parse().unwrap(), peer.to_owned())
        })
        .collect()
}

fn peer_of(client: &TcpStream) -> String {
    client.local_addr().unwrap().to_string()
}

#[track_caller]
fn can_be_bound(address: &str) {
    assert_eq!(TcpServer::bind(address, Echo).unwrap().local_addr().to_string(), address);
}

// By the death of their parent.

fn a_stop_serves_all_connections_that_are_queued() {
    let server = ServerProcess::start("suspended", "");
    let clients: Vec<_> = (0..many_connections()).map(|_| server.client()).collect();
    clients.iter().for_each(|mut client| client.write_all(b"queued\n").unwrap());
    server.signal(Signal::TERM);
    for client in &clients {
        assert_eq!(rest_of(client), b"queued\n");
    }
    assert_eq!(server.wait().count("finished"), clients.len() as u64);
}

fn orphans_answer_what_was_received_and_end() {
    let server = ServerProcess::start("children", "40");
    let clients: Vec<_> = (0..5).map(|_| server.client()).collect();
    for client in &clients {
        ask(client, "hello");
    }
    for mut client in &clients[..3] {
        client.write_all(b"one\ntwo").unwrap();
    }
    let address = server.address.clone();
    // Returns when the last child has ended: all of them have the server's standard output open.
    server.kill();
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(rest_of(client), if n < 3 { &b"one\ntwo"[..] } else { b"" });
    }
    can_be_bound(&address);
}

fn two_signals_to_the_echo_example_leave_nothing_running() {
    // To the server alone, and to the process group, as a terminal does.
    for to_all in [false, true] {
        let mut command = example("echo");
        command.args(["--listen", "127.0.0.1:0", "--mixin", "forking", "--stop-timeout", "600"]);
        command.process_group(0);
        let server = Server::spawn(command);
        let signal = || match to_all {
            false => server.signal(Signal::INT),
            true => kill_process_group(server.pid(), Signal::INT).unwrap(),
        };
        let silent = tcp(server.endpoint());
        assert_eq!(ask(&silent, "hello"), "hello");
        let other = server.children();
        let slow = tcp(server.endpoint());
        ask(&slow, "hello");
        let child = *server.children().iter().find(|child| !other.contains(child)).unwrap();
        // Its child ends up waiting in a write, with more to read.
        slow.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let long_line = [vec![b'x'; 60_000], vec![b'\n']].concat();
        while (&slow).write_all(&long_line).is_ok() || status_of(child, "State") != "S" {}
        signal();
        assert!(rest_of(&silent).is_empty());
        let address = server.endpoint().resolve(Scheme::Tcp).unwrap()[0];
        wait_until("the stop", || TcpStream::connect(address).is_err());
        // A signal that is already pending is not queued a second time.
        wait_until("the child has handled the first", || !to_all || !catches(child, Signal::INT));
        signal();
        if !to_all {
            // The child ends, without waiting for its write timeout.
            drop(slow);
        }
        let ended = server.wait();
        assert_eq!(ended.status, Some(130), "{ended:?}");
    }
}

/// Whether a process has a handler for this signal. A child has one for the first signal only.
fn catches(pid: Pid, signal: Signal) -> bool {
    let caught = u64::from_str_radix(&status_of(pid, "SigCgt"), 16).unwrap();
    caught & 1 << (signal.as_raw() - 1) != 0
}

// The handler.

/// Does what a line says, or else echoes it.
pub(crate) struct Commands;

impl StreamRequestHandler for Commands {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            match line.trim_end() {
                "pid" => writeln!(connection, "{}", std::process::id())?,
                "shutdown" => {
                    writeln!(connection, "shutting down")?;
                    connection.server().shutdown();
                }
                "stop in 300 ms" => {
                    connection.server().stop(Duration::from_millis(300));
                }
                "fail" => return Err("as told".into()),
                "panic" => panic!("as told"),
                "kill" => kill_process(rustix::process::getpid(), Signal::KILL)?,
                "abort" => std::process::abort(),
                // Rust's handler, which looks for stack overflows, steps aside at the first one.
                "segfault" => loop {
                    kill_process(rustix::process::getpid(), Signal::SEGV)?;
                },
                "hang" => {
                    connection.write_all(b"hanging\n")?;
                    connection.flush()?;
                    // Nothing interrupts it. It ends some time after its test.
                    thread::sleep(2 * TIMEOUT);
                }
                "flood" => {
                    connection.write_all(b"flooding\n")?;
                    return flood(connection);
                }
                "work until the stop" => {
                    connection.write_all(b"working\n")?;
                    connection.flush()?;
                    while !connection.is_stopping() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    connection.write_all(b"goodbye\n")?;
                }
                command if command.starts_with("exit ") => {
                    std::process::exit(command[5..].parse()?);
                }
                _ => connection.write_all(line.as_bytes())?,
            }
            line.clear();
        }
        Ok(())
    }

    fn handle_error(
        &self,
        _connection: &Connection,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) {
        println!("{} handle_error: {error}", std::process::id());
    }
}
