//! How the children of a forking server end: by themselves, by what goes wrong in them, by a stop,
//! and by the death of their parent. Each server is a process of its own (`common/parts.rs`).


use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use common::{TIMEOUT, ask, echoes, rest_of, tcp, wait_until};
use parts::{Case, Ended, Part, ServerProcess, pid_of, serve, status_of};
use process::{Server, example};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use socketserver::services::Echo;
use socketserver::*;

const CASES: &[Case] = &[
    ("an_error_or_a_panic_is_handled_in_the_child_and_the_server_goes_on", errors_and_panics),
    ("a_child_that_is_killed_crashes_or_exits_is_logged_and_counted_as_failed", crashes),
    ("sigterm_to_a_child_ends_it_gracefully", child_drains),
    ("a_signal_to_a_child_that_has_just_begun_does_not_stop_the_server", early_signal),
    ("a_second_signal_to_a_child_ends_it_at_once", second_signal),
    ("sigterm_answers_what_was_received_and_frees_the_port", drains),
    ("a_busy_child_knows_of_a_stop_and_says_goodbye", goodbye),
    ("a_stop_reports_who_drained_who_was_forced_and_who_was_killed", report),
    ("stuck_children_at_max_children_hold_a_stop_up_no_longer_than_its_deadline", all_stuck),
    ("orphans_answer_what_was_received_and_end", orphans),
    ("two_signals_to_the_echo_example_leave_nothing_running", two_signals),
];

const PARTS: &[Part] = &[("forking", |max_children| {
    let mixin = Forking::new().max_children(max_children.parse().unwrap());
    let builder = ForkingTcpServer::builder().mixin(mixin).stop_deadline(DEADLINE);
    serve(builder.bind("127.0.0.1:0", Commands).unwrap());
})];

/// Long enough for all that ends by itself.
const DEADLINE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    parts::main(CASES, PARTS)
}

// By itself.

fn errors_and_panics() {
    let server = ServerProcess::start("forking", "40");
    for (command, error) in
        [("fail", "handle_error: as told"), ("panic", "handle_error: handler panicked: as told")]
    {
        let client = server.client();
        let pid = ask(&client, "pid");
        (&client).write_all(format!("{command}\n").as_bytes()).unwrap();
        assert!(rest_of(&client).is_empty());
        // It is the child whose `handle_error` is called.
        server.reads(&format!("{pid} {error}"));
    }
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    let counts = ["failed", "panicked", "finished"].map(|name| ended.count(name));
    assert_eq!(counts, [1, 1, 3]);
    // Nobody needs to be told twice.
    assert_eq!(ended.logged("child"), 0, "{ended:?}");
}

fn crashes() {
    has_failed(&[
        ("kill", "was killed by signal 9"),
        ("abort", "was killed by signal 6"),
        ("exit 3", "exited with status 3"),
    ]);
}

/// Each of these commands ends a child so that the log says this of it, once.
fn has_failed(ways: &[(&str, &str)]) {
    let server = ServerProcess::start("forking", "40");
    let mut expected = Vec::new();
    for (command, how) in ways {
        let client = server.client();
        let pid = ask(&client, "pid");
        (&client).write_all(format!("{command}\n").as_bytes()).unwrap();
        assert!(rest_of(&client).is_empty());
        expected.push(format!("WARN: child {pid} {how}"));
    }
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    for line in &expected {
        assert_eq!(ended.logged(line), 1, "{line}: {ended:?}");
    }
    let number = ways.len() as u64;
    let counts = ["failed", "panicked", "eof", "finished"].map(|name| ended.count(name));
    assert_eq!(counts, [number, 0, 1, number + 1]);
}

// By a stop.

fn child_drains() {
    let server = ServerProcess::start("forking", "40");
    let client = server.client();
    let pid = pid_of(&ask(&client, "pid"));
    (&client).write_all(b"last\n").unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(rest_of(&client), b"last\n");
    echoes(server.endpoint(), "the server goes on\n");
    assert_eq!(server.stop().count("failed"), 0);
}

fn early_signal() {
    let server = ServerProcess::start("forking", "40");
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
        wait_until("it is reaped", || first_child().is_none());
    }
    echoes(server.endpoint(), "the server goes on\n");
    assert_eq!(server.stop().count("failed"), 0);
}

fn second_signal() {
    let server = ServerProcess::start("forking", "40");
    for signal in [Signal::INT, Signal::TERM] {
        let client = server.client();
        let pid = pid_of(&ask(&client, "pid"));
        assert_eq!(ask(&client, "hang"), "hanging");
        kill_process(pid, signal).unwrap();
        wait_until("it has taken the first", || !catches(pid, signal));
        kill_process(pid, signal).unwrap();
        assert!(rest_of(&client).is_empty());
    }
    let ended = server.stop();
    assert_eq!((ended.count("failed"), ended.logged("was killed by signal")), (2, 2), "{ended:?}");
}

fn drains() {
    // At max_children, with one more in the backlog.
    let server = ServerProcess::start("forking", "2");
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
    let ended = server.end();
    assert_eq!(["finished", "failed", "stopped"].map(|name| ended.count(name)), [3, 0, 3]);
    assert!(ended.says("drained 3, forced 0"), "{ended:?}");
    can_be_bound(&address);
}

fn goodbye() {
    let server = ServerProcess::start("forking", "40");
    let clients = [server.client(), server.client()];
    for client in &clients {
        assert_eq!(ask(client, "work until the stop"), "working");
    }
    server.signal(Signal::TERM);
    for client in &clients {
        assert_eq!(rest_of(client), b"goodbye\n");
    }
    let ended = server.end();
    assert!(ended.says("drained 2, forced 0"), "{ended:?}");
}

fn report() {
    let server = ServerProcess::start("forking", "3");
    let hanging = server.client();
    assert_eq!(ask(&hanging, "hang"), "hanging");
    // Its child waits for it to read on, and is told by the end of the connection.
    let deaf = server.client();
    assert_eq!(ask(&deaf, "flood"), "flooding");
    let good = server.client();
    assert_eq!(ask(&good, "hello"), "hello");
    let mut waiting = server.client();
    waiting.write_all(b"waiting\n").unwrap();

    let (address, began) = (server.address.clone(), Instant::now());
    server.signal(Signal::TERM);
    assert!(rest_of(&good).is_empty());
    // It has the place of the good one now.
    assert_eq!(rest_of(&waiting), b"waiting\n");
    let ended = server.end();
    let elapsed = began.elapsed();
    assert!(elapsed < 2 * DEADLINE, "{elapsed:?}");
    assert!(ended.says("drained 2, forced 2"), "{ended:?}");
    // On a busy machine the other may not have noticed in time either.
    let killed = killed(&ended);
    assert_eq!(killed[0], (1, peer_of(&hanging)), "{ended:?}");
    assert!(killed.len() == 1 || killed[1] == (2, peer_of(&deaf)), "{ended:?}");
    let number = killed.len() as u64;
    let counts = ["finished", "stopped", "failed"].map(|name| ended.count(name));
    assert_eq!(counts, [4, 4 - number, number], "{ended:?}");
    assert_eq!(ended.logged("was killed by signal 9"), killed.len(), "{ended:?}");
    can_be_bound(&address);
}

fn all_stuck() {
    let server = ServerProcess::start("forking", "2");
    let stuck = [server.client(), server.client()];
    for client in &stuck {
        assert_eq!(ask(client, "hang"), "hanging");
    }
    let mut waiting = server.client();
    waiting.write_all(b"waiting\n").unwrap();
    let (address, began) = (server.address.clone(), Instant::now());
    let ended = server.stop();
    let elapsed = began.elapsed();
    assert!(elapsed < 2 * DEADLINE, "{elapsed:?}");
    // Nobody was there for it, and it is not kept waiting.
    assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
    assert!(ended.says("drained 0, forced 2"), "{ended:?}");
    assert_eq!(killed(&ended), [(1, peer_of(&stuck[0])), (2, peer_of(&stuck[1]))], "{ended:?}");
    assert_eq!(["accepted", "finished", "failed"].map(|name| ended.count(name)), [2, 2, 2]);
    can_be_bound(&address);
}

/// Number and peer of those whom the report calls killed, after as long as they had.
#[track_caller]
fn killed(ended: &Ended) -> Vec<(u64, String)> {
    let lines = ended.lines.iter().filter_map(|line| line.strip_prefix("killed "));
    let parts = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    parts
        .map(|parts| {
            let [id, "from", peer, "after", age, "ms"] = parts[..] else { panic!("{parts:?}") };
            let age = Duration::from_millis(age.parse().unwrap());
            assert!((DEADLINE / 2..2 * DEADLINE).contains(&age), "{age:?}");
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

fn orphans() {
    let server = ServerProcess::start("forking", "40");
    let clients: Vec<_> = (0..5).map(|_| server.client()).collect();
    for client in &clients {
        ask(client, "hello");
    }
    for mut client in &clients[..3] {
        client.write_all(b"one\ntwo").unwrap();
    }
    let address = server.address.clone();
    // Returns when nobody holds the server's standard output any longer.
    server.kill();
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(rest_of(client), if n < 3 { &b"one\ntwo"[..] } else { b"" });
    }
    can_be_bound(&address);
}

fn two_signals() {
    // To the server alone, and to all of them, as a terminal does.
    for to_all in [false, true] {
        let mut command = example("echo");
        command.args(["--listen", "127.0.0.1:0", "--mixin", "forking", "--stop-deadline", "600"]);
        command.process_group(0);
        let server = Server::spawn(command);
        let signal = || match to_all {
            false => server.signal(Signal::INT),
            true => kill_process_group(server.pid(), Signal::INT).unwrap(),
        };
        let silent = tcp(server.endpoint());
        assert_eq!(ask(&silent, "hello"), "hello");
        let other = server.children();
        let deaf = tcp(server.endpoint());
        ask(&deaf, "hello");
        let child = *server.children().iter().find(|child| !other.contains(child)).unwrap();
        // It reads nothing, so that in the end its child waits for it, with more to read.
        deaf.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let long_line = [vec![b'x'; 60_000], vec![b'\n']].concat();
        while (&deaf).write_all(&long_line).is_ok() || status_of(child, "State") != "S" {}
        signal();
        assert!(rest_of(&silent).is_empty());
        let address = server.endpoint().resolve(Scheme::Tcp).unwrap()[0];
        wait_until("the stop", || TcpStream::connect(address).is_err());
        // Two signals that come too close together are one.
        wait_until("it has taken the first", || !to_all || !catches(child, Signal::INT));
        signal();
        if !to_all {
            // It would give up at its write timeout, but need not wait for that.
            drop(deaf);
        }
        let ended = server.ends();
        assert_eq!(ended.status, Some(130), "{ended:?}");
    }
}

/// Whether a process has a handler for this signal; a child's is for the first one only.
fn catches(pid: Pid, signal: Signal) -> bool {
    let caught = u64::from_str_radix(&status_of(pid, "SigCgt"), 16).unwrap();
    caught & 1 << (signal.as_raw() - 1) != 0
}

// The handler.

/// Does what it is told to, and otherwise answers with what it reads.
struct Commands;

impl StreamRequestHandler for Commands {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            match line.trim_end() {
                "pid" => writeln!(connection, "{}", std::process::id())?,
                "fail" => return Err("as told".into()),
                "panic" => panic!("as told"),
                "kill" => kill_process(rustix::process::getpid(), Signal::KILL)?,
                "abort" => std::process::abort(),
                "hang" => {
                    connection.write_all(b"hanging\n")?;
                    connection.flush()?;
                    // Nothing interrupts it, but it does not outlive these tests by much.
                    thread::sleep(2 * TIMEOUT);
                }
                "flood" => {
                    connection.write_all(b"flooding\n")?;
                    loop {
                        connection.write_all(&[b'x'; 100_000])?;
                    }
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
