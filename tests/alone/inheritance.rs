//! What a forking server inherits from its process: buffered output, an ignored signal. Each server is a process of its own.
#![allow(unsafe_code, reason = "ignores a signal")]

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{echoes, rest_of};
use crate::support::server_process::{Part, ServerProcess, serve};

pub(crate) const TESTS: &[Test] = tests![
    output_from_before_a_fork_is_written_once,
    children_are_counted_although_sigchld_was_ignored,
];

pub(crate) const PARTS: &[Part] = &[
    ("half-line", |_| serve(ForkingTcpServer::bind("127.0.0.1:0", HalfLine).unwrap())),
    ("ignored-sigchld", serve_with_ignored_sigchld),
];

fn output_from_before_a_fork_is_written_once() {
    let server = ServerProcess::start("half-line", "");
    for text in ["first\n", "second\n", "third\n"] {
        echoes(server.endpoint(), text);
    }
    let ended = server.stop();
    let lines: Vec<_> = ended.lines().filter(|line| line.ends_with("child")).collect();
    assert_eq!(lines, ["half a line, child", "child", "child"], "{ended:?}");
}

fn children_are_counted_although_sigchld_was_ignored() {
    for way in ["SIG_IGN", "SA_NOCLDWAIT"] {
        let server = ServerProcess::start("ignored-sigchld", way);
        // The system would reap some of these children before they are watched.
        for _ in 0..300 {
            echoes(server.endpoint(), "short\n");
        }
        let client = server.client();
        (&client).write_all(b"exit\n").unwrap();
        assert!(rest_of(&client).is_empty());
        let ended = server.stop();
        let counts = ["finished", "eof", "failed"].map(|name| ended.count(name));
        assert_eq!(counts, [301, 300, 1], "{way}: {ended:?}");
        assert_eq!(ended.logged("exited with status 3"), 1, "{way}: {ended:?}");
        assert_eq!(ended.logged(""), 1, "{way}: {ended:?}");
    }
}

// The servers.

/// The server prints half a line before its first child, and each child a line.
struct HalfLine;

impl StreamRequestHandler for HalfLine {
    fn verify_request(&self, _connection: &Connection) -> bool {
        static PRINTED: AtomicBool = AtomicBool::new(false);
        if !PRINTED.swap(true, Ordering::Relaxed) {
            print!("half a line, ");
        }
        true
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        println!("child");
        StreamRequestHandler::handle(&Echo, connection)
    }
}

fn serve_with_ignored_sigchld(way: &str) {
    // SAFETY: zeros are a valid `sigaction`, with the default action. The system calls no function
    // of this process for either action.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        match way {
            "SIG_IGN" => action.sa_sigaction = libc::SIG_IGN,
            _ => action.sa_flags = libc::SA_NOCLDWAIT,
        }
        assert_eq!(libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()), 0);
    }
    let handler = handler_fn(|connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            if line == "exit\n" {
                std::process::exit(3);
            }
            connection.write_all(line.as_bytes())?;
            line.clear();
        }
        Ok(())
    });
    serve(ForkingTcpServer::bind("127.0.0.1:0", handler).unwrap());
}
