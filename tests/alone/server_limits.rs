//! The limits of a server as its log tells of them, and the system's limit on descriptors. Each server
//! is a process of its own; some are those of `scarcity.rs`.

use std::io::Write;
use std::thread;

use rustix::process::{Resource, Rlimit, setrlimit};
use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, line_of, rest_of};
use crate::support::server_process::{Part, ServerProcess, serve};

pub(crate) const TESTS: &[Test] = tests![
    a_limit_that_is_reached_is_logged_once_and_so_is_its_end,
    a_server_may_raise_the_limit_on_descriptors,
];

pub(crate) const PARTS: &[Part] = &[("raised", |_| {
    let limit = Rlimit { current: Some(64), maximum: Some(256) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let builder = ThreadingTcpServer::builder().raise_descriptor_limit();
    serve(builder.bind("127.0.0.1:0", Echo).unwrap());
})];

fn a_limit_that_is_reached_is_logged_once_and_so_is_its_end() {
    let reach = |part, argument, limit: usize| {
        let server = ServerProcess::start(part, argument);
        let clients: Vec<_> = (0..limit).map(|_| server.client()).collect();
        clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
        let reached = server.error_line();
        assert!(reached.contains(&format!("{limit} requests are being served")), "{reached}");
        // At the limit, one client after the other is served. That is one episode.
        let mut clients = clients.into_iter();
        for _ in 0..limit.min(10) {
            let mut waiting = server.client();
            waiting.write_all(b"hello\n").unwrap();
            drop(clients.next());
            assert_eq!(line_of(&waiting), "hello");
        }
        drop(clients);
        let over = server.error_line();
        assert!(over.contains("below the limit again"), "{over}");
        assert_eq!(server.stop().logged(""), 0);
    };
    let refuse = || {
        let server = ServerProcess::start("threads", "refuse");
        let clients = [(); 2].map(|()| server.client());
        clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
        for _ in 0..3 {
            assert_eq!(rest_of(server.client()), b"no room for you\r\n");
        }
        let reached = server.error_line();
        assert!(reached.contains("2 requests are being served"), "{reached}");
        assert!(reached.ends_with("more are refused"), "{reached}");
        drop(clients);
        let over = server.error_line();
        assert!(over.contains("below the limit again"), "{over}");
        assert_eq!(server.stop().logged(""), 0);
    };
    thread::scope(|scope| {
        scope.spawn(refuse);
        scope.spawn(|| reach("default", "threading", 224));
        scope.spawn(|| reach("default", "forking", 40));
        scope.spawn(|| reach("full", "2", 2));
    });
}

fn a_server_may_raise_the_limit_on_descriptors() {
    let server = ServerProcess::start("raised", "");
    let clients: Vec<_> = (0..200).map(|_| server.client()).collect();
    clients.iter().for_each(|client| assert_eq!(ask(client, "hello"), "hello"));
    drop(clients);
    assert_eq!(server.stop().count("accept_errors"), 0);
}
