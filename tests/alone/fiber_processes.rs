//! What fibers do to their process: how few threads and how little memory they need, what is logged of
//! a handler that blocks its thread, and how the process ends when a stack is too small. Each server
//! is a process of its own, except where this file says otherwise.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, line_of, rest_of, tcp, unix};
use crate::support::server_process::{Part, ServerProcess, count_in, serve};
use crate::support::servers::answers;
use crate::support::system::{raise_descriptor_limit, serving_threads, status_of};
use crate::support::{Gate, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_thousand_connections_need_two_threads,
    a_stop_ends_all_threads,
    stacks_are_given_back_after_many_connections,
    a_handler_that_blocks_its_worker_is_logged_once_and_one_that_waits_is_not,
    the_warning_says_what_the_handler_does,
    a_fiber_has_room_for_a_panic_and_its_backtrace,
    a_fiber_that_overflows_its_stack_ends_the_process_with_a_message,
    the_stack_overflow_of_a_thread_is_reported_as_without_fibers,
    a_bad_access_ends_the_process_as_without_fibers,
    a_connection_without_memory_for_a_stack_is_refused,
    a_part_without_memory_for_a_stack_is_an_error,
    offloaded_work_that_no_thread_can_be_started_for_runs_in_place,
    without_descriptors_connections_wait_until_some_are_free,
];

pub(crate) const PARTS: &[Part] = &[
    ("workers", |workers| {
        // Without the thread that watches for slow handlers: it would find what a worker has missed.
        let mixin = Fibers::new().slow_handler_warning(Duration::from_secs(3600));
        serve_by(mixin.workers(workers.parse().unwrap()));
    }),
    ("watchful", |_| serve_by(Fibers::new().workers(2).slow_handler_warning(SLOW))),
    ("stacks", |size| serve_by(Fibers::new().workers(1).stack_size(size.parse().unwrap()))),
    ("unix", |name| {
        let mixin = Fibers::new().workers(2).stack_size(128 * 1024);
        let builder = FiberUnixStreamServer::builder().mixin(mixin);
        serve(builder.bind(format!("unix:{name}"), commands()).unwrap());
    }),
];

/// Longer than a busy machine delays a thread.
const SLOW: Duration = Duration::from_millis(150);

// Many connections.

fn a_thousand_connections_need_two_threads() {
    const CLIENTS: u64 = 1000;
    raise_descriptor_limit();
    let server = ServerProcess::start("workers", "2");
    let clients: Vec<_> = (0..CLIENTS).map(|_| server.client()).collect();
    let numbers = || clients.iter().zip(1..=CLIENTS);
    // Each handler keeps its numbers on its stack, and waits in the read of the next one.
    for (mut client, number) in numbers() {
        client.write_all(format!("add\n{number}\n").as_bytes()).unwrap();
    }
    for (client, number) in numbers() {
        assert_eq!(line_of(client), number.to_string());
    }
    for (client, number) in numbers() {
        assert_eq!(ask(client, "1000000"), (number + 1_000_000).to_string());
    }
    // Two workers, and the thread that accepts.
    assert_eq!(status_of(server.pid(), "Threads"), "3");
    let ended = server.stop();
    assert!(ended.says(&format!("drained {CLIENTS}, forced 0")), "{ended:?}");
    for (client, number) in numbers() {
        assert_eq!(line_of(client), format!("1000000 {number}"));
    }
}

fn a_stop_ends_all_threads() {
    // In this process: there is no other server at this time.
    for serves in [true, false] {
        let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(3));
        let server = builder.bind("127.0.0.1:0", commands()).unwrap();
        let client = tcp(server.local_addr());
        let served = if serves {
            Ok(server.spawn().unwrap())
        } else {
            assert_eq!(server.handle_request(), Handled::Request);
            Err(server)
        };
        assert_eq!(ask(&client, "where?"), "elsewhere");
        wait_until("all threads run", || serving_threads() >= 4);
        let began = Instant::now();
        drop(served);
        wait_until("all threads have ended", || serving_threads() == 0);
        // By itself, an idle thread ends after ten seconds.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

fn stacks_are_given_back_after_many_connections() {
    const MEGABYTE: usize = 1024 * 1024;
    raise_descriptor_limit();
    let server = ServerProcess::start("unix", &abstract_name());
    let size = || 1024 * status_of(server.pid(), "VmSize").parse::<usize>().unwrap();
    let connect = || {
        let client = unix(server.endpoint());
        assert_eq!(ask(&client, "hello"), "hello");
        client
    };
    let leave = |clients: Vec<UnixStream>| {
        let control = connect();
        drop(clients);
        wait_until("all but one have left", || count(&control, "active") == 1);
    };
    let burst = |count: usize| leave((0..count).map(|_| connect()).collect());
    // After this, the workers have allocated what they keep.
    burst(100);
    let before = size();
    let clients: Vec<_> = (0..2000).map(|_| connect()).collect();
    assert!(size() > before + 200 * MEGABYTE, "{} and {before}", size());
    leave(clients);
    // A few stacks are kept for the next connections.
    wait_until("the stacks are given back", || size() < before + 50 * MEGABYTE);
    (0..10_000).for_each(|_| drop(connect()));
    burst(100);
    assert!(size() < before + 50 * MEGABYTE, "{} and {before}", size());
    assert_eq!(server.stop().count("refused"), 0);
}

// Handlers that block their thread.

fn a_handler_that_blocks_its_worker_is_logged_once_and_one_that_waits_is_not() {
    let server = ServerProcess::start("watchful", "");
    // The connections of each worker.
    let mut threads = HashMap::new();
    let clients: Vec<_> = (0..30).map(|_| server.client()).collect();
    for client in &clients {
        threads.entry(ask(client, "thread")).or_insert_with(Vec::new).push(client);
    }
    let [here, there] = &threads.into_values().collect::<Vec<_>>()[..] else { panic!() };
    // Handlers that wait, or work in short steps, are not logged.
    assert_eq!(ask(there[0], "offload"), "offload");
    for _ in 0..2 {
        assert_eq!([here[0], there[1]].map(|client| ask(client, "hello")), ["hello", "hello"]);
        thread::sleep(3 * SLOW);
    }
    thread::scope(|scope| {
        for client in &here[..4] {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(ask(*client, "work"), "work")));
        }
    });
    assert_eq!(ask(there[1], "sleep"), "sleep");
    assert_eq!(ask(here[0], "block"), "block");
    let warning = server.error_line();
    let peer = here[0].local_addr().unwrap().to_string();
    for word in ["WARN", &peer, "Fibers::offload"] {
        assert!(warning.contains(word), "{warning}");
    }
    // Long enough for several more checks. No event tells that nothing is logged.
    thread::sleep(4 * SLOW);
    assert_eq!(ask(there[2], "hello"), "hello");
    assert_eq!(ask(there[2], "release"), "release");
    for client in [here[0], there[0], there[1]] {
        assert_eq!(line_of(client), "released");
    }
    // Another connection that blocks is logged too.
    assert_eq!(ask(here[1], "close"), "close");
    assert_eq!(ask(here[1], "block"), "block");
    let warning = server.error_line();
    assert!(warning.contains(&here[1].local_addr().unwrap().to_string()), "{warning}");
    assert_eq!(ask(there[2], "release"), "release");
    assert_eq!(line_of(here[1]), "released");
    assert_eq!(server.stop().logged(""), 0);
}

fn the_warning_says_what_the_handler_does() {
    let server = ServerProcess::start("watchful", "");
    for (command, expected) in [
        ("compute", "computes"),
        ("std sleep", "is in the system call clock_nanosleep"),
        ("read a pipe", "is in the system call read"),
        ("block", "waits for a lock or a condition variable (futex)"),
    ] {
        let client = server.client();
        (&client).write_all(format!("{command}\n").as_bytes()).unwrap();
        let warning = server.error_line();
        // Elsewhere nothing tells what a thread does.
        let is_told = cfg!(not(socketserver_portable));
        assert!(!is_told || warning.contains(expected), "{command}: {warning}");
    }
    // On the other worker, if not on both.
    wait_until("a worker is free", || ask(&server.client(), "release") == "release");
    assert_eq!(server.stop().logged(""), 0);
}

// Stack overflows, and other faults.

fn a_fiber_has_room_for_a_panic_and_its_backtrace() {
    for how in ["1", "full"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("RUST_BACKTRACE", how);
        let server = ServerProcess::start_by(command, "workers", "1");
        for _ in 0..2 {
            assert_eq!(ask(&server.client(), "panic"), "");
        }
        assert_eq!(ask(&server.client(), "hello"), "hello");
        assert_eq!(server.stop().count("panicked"), 2);
    }
}

fn a_fiber_that_overflows_its_stack_ends_the_process_with_a_message() {
    for size in ["16384", "65536", "1048576"] {
        let server = ServerProcess::start("stacks", size);
        assert_eq!(ask(&server.client(), "hello"), "hello");
        (&server.client()).write_all(b"recurse\n").unwrap();
        let message = server.dies_of(Signal::ABORT);
        let size = format!(" {size} bytes");
        assert!(message.contains(&size) && message.contains("Fibers::stack_size"), "{message}");
        assert_eq!(message.lines().filter(|line| !line.is_empty()).count(), 1, "{message}");
    }
}

fn the_stack_overflow_of_a_thread_is_reported_as_without_fibers() {
    let server = ServerProcess::start("workers", "1");
    (&server.client()).write_all(b"recurse on a thread\n").unwrap();
    let message = server.dies_of(Signal::ABORT);
    assert!(message.contains("has overflowed its stack"), "{message}");
    assert!(message.contains("an ordinary one") && !message.contains("Fibers"), "{message}");
}

fn a_bad_access_ends_the_process_as_without_fibers() {
    let server = ServerProcess::start("workers", "1");
    (&server.client()).write_all(b"access no memory\n").unwrap();
    assert_eq!(server.dies_of(Signal::SEGV), "");
}

// Shortage.

fn a_connection_without_memory_for_a_stack_is_refused() {
    const STACK: usize = 256 * 1024 * 1024;
    let server = ServerProcess::start("stacks", &STACK.to_string());
    let control = server.client();
    assert_eq!(ask(&control, "hello"), "hello");
    let kilobytes: usize = status_of(server.pid(), "VmSize").parse().unwrap();
    let own = set_limit(&server, Resource::As, 1024 * kilobytes + STACK / 2);
    for _ in 0..5 {
        assert_eq!(rest_of(server.client()), b"");
    }
    wait_until("all but one have ended", || count(&control, "active") == 1);
    assert_eq!(count(&control, "refused"), 5);
    lift_limit(&server, Resource::As, own);
    assert_eq!(ask(&server.client(), "hello"), "hello");
    assert_eq!(server.stop().logged("refusing 127.0.0.1"), 5);
}

fn a_part_without_memory_for_a_stack_is_an_error() {
    const STACK: usize = 256 * 1024 * 1024;
    let server = ServerProcess::start("stacks", &STACK.to_string());
    let client = server.client();
    assert_eq!(ask(&client, "hello"), "hello");
    let kilobytes: usize = status_of(server.pid(), "VmSize").parse().unwrap();
    let own = set_limit(&server, Resource::As, 1024 * kilobytes + STACK / 2);
    let answer = ask(&client, "part");
    assert!(answer.starts_with("cannot start a part of a request"), "{answer}");
    lift_limit(&server, Resource::As, own);
    assert_eq!(ask(&client, "part"), "done");
    assert_eq!(server.stop().logged(""), 0);
}

fn offloaded_work_that_no_thread_can_be_started_for_runs_in_place() {
    const CLIENTS: usize = 300;
    raise_descriptor_limit();
    let server = ServerProcess::start("workers", "1");
    let control = server.client();
    assert_eq!(ask(&control, "hello"), "hello");
    let clients: Vec<_> = (0..CLIENTS).map(|_| server.client()).collect();
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    // Less than the stack of a thread.
    let kilobytes: usize = status_of(server.pid(), "VmSize").parse().unwrap();
    let own = set_limit(&server, Resource::As, 1024 * (kilobytes + 256));
    for client in &clients {
        assert_eq!(ask(client, "where?"), "here");
    }
    lift_limit(&server, Resource::As, own);
    for mut client in &clients {
        client.write_all(b"offload\n").unwrap();
        assert_eq!(line_of(client), "offload");
    }
    assert_eq!(ask(&control, "release"), "release");
    for client in &clients {
        assert_eq!(line_of(client), "released");
    }
    assert_eq!(server.stop().logged("no thread can be started"), CLIENTS);
}

fn without_descriptors_connections_wait_until_some_are_free() {
    let server = ServerProcess::start("workers", "3");
    let control = server.client();
    assert_eq!(ask(&control, "hello"), "hello");
    for _ in 0..3 {
        wait_until("no other connection is open", || count(&control, "active") == 1);
        let errors = count(&control, "accept_errors");
        let own = leave_descriptors(&server, 0);
        let waiting = server.client();
        wait_until("accepting fails", || count(&control, "accept_errors") > errors);
        lift_limit(&server, Resource::Nofile, own);
        assert_eq!(ask(&waiting, "hello"), "hello");
    }
    assert_eq!(server.stop().count("refused"), 0);
}

#[track_caller]
fn count<S>(control: &S, name: &str) -> u64
where
    for<'a> &'a S: std::io::Read + Write,
{
    count_in(&ask(control, "stats"), name)
}

/// Sets a limit of the server. Returns the limit before.
fn set_limit(server: &ServerProcess, resource: Resource, limit: usize) -> Rlimit {
    let own = getrlimit(resource);
    let limit = Rlimit { current: Some(limit as u64), ..own };
    prlimit(Some(server.pid()), resource, limit).unwrap()
}

/// Limits the server to so many more descriptors than it has open.
fn leave_descriptors(server: &ServerProcess, count: usize) -> Rlimit {
    let open = format!("/proc/{}/fd/", server.pid().as_raw_nonzero());
    let mut free = (0..).filter(|number| !Path::new(&format!("{open}{number}")).exists());
    set_limit(server, Resource::Nofile, free.nth(count).unwrap())
}

fn lift_limit(server: &ServerProcess, resource: Resource, limit: Rlimit) {
    prlimit(Some(server.pid()), resource, limit).unwrap();
}

// The servers.

fn serve_by(mixin: Fibers) {
    // No core files of processes that are meant to crash.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    serve(FiberTcpServer::builder().mixin(mixin).bind("127.0.0.1:0", commands()).unwrap());
}

/// Does what a line says, or else echoes it.
fn commands() -> impl StreamRequestHandler {
    let gate = Gate::default();
    answers(move |line, connection| {
        let here = thread::current().id();
        match line {
            "stats" => writeln!(connection, "{:?}", connection.server().stats())?,
            "add" => add(connection)?,
            "thread" => writeln!(connection, "{here:?}")?,
            "where?" => {
                let is_here = Fibers::offload(|| thread::current().id() == here)?;
                // The message that the work is done, if it comes late, does not end the sleep.
                let (began, time) = (Instant::now(), Duration::from_millis(1));
                Fibers::sleep(time)?;
                assert!(began.elapsed() >= time, "{:?}", began.elapsed());
                writeln!(connection, "{}", if is_here { "here" } else { "elsewhere" })?;
            }
            "block" | "offload" | "sleep" => {
                writeln!(connection, "{line}")?;
                connection.flush()?;
                match line {
                    "block" => gate.pass(),
                    "offload" => Fibers::offload(|| gate.pass())?,
                    _ => {
                        while !gate.is_open() {
                            Fibers::sleep(Duration::from_millis(1))?;
                        }
                    }
                }
                writeln!(connection, "released")?;
            }
            "compute" => {
                let began = Instant::now();
                while began.elapsed() < 4 * SLOW {}
            }
            "std sleep" => thread::sleep(4 * SLOW),
            "read a pipe" => {
                let (reader, writer) = rustix::pipe::pipe()?;
                thread::spawn(move || {
                    thread::sleep(4 * SLOW);
                    drop(writer);
                });
                rustix::io::read(reader, &mut [0])?;
            }
            "part" => {
                let part = connection
                    .scope(|scope| scope.spawn(|| "done")?.join().map_err(|_| Error::Stopped));
                writeln!(connection, "{}", part.unwrap_or_else(|error| error.to_string().leak()))?;
            }
            "panic" => panic!("as it should"),
            "recurse" => _ = recurse(0),
            "recurse on a thread" => {
                let thread = thread::Builder::new().name("an ordinary one".to_owned());
                _ = thread.spawn(|| recurse(0))?.join();
            }
            "access no memory" => access_no_memory(),
            _ => {
                match line {
                    "release" => gate.open(),
                    "close" => gate.close(),
                    "work" => thread::sleep(SLOW / 75),
                    _ => {}
                }
                writeln!(connection, "{line}")?;
            }
        }
        Ok(())
    })
}

/// Answers each number with the sum of all so far, and at end-of-file with all of them.
fn add(connection: &mut Connection) -> HandlerResult {
    let (mut numbers, mut count) = ([0; 100], 0);
    let mut line = String::new();
    while connection.read_line(&mut line)? > 0 {
        numbers[count] = line.trim_end().parse::<u64>()?;
        count += 1;
        writeln!(connection, "{}", numbers.iter().sum::<u64>())?;
        line.clear();
    }
    numbers[..count].reverse();
    let all: Vec<_> = numbers[..count].iter().map(u64::to_string).collect();
    Ok(writeln!(connection, "{}", all.join(" "))?)
}

/// Overflows the stack.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 20]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + black_box(frame)[0] }
}

#[allow(unsafe_code)]
fn access_no_memory() {
    // SAFETY: nothing is mapped at this address: the read is a fault, which ends the process.
    _ = unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() };
}
