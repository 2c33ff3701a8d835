//! What a forking server promises while it serves. Each server is a process of its own. How children
//! end is in `children.rs`.
#![allow(unsafe_code, reason = "the promise to fork despite threads")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Signal, kill_process};
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::Tcp;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::mixin_named;
use crate::support::clients::{ask, echoes, line_of, reset, rest_of};
use crate::support::server_process::{Part, ServerProcess, announce, serve};
use crate::support::servers::flood;
use crate::support::system::{Bystanders, pid_of};
use crate::support::{TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    four_transports_serve_three_clients_each_beside_other_children,
    a_child_replies_from_the_address_that_the_datagram_was_sent_to,
    a_forking_server_refuses_a_process_with_threads,
    connections_over_max_children_wait_in_the_backlog,
    a_child_has_no_descriptor_but_its_own_connection,
    a_thousand_short_children_leave_no_zombie,
    children_are_counted_by_why_they_ended,
    handle_request_forks_and_reaps,
    a_connection_can_be_disconnected_while_its_child_serves,
    a_child_can_shut_the_server_down,
    a_request_that_verify_request_refuses_costs_no_child,
    a_big_write_is_complete_although_signals_keep_arriving,
    a_boxed_mixin_may_fork,
    a_child_has_senders_and_halves_on_its_own_threads,
];

pub(crate) const PARTS: &[Part] = &[
    ("matrix", serve_matrix),
    ("other-threads", serve_beside_threads),
    ("max-children", serve_two_children),
    ("commands", |_| serve(tcp_builder(40).bind("127.0.0.1:0", Commands).unwrap())),
    ("handle-request", serve_by_handle_request),
    ("disconnect", serve_with_disconnect),
    ("boxed", serve_boxed),
    ("big-write", serve_big_write),
    ("sender", serve_with_sender),
];

fn four_transports_serve_three_clients_each_beside_other_children() {
    let directory = TempDir::new();
    let path = |scheme| format!("{scheme}:{}", directory.join(scheme).display());
    for address in [
        "tcp://127.0.0.1:0".to_owned(),
        "tcp://[::1]:0".to_owned(),
        "udp://127.0.0.1:0".to_owned(),
        path("unix"),
        path("unixgram"),
        format!("unix:{}", abstract_name()),
        format!("unixgram:{}", abstract_name()),
    ] {
        let server = ServerProcess::start("matrix", &address);
        for text in ["first", "second\nand more\n", "third \u{1F980}\n"] {
            echoes(server.endpoint(), text);
        }
        let ended = server.stop();
        assert!(ended.says("bystanders are unharmed"), "{address}: {ended:?}");
        assert_eq!(ended.count("accepted"), 3, "{address}");
        assert_eq!(ended.count("finished"), 3, "{address}");
        assert_eq!(ended.count("failed") + ended.count("panicked"), 0, "{address}");
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn a_child_replies_from_the_address_that_the_datagram_was_sent_to() {
    let server = ServerProcess::start("matrix", "udp://0.0.0.0:0");
    let second = server.address.replace("0.0.0.0", "127.0.0.2");
    echoes(second.parse::<Endpoint>().unwrap(), "hello");
}

fn a_forking_server_refuses_a_process_with_threads() {
    for (situation, result) in [
        ("one", "refusing to fork: the process has 1 other thread"),
        ("two", "refusing to fork: the process has 2 other threads"),
        ("joined", "may serve"),
        ("promised", "may serve"),
    ] {
        let ended = ServerProcess::start("other-threads", situation).wait();
        assert!(ended.says(result), "{situation}: {ended:?}");
    }
}

fn connections_over_max_children_wait_in_the_backlog() {
    let server = ServerProcess::start("max-children", "");
    let mut clients: Vec<_> = (0..2).map(|_| server.client()).collect();
    for client in &clients {
        ask(client, "hello");
    }
    let waiting: Vec<_> = (0..4).map(|_| server.client()).collect();
    for mut client in &waiting {
        client.write_all(b"waiting\n").unwrap();
    }
    // The server could accept one of them at each tick.
    let mut starts = 0;
    for _ in 0..4 {
        while let line = server.line()
            && line != "tick"
        {
            starts += i32::from(line == "start");
        }
    }
    assert_eq!(starts, 2);
    assert_eq!(server.children().len(), 2);
    // When one has left, the next is served.
    for client in waiting {
        let leaving = clients.remove(0);
        leaving.shutdown(Shutdown::Write).unwrap();
        assert!(rest_of(&leaving).is_empty());
        assert_eq!(line_of(&client), "waiting");
        clients.push(client);
    }
    drop(clients);
    let ended = server.stop();
    let mut running = 2;
    for line in ended.lines() {
        running += i32::from(line == "start") - i32::from(line == "end");
        assert!(running <= 2, "{ended:?}");
    }
    assert_eq!(ended.count("finished"), 6);
}

fn a_child_has_no_descriptor_but_its_own_connection() {
    let server = ServerProcess::start("commands", "");
    let first = server.client();
    ask(&first, "pid");
    let second = server.client();
    let descriptors = ask(&second, "descriptors");
    assert_eq!(descriptors.matches("socket:").count(), 1, "{descriptors}");
    assert_eq!(descriptors.matches("pidfd").count(), 0, "{descriptors}");
    assert_eq!(descriptors.matches("eventpoll").count(), 0, "{descriptors}");
    // No other child has the first client's connection open.
    (&first).write_all(b"bye\n").unwrap();
    assert!(rest_of(&first).is_empty());
    assert_eq!(ask(&second, "echo").as_str(), "echo");
}

fn a_thousand_short_children_leave_no_zombie() {
    let server = ServerProcess::start("commands", "");
    for _ in 0..1000 {
        echoes(server.endpoint(), "short\n");
    }
    // They are reaped although no further connection arrives.
    wait_until("all children are reaped", || server.children().is_empty());
    assert_eq!(server.stop().count("finished"), 1000);
}

fn children_are_counted_by_why_they_ended() {
    let server = ServerProcess::start("commands", "");
    for (words, reason) in [
        ("bye\n", "completed"),
        ("impatient\n", "idle_timeout"),
        ("in a hurry\nhalf a li", "message_timeout"),
        ("flood\n", "write_timeout"),
        ("fail\n", "failed"),
        ("panic\n", "panicked"),
        (&"x".repeat(65_537), "limit"),
    ] {
        let client = server.client();
        (&client).write_all(words.as_bytes()).unwrap();
        if reason == "write_timeout" {
            (&client).read_exact(&mut [0]).unwrap();
            wait_until("its child gives it up", || server.children().is_empty());
        }
        assert!(rest_of(&client).iter().all(|byte| *byte == b'x'), "{reason}");
    }
    echoes(server.endpoint(), "the end of file\n");
    let resetting = server.client();
    ask(&resetting, "hello");
    reset(resetting);
    wait_until("all children have ended", || server.children().is_empty());
    let staying = server.client();
    ask(&staying, "hello");
    let ended = server.stop();
    for reason in
        ["completed", "idle_timeout", "message_timeout", "write_timeout", "failed", "panicked"]
            .into_iter()
            .chain(["limit", "eof", "reset", "stopped"])
    {
        assert_eq!(ended.count(reason), 1, "{reason}: {ended:?}");
    }
    assert_eq!(ended.count("finished"), 10);
    assert_eq!(ended.count("active"), 0);
}

fn handle_request_forks_and_reaps() {
    let server = ServerProcess::start("handle-request", "");
    for text in ["first\n", "second\n", "third\n"] {
        echoes(server.endpoint(), text);
    }
    let ended = server.wait();
    assert!(ended.says("[Request, Request, Request]"), "{ended:?}");
    assert_eq!(ended.count("finished"), 3);
}

fn a_connection_can_be_disconnected_while_its_child_serves() {
    let server = ServerProcess::start("disconnect", "");
    let clients = [server.client(), server.client()];
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    kill_process(server.pid(), Signal::USR1).unwrap();
    for client in &clients {
        assert!(rest_of(client).is_empty());
    }
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    assert_eq!(ended.count("finished"), 3);
}

fn a_child_can_shut_the_server_down() {
    let server = ServerProcess::start("commands", "");
    let client = server.client();
    assert_eq!(ask(&client, "shutdown"), "shutting down");
    assert!(rest_of(&client).is_empty());
    assert_eq!(server.wait().count("finished"), 1);
}

fn a_request_that_verify_request_refuses_costs_no_child() {
    let server = ServerProcess::start("commands", "refuse");
    let client = server.client();
    assert!(matches!((&client).read(&mut [0]), Ok(0) | Err(_)));
    let ended = server.stop();
    assert_eq!(ended.count("denied"), 1);
    assert_eq!(ended.count("accepted"), 0);
}

fn a_big_write_is_complete_although_signals_keep_arriving() {
    for mixin in ["sequential", "threading", "forking"] {
        let server = ServerProcess::start("big-write", mixin);
        let mut client = server.client();
        // A signal to a thread id is delivered to that thread if it does not block it: here, the one
        // that writes.
        let writer = pid_of(&line_of(&client));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = kill_process(writer, Signal::USR1);
                    thread::sleep(Duration::from_micros(50));
                }
            });
            let mut received = 0;
            let mut buffer = vec![0; 100_000];
            let complete = loop {
                match client.read(&mut buffer) {
                    Ok(0) => break Ok(received),
                    Ok(length) if buffer[..length].iter().all(|byte| *byte == b'x') => {
                        received += length;
                    }
                    other => break Err(other),
                }
            };
            done.store(true, Ordering::Relaxed);
            assert_eq!(complete.unwrap(), BIG, "{mixin}");
        });
        let ended = server.stop();
        assert_eq!(ended.count("failed"), 0, "{mixin}");
    }
}

fn a_boxed_mixin_may_fork() {
    let server = ServerProcess::start("boxed", "");
    let pid = ask(&server.client(), "pid");
    assert_ne!(pid_of(&pid), server.pid());
    server.stop();
}

// The servers.

fn a_child_has_senders_and_halves_on_its_own_threads() {
    let server = ServerProcess::start("sender", "");
    let clients = [(); 3].map(|()| server.client());
    for client in &clients {
        assert_eq!(line_of(client), "pushed");
        assert_eq!(ask(client, "asked"), "asked");
    }
    for client in clients {
        client.shutdown(Shutdown::Write).unwrap();
        let rest = String::from_utf8(rest_of(client)).unwrap();
        let mut expected = String::new();
        (0..1000).for_each(|count| expected += &format!("{count} {}\n", "x".repeat(1000)));
        assert_eq!(rest, expected);
    }
    assert_eq!(server.stop().count("failed"), 0);
}

/// Sends from another thread, and at the end much from its own.
fn serve_with_sender(_: &str) {
    let handler = handler_fn(|connection| {
        let sender = connection.sender(4 * 1024 * 1024)?;
        let pushing = sender.clone();
        thread::spawn(move || pushing.send("pushed\n")).join().unwrap()?;
        let (mut reader, mut writer) = connection.split();
        let (lines, received) = mpsc::channel::<String>();
        thread::scope(|scope| {
            scope.spawn(move || {
                for line in received {
                    writer.write_all(line.as_bytes()).unwrap();
                    writer.flush().unwrap();
                }
            });
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 0 {
                lines.send(std::mem::take(&mut line)).unwrap();
            }
            drop(lines);
        });
        for count in 0..1000 {
            sender.send(format!("{count} {}\n", "x".repeat(1000)))?;
        }
        Ok(())
    });
    serve(tcp_builder(40).bind("127.0.0.1:0", handler).unwrap());
}

fn serve_matrix(address: &str) {
    let bystanders = Bystanders::start();
    match address.parse::<Endpoint>().unwrap().scheme() {
        Some(Scheme::Udp) => serve(ForkingUdpServer::bind(address, Echo).unwrap()),
        Some(Scheme::Unix) => serve(ForkingUnixStreamServer::bind(address, Echo).unwrap()),
        Some(Scheme::UnixDatagram) => {
            serve(ForkingUnixDatagramServer::bind(address, Echo).unwrap());
        }
        _ => serve(ForkingTcpServer::bind(address, Echo).unwrap()),
    }
    bystanders.are_unharmed();
    println!("bystanders are unharmed");
}

fn serve_beside_threads(situation: &str) {
    announce(&Address::Tcp(([127, 0, 0, 1], 0).into()));
    let (keep, wait) = mpsc::channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let threads = ["joined", "one", "two"].iter().position(|name| *name == situation);
    for _ in 0..threads.unwrap_or(1) {
        let wait = wait.clone();
        thread::spawn(move || _ = wait.lock().recv());
    }
    for _ in 0..200 {
        // Threads that have ended do not count.
        thread::spawn(|| ()).join().unwrap();
        let mut mixin = Forking::new();
        if situation == "promised" {
            // SAFETY: nothing is forked here.
            mixin = mixin.despite_threads(unsafe { ForkDespiteThreads::new() });
        }
        let builder = ForkingTcpServer::builder().mixin(StartsOnly(mixin));
        match builder.bind("127.0.0.1:0", Echo).unwrap().serve_forever() {
            Ok(()) => {}
            Err(error @ Error::OtherThreads { .. }) => return println!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }
    drop(keep);
    println!("may serve");
}

/// Shuts the server down as soon as it has started.
struct StartsOnly(Forking);

impl Mixin for StartsOnly {
    fn start(&self, server: &BaseServer) -> Result<()> {
        server.handle().shutdown();
        self.0.start(server)
    }

    fn process_request(&self, _server: &BaseServer, _request: Request) {}
}

fn tcp_builder(max_children: usize) -> Builder<Tcp, Forking> {
    let mixin = Forking::new().max_children(max_children);
    ForkingTcpServer::builder().mixin(mixin).stop_timeout(Duration::from_secs(2))
}

/// At most two children. The start and the end of each is printed, and each tick of the server.
fn serve_two_children(_: &str) {
    let echo = handler_fn(|connection| {
        println!("start");
        let result = StreamRequestHandler::handle(&Echo, connection);
        println!("end");
        result
    });
    let builder = tcp_builder(2).service_actions(Duration::from_millis(5), || println!("tick"));
    serve(builder.bind("127.0.0.1:0", echo).unwrap());
}

const SHORT: Duration = Duration::from_millis(1);

/// Does what a line says, or else echoes it.
struct Commands;

impl StreamRequestHandler for Commands {
    fn verify_request(&self, _connection: &Connection) -> bool {
        std::env::args().nth(3).as_deref() != Some("refuse")
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            match line.trim_end() {
                "pid" => writeln!(connection, "{}", std::process::id())?,
                "descriptors" => writeln!(connection, "{}", descriptors())?,
                "bye" => return Ok(()),
                "fail" => return Err("as told".into()),
                "panic" => panic!("as told"),
                "impatient" => connection.set_idle_timeout(Some(SHORT)),
                "in a hurry" => connection.set_message_timeout(Some(SHORT)),
                "flood" => {
                    connection.set_write_timeout(Some(SHORT));
                    return flood(connection);
                }
                "shutdown" => {
                    writeln!(connection, "shutting down")?;
                    connection.server().shutdown();
                }
                _ => connection.write_all(line.as_bytes())?,
            }
            line.clear();
        }
        Ok(())
    }
}

fn descriptors() -> String {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| format!("{} ", link.display())).collect()
}

fn serve_by_handle_request(_: &str) {
    let builder = ForkingTcpServer::builder();
    let server = builder.request_timeout(SHORT).bind("127.0.0.1:0", Echo).unwrap();
    announce(server.local_addr());
    let mut handled = Vec::new();
    while handled.len() < 3 || server.handle().stats().active > 0 {
        match server.handle_request() {
            Handled::TimedOut => {}
            other => handled.push(other),
        }
    }
    println!("{handled:?}");
    println!("{:?}", server.handle().stats());
}

fn serve_with_disconnect(_: &str) {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, asked.clone()).unwrap();
    let handle = Arc::new(OnceLock::<ServerHandle>::new());
    let late_handle = handle.clone();
    let actions = move || {
        if let Some(handle) = late_handle.get()
            && asked.swap(false, Ordering::Relaxed)
        {
            for connection in handle.connections() {
                assert!(handle.disconnect(connection.id));
            }
        }
    };
    let builder = tcp_builder(40).service_actions(Duration::from_millis(5), actions);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap();
    handle.set(server.handle()).unwrap();
    serve(server);
}

fn serve_boxed(_: &str) {
    let mixin: Box<dyn Mixin> = Box::new(Forking::new());
    serve(TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Commands).unwrap());
}

const BIG: usize = 16 * 1024 * 1024;

fn serve_big_write(mixin: &str) {
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGUSR1, seen.clone()).unwrap();
    let handler = move |connection: &mut Connection| -> HandlerResult {
        let thread = std::fs::read_link("/proc/thread-self")?;
        writeln!(connection, "{}", thread.file_name().unwrap().display())?;
        connection.flush()?;
        while !seen.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        Ok(connection.write_all(&vec![b'x'; BIG])?)
    };
    serve(TcpServer::builder().mixin(mixin_named(mixin)).bind("127.0.0.1:0", handler).unwrap());
}
