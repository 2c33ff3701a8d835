//! A resolver that hangs: handlers that look up a name give up in time, others go on, and a stop does not
//! wait for it. The server is a process in which `getaddrinfo` is another one, made with cc.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

#[cfg(feature = "fibers")]
use socketserver::Fibers;
use socketserver::extend::Spawnable;
use socketserver::{Builder, Error, Threading, handler_fn, transport::Tcp};

use crate::harness::{Test, tests};
use crate::support::TempDir;
use crate::support::clients::{ask, line_of, rest_of};
use crate::support::server_process::{Part, ServerProcess, preloadable, serve};

pub(crate) const TESTS: &[Test] = tests![
    a_look_up_that_hangs_holds_up_its_handler_alone: ["cc"],
    a_stop_does_not_wait_for_a_look_up_that_hangs: ["cc"],
    look_ups_that_hang_are_bounded: ["cc"],
];

pub(crate) const PARTS: &[Part] = &[("look-ups", serve_look_ups)];

const MIXINS: &[&str] = &[
    "threading",
    #[cfg(feature = "fibers")]
    "fibers",
];

/// One that never finds `hangs.example`.
const RESOLVER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    while (node && strcmp(node, "hangs.example") == 0)
        pause();
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, found);
}
"#;

fn start(mixin: &str) -> ServerProcess {
    let directory = TempDir::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("LD_PRELOAD", preloadable(&directory, RESOLVER));
    ServerProcess::start_by(command, "look-ups", mixin)
}

fn a_look_up_that_hangs_holds_up_its_handler_alone() {
    for mixin in MIXINS {
        let server = start(mixin);
        let (hangs, other) = (server.client(), server.client());
        (&hangs).write_all(b"hangs.example:80 1000\n").unwrap();
        assert_eq!(line_of(&hangs), "looks up");
        // The one worker of the fibers is free.
        assert_eq!(ask(&other, "127.0.0.1:1 1000"), "looks up", "{mixin}");
        assert_eq!(line_of(&other), "connect", "{mixin}");
        assert_eq!(line_of(&hangs), "timeout", "{mixin}");
        assert_eq!(ask(&hangs, "hangs.example:80 1"), "looks up", "{mixin}");
        assert_eq!(line_of(&hangs), "timeout", "{mixin}");
        drop((hangs, other));
        server.stop();
    }
}

fn a_stop_does_not_wait_for_a_look_up_that_hangs() {
    for mixin in MIXINS {
        let server = start(mixin);
        let hangs = server.client();
        assert_eq!(ask(&hangs, "hangs.example:80 1000000"), "looks up", "{mixin}");
        let ended = server.stop();
        // Its wait has ended by an error, and the handler with it: it is not stuck.
        assert_eq!(rest_of(&hangs), b"", "{mixin}");
        let report: Vec<_> =
            ended.lines().skip_while(|line| !line.starts_with("drained")).collect();
        assert_eq!(report, ["drained 0, forced 1"], "{mixin}");
    }
}

fn look_ups_that_hang_are_bounded() {
    let server = start("threading");
    let client = server.client();
    for _ in 0..256 {
        assert_eq!(ask(&client, "hangs.example:80 1"), "looks up");
        assert_eq!(line_of(&client), "timeout");
    }
    // The resolver still has all of them.
    assert_eq!(ask(&client, "hangs.example:80 1"), "looks up");
    assert_eq!(line_of(&client), "resolve");
    assert_eq!(ask(&client, "127.0.0.1:1 1000"), "looks up");
    assert_eq!(line_of(&client), "connect");
    drop(client);
    server.stop();
}

fn serve_look_ups(mixin: &str) {
    let handler = handler_fn(|client| {
        let mut line = String::new();
        while client.read_line(&mut line)? > 0 {
            let (upstream, time) = line.trim_end().split_once(' ').ok_or("no time")?;
            let timeout = Duration::from_millis(time.parse()?);
            writeln!(client, "looks up")?;
            let answer = match client.connect(upstream, timeout) {
                Err(Error::ConnectTimeout { .. }) => "timeout",
                Err(Error::Resolve { .. }) => "resolve",
                Err(Error::Connect { .. }) => "connect",
                _ => "unexpected",
            };
            writeln!(client, "{answer}")?;
            line.clear();
        }
        Ok(())
    });
    let mixin: Box<dyn Spawnable> = match mixin {
        "threading" => Box::new(Threading::new()),
        #[cfg(feature = "fibers")]
        "fibers" => Box::new(Fibers::new().workers(1)),
        _ => panic!("{mixin}"),
    };
    let builder = Builder::<Tcp, _>::new(mixin).stop_timeout(Duration::from_secs(2));
    serve(builder.bind("127.0.0.1:0", handler).unwrap());
}
