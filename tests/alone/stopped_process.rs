//! A server whose process is stopped (`SIGSTOP`) for longer than its limits. They are for its clients,
//! which have sent in time.

use std::io::Write;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socketserver::extend::*;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, line_of};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::servers::answers;

pub(crate) const TESTS: &[Test] = tests![a_client_that_has_sent_in_time_is_answered];

pub(crate) const PARTS: &[Part] = &[("stopped", |argument| {
    let (mixin, limit) = argument.split_once(' ').unwrap();
    let mixin: Box<dyn Mixin> = match mixin {
        "sequential" => Box::new(Sequential),
        "threading" => Box::new(Threading::new()),
        "forking" => Box::new(Forking::new()),
        _ => fibers(),
    };
    let builder = Builder::<transport::Tcp, _>::new(mixin);
    let builder = match limit {
        "idle" => builder.idle_timeout(LIMIT),
        "read" => builder.read_timeout(LIMIT),
        "message" => builder.message_timeout(LIMIT),
        _ => builder.min_rate(MinRate { bytes_per_second: 1_000_000, grace: LIMIT }),
    };
    let echo = answers(|line, connection| Ok(writeln!(connection, "{line}")?));
    serve(builder.bind("127.0.0.1:0", echo).unwrap());
})];

/// Longer than a busy machine delays a client.
const LIMIT: Duration = Duration::from_millis(700);

#[cfg(feature = "fibers")]
fn fibers() -> Box<dyn Mixin> {
    Box::new(Fibers::new())
}

#[cfg(not(feature = "fibers"))]
fn fibers() -> Box<dyn Mixin> {
    Box::new(Threading::new())
}

fn a_client_that_has_sent_in_time_is_answered() {
    for mixin in ["sequential", "threading", "forking", "fibers"] {
        thread::scope(|scope| {
            for limit in ["idle", "read", "message", "rate"] {
                let check = move || is_answered(mixin, limit);
                thread::Builder::new()
                    .name(format!("{mixin} {limit}"))
                    .spawn_scoped(scope, check)
                    .unwrap();
            }
        });
    }
}

fn is_answered(mixin: &str, limit: &str) {
    let server = ServerProcess::start("stopped", &format!("{mixin} {limit}"));
    let mut client = server.client();
    assert_eq!(ask(&client, "hello"), "hello");
    // More than one read returns.
    let line = "x".repeat(20_000);
    let (first, rest) = line.split_at(if limit == "idle" { 0 } else { 1000 });
    client.write_all(first.as_bytes()).unwrap();
    // Time for the server to read it.
    thread::sleep(LIMIT / 7);
    let children = server.children();
    server.freeze();
    children.iter().for_each(|child| signal(*child, Signal::STOP));
    client.write_all(format!("{rest}\n").as_bytes()).unwrap();
    thread::sleep(2 * LIMIT);
    children.iter().for_each(|child| signal(*child, Signal::CONT));
    server.signal(Signal::CONT);
    assert_eq!(line_of(&client), line);
    drop(client);
    server.stop();
}

fn signal(process: Pid, signal: Signal) {
    kill_process(process, signal).unwrap();
}
