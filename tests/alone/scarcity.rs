//! What servers do without descriptors, memory, threads or processes. Each server is a process of its
//! own, whose limits are set from outside.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, line_of, rest_of};
use crate::support::server_process::{Part, ServerProcess, count_in, serve};
use crate::support::system::{pid_of, status_of};
use crate::support::{TIMEOUT, TempDir, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    an_idle_server_uses_no_processor_time_and_stops_at_once,
    waiting_for_descriptors_costs_little_processor_time,
    connections_are_accepted_soon_after_descriptors_are_free,
    a_server_without_descriptors_goes_on,
    the_default_limits_fit_into_256_descriptors,
    clients_wait_in_the_backlog_while_children_have_all_descriptors,
    a_connection_without_memory_for_a_thread_is_refused,
    a_connection_over_the_users_limit_on_processes_is_refused,
    a_stop_without_descriptors_serves_the_backlog_as_they_become_free,
    a_stop_at_max_connections_serves_the_backlog,
    a_stop_at_max_connections_keeps_to_its_timeout,
];

pub(crate) const PARTS: &[Part] = &[
    ("few-descriptors", serve_with_few_descriptors),
    ("default", serve_by_default),
    ("80-descriptors", |_| {
        set_descriptors(80);
        serve(ForkingTcpServer::bind("127.0.0.1:0", Echo).unwrap());
    }),
    ("full", |connections| {
        let builder = ThreadingTcpServer::builder().stop_timeout(STOP_TIMEOUT);
        let builder = builder.max_connections(connections.parse().unwrap());
        serve(builder.bind("127.0.0.1:0", Commands).unwrap());
    }),
    ("threads", |policy| {
        // The stack is so large that a limit on memory is a limit on threads. No thread is used again.
        let mixin = Threading::new().stack_size(STACK).idle_time(Duration::ZERO);
        serve_or_refuse(mixin, policy);
    }),
    ("processes", |policy| serve_or_refuse(Forking::new(), policy)),
    ("limit", limit),
];

// Accepting.

fn an_idle_server_uses_no_processor_time_and_stops_at_once() {
    let stops = (0..3).map(|_| {
        let server = ServerProcess::start("default", "threading");
        let client = server.client();
        (&client).write_all(b"hello\n").unwrap();
        assert_eq!(line_of(&client), "hello");
        let used = processor_time(&server);
        thread::sleep(Duration::from_millis(500));
        let used = processor_time(&server) - used;
        assert!(used <= Duration::from_millis(10), "{used:?}");
        let began = Instant::now();
        server.stop();
        began.elapsed()
    });
    let stop = stops.min().unwrap();
    println!("  stopped in {stop:?}");
    // A server that polled for the stop would take longer at least once in three times.
    assert!(stop < Duration::from_millis(200), "{stop:?}");
}

fn waiting_for_descriptors_costs_little_processor_time() {
    let server = ServerProcess::start("few-descriptors", "threading");
    let control = server.client();
    ask(&control, "hold");
    let waiting: Vec<_> = (0..10).map(|_| asking_client(&server)).collect();
    wait_until("accepting fails", || count(&control, "accept_errors") > 0);
    let errors = count(&control, "accept_errors");
    let (began, used) = (Instant::now(), processor_time(&server));
    thread::sleep(Duration::from_secs(1));
    let (used, elapsed) = (processor_time(&server) - used, began.elapsed());
    let errors = count(&control, "accept_errors") - errors;
    println!("  {errors} tries and {used:?} of the processor in {elapsed:?}");
    assert!(used < elapsed / 20, "{used:?}");
    // One try each 80 ms, after some in the first 80 ms.
    assert!(errors <= 20, "{errors}");
    ask(&control, "release");
    for client in &waiting {
        assert_eq!(line_of(client), "hello");
    }
    drop((control, waiting));
    let failure = server.error_line();
    assert!(failure.contains("Too many open files"), "{failure}");
    let recovery = server.error_line();
    assert!(recovery.contains("accept works again"), "{recovery}");
    assert_eq!(server.stop().logged(""), 0);
}

fn connections_are_accepted_soon_after_descriptors_are_free() {
    const ROUNDS: usize = 5;
    let server = ServerProcess::start("few-descriptors", "threading");
    let control = server.client();
    // Another part of the program closes them: the server has to try again by itself.
    let by_retry = (0..ROUNDS).map(|_| {
        wait_until("only one connection is left", || count(&control, "active") == 1);
        ask(&control, "hold");
        let client = asking_client(&server);
        assert_eq!(ask(&control, "release in the longest pause"), "released");
        let began = Instant::now();
        assert_eq!(line_of(&client), "hello");
        began.elapsed()
    });
    let by_retry = by_retry.min().unwrap();
    // A connection ends: the server knows.
    wait_until("only one connection is left", || count(&control, "active") == 1);
    let mut leaving = server.client();
    ask(&leaving, "hello");
    ask(&control, "hold");
    let by_end = (0..ROUNDS).map(|_| {
        let client = asking_client(&server);
        assert_eq!(ask(&leaving, "leave in the longest pause"), "leaving");
        assert!(rest_of(&leaving).is_empty());
        // The server waits for the client to close too.
        leaving = client;
        let began = Instant::now();
        assert_eq!(line_of(&leaving), "hello");
        began.elapsed()
    });
    let by_end = by_end.min().unwrap();
    println!(
        "  served {by_retry:?} after other descriptors, {by_end:?} after a connection was closed"
    );
    assert!(by_retry < Duration::from_millis(100), "{by_retry:?}");
    assert!(by_end < Duration::from_millis(40), "{by_end:?}");
    // The stop may need a descriptor.
    ask(&control, "release");
    // One shortage after the other, but one episode for the log.
    assert_eq!(server.stop().logged("Too many open files"), 1);
}

fn a_server_without_descriptors_goes_on() {
    for mixin in ["threading", "forking"] {
        let server = ServerProcess::start("few-descriptors", mixin);
        // More clients than descriptors. A client that is answered leaves, which frees one.
        let clients: Vec<_> = (0..100).map(|_| asking_client(&server)).collect();
        server.reads("short of descriptors");
        let mut answered = 0;
        for client in clients {
            let _ = client.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = (&client).read_to_end(&mut answer);
            answered += usize::from(answer == b"hello\n");
        }
        assert_eq!(answered, 100, "{mixin}");
        // The server may be in a short pause after a failure.
        wait_until("the server serves again", || {
            let mut client = server.client();
            let mut answer = Vec::new();
            let _ = client.write_all(b"again\n").and_then(|()| client.shutdown(Shutdown::Write));
            client.read_to_end(&mut answer).is_ok() && answer == b"again\n"
        });
        let ended = server.stop();
        assert!(ended.count("accept_errors") > 0, "{mixin}: {ended:?}");
        assert_eq!([ended.count("refused"), ended.count("active")], [0, 0], "{mixin}: {ended:?}");
    }
}

fn the_default_limits_fit_into_256_descriptors() {
    for mixin in ["threading", "forking"] {
        let server = ServerProcess::start("default", mixin);
        let clients: Vec<_> = (0..400).map(|_| asking_client(&server)).collect();
        for client in clients {
            assert_eq!(line_of(&client), "hello", "{mixin}");
        }
        let ended = server.stop();
        let counts = ["finished", "accept_errors", "refused"].map(|name| ended.count(name));
        assert_eq!(counts, [400, 0, 0], "{mixin}");
        // The limit may have been reached, also again after it was over, and nothing else.
        let limit = ["requests are being served", "below the limit again"];
        let limit: usize = limit.iter().map(|line| ended.logged(line)).sum();
        assert_eq!(ended.logged(""), limit, "{ended:?}");
    }
}

/// A child takes two descriptors of the server, its connection and its pidfd.
fn clients_wait_in_the_backlog_while_children_have_all_descriptors() {
    let server = ServerProcess::start("80-descriptors", "");
    let clients: Vec<_> = (0..40).map(|_| asking_client(&server)).collect();
    wait_until("the limit is reached", || server.children().len() >= (80 - 32) / 2);
    // No further child may be started.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.children().len(), (80 - 32) / 2);
    for client in clients {
        assert_eq!(line_of(&client), "hello");
    }
    let ended = server.stop();
    let counts = ["finished", "accept_errors", "refused", "failed"].map(|name| ended.count(name));
    assert_eq!(counts, [40, 0, 0, 0], "{ended:?}");
    // The limit was reached, and nothing else.
    assert_eq!(ended.logged(""), ended.logged("requests are being served"), "{ended:?}");
}

// Running.

fn a_connection_without_memory_for_a_thread_is_refused() {
    for policy in ["refuse", "defer"] {
        let server = ServerProcess::start("threads", policy);
        let kilobytes: usize = status_of(server.pid(), "VmSize").parse().unwrap();
        let memory = format!("memory {}", 1024 * kilobytes + STACK / 2);
        let this_program = || Command::new(std::env::current_exe().unwrap());
        refuses_while(&server, policy, &memory, this_program);
        assert_eq!(server.stop().logged("refusing 127.0.0.1"), 5);
    }
}

fn a_connection_over_the_users_limit_on_processes_is_refused() {
    // The limit does not hold for root. Another user may not read the directory of this program.
    let directory = TempDir::new();
    let copy = directory.join("scarcity");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let command = || {
        let mut command = Command::new(&copy);
        if rustix::process::geteuid().is_root() {
            // A user without other processes.
            command.uid(54_321);
        }
        command
    };
    if let Err(error) = command().arg("--list").output() {
        return println!("  skipped, without another user: {error}");
    }
    for (part, policy) in [("threads", "refuse"), ("processes", "refuse"), ("processes", "defer")] {
        let server = ServerProcess::start_by(command(), part, policy);
        refuses_while(&server, policy, "processes 1", command);
        let ended = server.stop();
        assert_eq!(ended.logged("refusing 127.0.0.1"), 5, "{ended:?}");
        assert_eq!(ended.logged("Resource temporarily unavailable (os error 11)"), 5, "{ended:?}");
        assert_eq!(["active", "refused"].map(|name| ended.count(name)), [0, 5]);
    }
}

/// Clients are refused by the server's policy under this limit, and served before and after. There are
/// two places, so that none may leak. A process of the same user sets the limit.
fn refuses_while(
    server: &ServerProcess,
    policy: &str,
    limit: &str,
    this_program: impl Fn() -> Command,
) {
    let set = |limit: &str| {
        let limit = format!("{} {limit}", server.pid());
        assert!(this_program().args(["play", "limit", &limit]).status().unwrap().success());
    };
    let control = server.client();
    ask(&control, "hello");
    wait_until("only one connection is left", || count(&control, "active") == 1);
    set(limit);
    for _ in 0..5 {
        let mut client = server.client();
        let _ = client.write_all(b"let me in\n");
        let mut answer = Vec::new();
        let end = client.read_to_end(&mut answer);
        if policy == "refuse" {
            end.unwrap();
            assert_eq!(answer, NO);
        }
        assert!(policy == "refuse" || answer.is_empty());
    }
    set(limit.split(' ').next().unwrap());
    assert_eq!(["active", "refused"].map(|name| count(&control, name)), [1, 5]);
    echoes(server.endpoint(), "hello again\n");
}

// Stopping.

fn a_stop_without_descriptors_serves_the_backlog_as_they_become_free() {
    let server = ServerProcess::start("few-descriptors", "threading");
    let clients = [server.client(), server.client()];
    for client in &clients {
        ask(client, "hello");
    }
    ask(&clients[0], "hold");
    let waiting: Vec<_> = (0..10).map(|_| asking_client(&server)).collect();
    wait_until("accepting fails", || count(&clients[0], "accept_errors") > 0);
    a_stop_serves(server, clients, waiting);
}

fn a_stop_at_max_connections_serves_the_backlog() {
    let server = ServerProcess::start("full", "2");
    let clients = [server.client(), server.client()];
    for client in &clients {
        ask(client, "hello");
    }
    let waiting: Vec<_> = (0..10).map(|_| asking_client(&server)).collect();
    a_stop_serves(server, clients, waiting);
}

/// The clients that are served have nothing more to get, and those in the backlog get their answers.
fn a_stop_serves(server: ServerProcess, served: [TcpStream; 2], waiting: Vec<TcpStream>) {
    server.signal(Signal::TERM);
    for client in served {
        assert!(rest_of(client).is_empty());
    }
    for client in waiting {
        assert_eq!(rest_of(client), b"hello\n");
    }
    assert!(server.wait().says("drained 12, forced 0"));
}

fn a_stop_at_max_connections_keeps_to_its_timeout() {
    let server = ServerProcess::start("full", "2");
    let clients = [server.client(), server.client()];
    for client in &clients {
        assert_eq!(ask(client, "hang"), "hanging");
    }
    let mut waiting = asking_client(&server);
    let began = Instant::now();
    let ended = server.stop();
    let elapsed = began.elapsed();
    assert!(elapsed < 2 * STOP_TIMEOUT, "{elapsed:?}");
    assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
    assert!(ended.says("drained 0, forced 0"), "{ended:?}");
    let stuck = ended.lines().filter(|line| line.starts_with("stuck ")).count();
    assert_eq!((stuck, ended.logged("does not end; left behind")), (2, 2), "{ended:?}");
}

/// A client that has sent a line.
fn asking_client(server: &ServerProcess) -> TcpStream {
    let mut client = server.client();
    client.write_all(b"hello\n").unwrap();
    client
}

#[track_caller]
fn count(control: &TcpStream, name: &str) -> u64 {
    count_in(&ask(control, "stats"), name)
}

/// User and system time of the process ([proc_pid_stat(5)]), in steps of 10 ms.
///
/// [proc_pid_stat(5)]: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
fn processor_time(server: &ServerProcess) -> Duration {
    let path = format!("/proc/{}/stat", server.pid().as_raw_nonzero());
    let stat = std::fs::read_to_string(path).unwrap();
    // The name, in parentheses, may contain anything. After it comes the third field.
    let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(14 - 3).take(2);
    Duration::from_millis(10) * fields.map(|ticks| ticks.parse::<u32>().unwrap()).sum()
}

// The servers.

const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const STACK: usize = 256 * 1024 * 1024;
const NO: &[u8] = b"no room for you\r\n";

fn serve_with_few_descriptors(mixin: &str) {
    set_descriptors(64);
    let mixin: Box<dyn Mixin> = match mixin {
        "threading" => Box::new(Threading::new()),
        _ => Box::new(Forking::new().max_children(1000)),
    };
    let (own, told) = (Arc::new(OnceLock::<ServerHandle>::new()), AtomicBool::new(false));
    let handle = own.clone();
    let tell = move || {
        let stats = handle.get().map(ServerHandle::stats).unwrap_or_default();
        if stats.accept_errors + stats.refused > 0 && !told.swap(true, Ordering::Relaxed) {
            println!("short of descriptors");
        }
    };
    let builder = TcpServer::builder().mixin(mixin).max_connections(1000);
    let builder = builder.service_actions(Duration::from_millis(1), tell);
    let server = builder.bind("127.0.0.1:0", Commands).unwrap();
    own.set(server.handle()).unwrap();
    serve(server);
}

fn serve_by_default(mixin: &str) {
    set_descriptors(256);
    match mixin {
        "threading" => serve(ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap()),
        _ => serve(ForkingTcpServer::bind("127.0.0.1:0", Echo).unwrap()),
    }
}

fn serve_or_refuse(mixin: impl Mixin, policy: &str) {
    let overload = match policy {
        "refuse" => Overload::Refuse(NO.into()),
        _ => Overload::Defer,
    };
    let builder = TcpServer::builder().mixin(mixin).max_connections(2).overload(overload);
    serve(builder.bind("127.0.0.1:0", Commands).unwrap());
}

/// Sets a limit of another process, to a number or to this process's own.
fn limit(words: &str) {
    let words: Vec<_> = words.split(' ').collect();
    let resource = if words[1] == "memory" { Resource::As } else { Resource::Nproc };
    let own = getrlimit(resource);
    let current = words.get(2).map_or(own.current, |limit| Some(limit.parse().unwrap()));
    prlimit(Some(pid_of(words[0])), resource, Rlimit { current, ..own }).unwrap();
}

fn set_descriptors(limit: u64) {
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Does what a line says, or else echoes it.
struct Commands;

/// Files that take up all descriptors.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

impl StreamRequestHandler for Commands {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["stats"] => writeln!(connection, "{:?}", connection.server().stats())?,
                ["hold"] => {
                    let files = std::iter::repeat_with(|| File::open("/dev/null"));
                    HELD.lock().extend(files.map_while(Result::ok));
                    connection.write_all(b"held\n")?;
                }
                ["release", ..] => {
                    if words.len() > 1 {
                        wait_for_longest_pause(connection.server());
                    }
                    HELD.lock().clear();
                    connection.write_all(b"released\n")?;
                }
                ["leave", ..] => {
                    connection.write_all(b"leaving\n")?;
                    wait_for_longest_pause(connection.server());
                    return Ok(());
                }
                ["hang"] => {
                    connection.write_all(b"hanging\n")?;
                    connection.flush()?;
                    thread::sleep(2 * TIMEOUT);
                }
                _ => connection.write_all(line.as_bytes())?,
            }
            line.clear();
        }
        Ok(())
    }
}

/// Returns right after a try that the server follows with its longest pause.
fn wait_for_longest_pause(server: &ServerHandle) {
    // The pauses are 5, 10, 20, 40, 80 and again 80 ms.
    let last = server.stats().accept_errors + 6;
    while server.stats().accept_errors < last {
        thread::sleep(Duration::from_micros(200));
    }
}
