//! Servers in processes of their own. A forking server wants a process without other threads,
//! which a test harness has, so this program is its own harness: each case drives servers that are
//! this same program again, started with the name of a server.
#![allow(unsafe_code, reason = "the promise to fork despite threads")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::catch_unwind;
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Bystanders, TempDir, abstract_name, ask, bounded, echoes, line_of, rest_of, tcp, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};
use socketserver::services::Echo;
use socketserver::transport::{Tcp, Transport};
use socketserver::*;

type Case = (&'static str, fn());
type Serve = (&'static str, fn(&str));

const CASES: &[Case] = &[
    ("four_transports_serve_three_clients_each_beside_other_children", four_transports),
    ("a_forking_server_refuses_a_process_with_threads", other_threads),
    ("max_children_leaves_the_others_in_the_backlog", max_children),
    ("a_child_holds_its_own_connection_and_nothing_else", childs_descriptors),
    ("a_child_that_fails_panics_or_is_killed_is_counted_and_the_server_goes_on", failing_children),
    ("hundreds_of_short_children_leave_no_zombie", no_zombies),
    ("sigterm_answers_what_was_received_and_frees_the_port", drains),
    ("sigterm_to_a_child_ends_it_gracefully", child_drains),
    ("a_child_that_will_not_end_is_killed_at_the_deadline", stuck_child),
    ("handle_request_forks_and_reaps", handle_requests),
    ("a_connection_can_be_cut_off_while_its_child_serves", disconnect),
    ("a_child_can_shut_the_server_down", shutdown_from_child),
    ("a_request_that_verify_request_refuses_costs_no_child", refused),
    ("a_big_write_is_complete_although_signals_keep_arriving", big_write),
    ("a_boxed_mixin_may_fork", boxed),
    ("want_of_descriptors_stops_no_server", no_descriptors),
];

const SERVERS: &[Serve] = &[
    ("matrix", serve_matrix),
    ("other-threads", serve_beside_threads),
    ("max-children", serve_two_children),
    ("forking", |_| serve(tcp_builder(40).bind("127.0.0.1:0", Commands).unwrap())),
    ("handle-request", serve_by_handle_request),
    ("disconnect", serve_with_disconnect),
    ("boxed", serve_boxed),
    ("big-write", serve_big_write),
    ("few-descriptors", serve_with_few_descriptors),
];

// Cases.

fn four_transports() {
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

fn other_threads() {
    for (situation, result) in [
        ("one", "refusing to fork: the process has 1 other thread"),
        ("two", "refusing to fork: the process has 2 other threads"),
        ("joined", "may serve"),
        ("promised", "may serve"),
    ] {
        let ended = ServerProcess::start("other-threads", situation).end();
        assert!(ended.says(result), "{situation}: {ended:?}");
    }
}

fn max_children() {
    let server = ServerProcess::start("max-children", "");
    let mut clients: Vec<_> = (0..2).map(|_| server.client()).collect();
    for client in &clients {
        ask(client, "hello");
    }
    let waiting: Vec<_> = (0..4).map(|_| server.client()).collect();
    for mut client in &waiting {
        client.write_all(b"waiting\n").unwrap();
    }
    // Each time the server looks around it could take one of them.
    let mut starts = 0;
    for _ in 0..4 {
        while let line = server.read()
            && line != "tick"
        {
            starts += i32::from(line == "start");
        }
    }
    assert_eq!(starts, 2);
    assert_eq!(server.children().len(), 2);
    // When somebody leaves, the next is served.
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
    for line in &ended.lines {
        running += i32::from(line == "start") - i32::from(line == "end");
        assert!(running <= 2, "{ended:?}");
    }
    assert_eq!(ended.count("finished"), 6);
}

fn childs_descriptors() {
    let server = ServerProcess::start("forking", "");
    let first = server.client();
    ask(&first, "pid");
    let second = server.client();
    let descriptors = ask(&second, "descriptors");
    assert_eq!(descriptors.matches("socket:").count(), 1, "{descriptors}");
    assert_eq!(descriptors.matches("pidfd").count(), 0, "{descriptors}");
    assert_eq!(descriptors.matches("eventpoll").count(), 0, "{descriptors}");
    // Nobody else keeps the first client's connection open.
    (&first).write_all(b"bye\n").unwrap();
    assert!(rest_of(&first).is_empty());
    assert_eq!(ask(&second, "echo").as_str(), "echo");
}

fn failing_children() {
    let server = ServerProcess::start("forking", "");
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
    let client = server.client();
    kill_process(pid_of(&ask(&client, "pid")), Signal::KILL).unwrap();
    assert!(rest_of(&client).is_empty());
    echoes(server.endpoint(), "still serving\n");
    let ended = server.stop();
    assert_eq!(ended.count("failed"), 2);
    assert_eq!(ended.count("panicked"), 1);
    assert_eq!(ended.count("finished"), 4);
}

fn no_zombies() {
    let server = ServerProcess::start("forking", "");
    for _ in 0..300 {
        echoes(server.endpoint(), "short\n");
    }
    // They are reaped although no further request comes.
    wait_until("all children are reaped", || server.children().is_empty());
    assert_eq!(server.stop().count("finished"), 300);
}

fn drains() {
    let server = ServerProcess::start("max-children", "");
    let serving = [server.client(), server.client()];
    for client in &serving {
        ask(client, "hello");
    }
    let waiting = server.client();
    for mut client in serving.iter().chain([&waiting]) {
        client.write_all(b"one\ntwo\n").unwrap();
    }
    kill_process(server.pid(), Signal::TERM).unwrap();
    for client in serving.iter().chain([&waiting]) {
        assert_eq!(rest_of(client), b"one\ntwo\n");
    }
    let address = server.address.clone();
    let ended = server.end();
    assert_eq!(ended.count("finished"), 3);
    assert_eq!(ended.count("failed"), 0);
    let again = TcpServer::bind(&address, Echo).unwrap();
    assert_eq!(again.local_addr().to_string(), address);
}

fn child_drains() {
    let server = ServerProcess::start("forking", "");
    let client = server.client();
    let pid = pid_of(&ask(&client, "pid"));
    (&client).write_all(b"last\n").unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(rest_of(&client), b"last\n");
    echoes(server.endpoint(), "the server goes on\n");
    assert_eq!(server.stop().count("failed"), 0);
}

fn stuck_child() {
    let server = ServerProcess::start("forking", "");
    let clients: Vec<_> = (0..5).map(|_| server.client()).collect();
    for client in &clients {
        assert_eq!(ask(client, "hang"), "hanging");
    }
    let began = Instant::now();
    let ended = server.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(ended.count("finished"), 5);
    assert_eq!(ended.count("failed"), 5);
}

fn handle_requests() {
    let server = ServerProcess::start("handle-request", "");
    for text in ["first\n", "second\n", "third\n"] {
        echoes(server.endpoint(), text);
    }
    let ended = server.end();
    assert!(ended.says("[Request, Request, Request]"), "{ended:?}");
    assert_eq!(ended.count("finished"), 3);
}

fn disconnect() {
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
    assert_eq!(server.stop().count("finished"), 3);
}

fn shutdown_from_child() {
    let server = ServerProcess::start("forking", "");
    let client = server.client();
    assert_eq!(ask(&client, "shutdown"), "shutting down");
    assert!(rest_of(&client).is_empty());
    assert_eq!(server.end().count("finished"), 1);
}

fn refused() {
    let server = ServerProcess::start("forking", "refuse");
    let client = server.client();
    assert!(matches!((&client).read(&mut [0]), Ok(0) | Err(_)));
    let ended = server.stop();
    assert_eq!(ended.count("denied"), 1);
    assert_eq!(ended.count("accepted"), 0);
}

fn big_write() {
    for mixin in ["sequential", "threading", "forking"] {
        let server = ServerProcess::start("big-write", mixin);
        let mut client = server.client();
        // The writing thread itself gets the signals: the system prefers the one that is named.
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

fn boxed() {
    let server = ServerProcess::start("boxed", "");
    let pid = ask(&server.client(), "pid");
    assert_ne!(pid_of(&pid), server.pid());
    server.stop();
}

fn no_descriptors() {
    for mixin in ["threading", "forking"] {
        let server = ServerProcess::start("few-descriptors", mixin);
        // More of them than there are descriptors; those who are answered make room by leaving.
        let clients: Vec<_> = (0..100).map(|_| server.client()).collect();
        for mut client in &clients {
            let _ = client.write_all(b"hello\n");
        }
        server.reads("short of descriptors");
        let mut answered = 0;
        for client in clients {
            let _ = client.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            // One whose child could not be watched is turned away.
            let _ = (&client).read_to_end(&mut answer);
            answered += usize::from(answer == b"hello\n");
        }
        assert!(answered >= if mixin == "threading" { 100 } else { 1 }, "{mixin}: {answered}");
        // An episode may have left a short pause behind it.
        wait_until("the server serves again", || {
            let mut client = server.client();
            let mut answer = Vec::new();
            let _ = client.write_all(b"again\n").and_then(|()| client.shutdown(Shutdown::Write));
            client.read_to_end(&mut answer).is_ok() && answer == b"again\n"
        });
        let ended = server.stop();
        assert!(ended.count("accept_errors") + ended.count("refused") > 0, "{mixin}: {ended:?}");
        assert_eq!(ended.count("active"), 0);
    }
}

// The servers.

/// Serves until `SIGTERM`, and tells what there is to tell on standard output.
fn serve<T: Transport, M: Mixin>(server: Server<T, M>) {
    stop_on_sigterm(&server.handle());
    announce(server.local_addr());
    let handle = server.handle();
    server.serve_forever().unwrap();
    println!("{:?}", handle.stats());
}

fn announce(address: &Address) {
    println!("listening on {address}");
}

fn stop_on_sigterm(handle: &ServerHandle) {
    let pipe = handle.shutdown_pipe().unwrap();
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, pipe).unwrap();
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
    let wait = Arc::new(parking_lot::Mutex::new(wait));
    let threads = ["joined", "one", "two"].iter().position(|name| *name == situation);
    for _ in 0..threads.unwrap_or(1) {
        let wait = wait.clone();
        thread::spawn(move || _ = wait.lock().recv());
    }
    for _ in 0..200 {
        // Threads that are over are no obstacle.
        thread::spawn(|| ()).join().unwrap();
        let mut mixin = Forking::new();
        if situation == "promised" {
            // SAFETY: nothing is forked here.
            mixin = mixin.with_other_threads(unsafe { ForkDespiteThreads::new() });
        }
        match mixin.start() {
            Ok(()) => {}
            Err(error @ Error::OtherThreads { .. }) => {
                // The server says so too, instead of serving.
                let server = ForkingTcpServer::bind("127.0.0.1:0", Echo).unwrap();
                let refusal = server.serve_forever().unwrap_err();
                assert_eq!(refusal.to_string(), error.to_string());
                return println!("{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(keep);
    println!("may serve");
}

fn tcp_builder(max_children: usize) -> Builder<Tcp, Forking> {
    let mixin = Forking::new().max_children(max_children);
    ForkingTcpServer::builder().mixin(mixin).stop_deadline(Duration::from_secs(2))
}

/// At most two, which tell when they start and end; and each look around is told too.
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

/// Does what it is told to, and otherwise answers with what it reads.
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
                "hang" => {
                    writeln!(connection, "hanging")?;
                    connection.flush()?;
                    loop {
                        thread::park();
                    }
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

    fn handle_error(
        &self,
        _connection: &Connection,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) {
        println!("{} handle_error: {error}", std::process::id());
    }
}

fn descriptors() -> String {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| format!("{} ", link.display())).collect()
}

fn serve_by_handle_request(_: &str) {
    let short = Duration::from_millis(1);
    let builder = ForkingTcpServer::builder();
    let server = builder.request_timeout(short).bind("127.0.0.1:0", Echo).unwrap();
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
    let mixin: Box<dyn Mixin> = match mixin {
        "sequential" => Box::new(Sequential),
        "threading" => Box::new(Threading::new()),
        _ => Box::new(Forking::new()),
    };
    serve(TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap());
}

fn serve_with_few_descriptors(mixin: &str) {
    let few = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
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
    let server = builder.bind("127.0.0.1:0", Echo).unwrap();
    own.set(server.handle()).unwrap();
    serve(server);
}

// The harness.

/// A server in a process of its own, killed when it is dropped.
struct ServerProcess {
    child: Child,
    output: parking_lot::Mutex<BufReader<ChildStdout>>,
    address: String,
}

#[derive(Debug)]
struct Ended {
    lines: Vec<String>,
    stats: HashMap<String, u64>,
}

impl ServerProcess {
    fn start(server: &str, argument: &str) -> ServerProcess {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", server, argument])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut server = ServerProcess { child, output: output.into(), address: String::new() };
        let first = server.read();
        let address = first.strip_prefix("listening on ").expect(&first);
        server.address = address.to_owned();
        server
    }

    fn read(&self) -> String {
        line_of(&mut *self.output.lock())
    }

    #[track_caller]
    fn reads(&self, expected: &str) {
        assert_eq!(self.read(), expected);
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn children(&self) -> Vec<String> {
        let pid = self.pid().as_raw_nonzero();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap().split_whitespace().map(str::to_owned).collect()
    }

    fn endpoint(&self) -> Endpoint {
        self.address.parse().unwrap()
    }

    fn client(&self) -> TcpStream {
        tcp(self.endpoint())
    }

    #[track_caller]
    fn stop(self) -> Ended {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.end()
    }

    /// Waits until it has ended, and its children: they have its standard output too.
    #[track_caller]
    fn end(mut self) -> Ended {
        let rest: Result<Vec<_>, _> = self.output.lock().by_ref().lines().collect();
        let lines = rest.unwrap();
        let status: ExitStatus = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {lines:?}");
        let stats = lines.iter().filter(|line| line.starts_with("Stats {"));
        let numbers = stats.flat_map(|line| line.split(['{', ',', '}']));
        let numbers = numbers.filter_map(|number| number.split_once(": "));
        let stats = numbers.map(|(name, n)| (name.trim().to_owned(), n.trim().parse().unwrap()));
        Ended { stats: stats.collect(), lines }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // One that has been waited for already is not killed again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    fn says(&self, line: &str) -> bool {
        self.lines.iter().any(|said| said == line)
    }

    #[track_caller]
    fn count(&self, name: &str) -> u64 {
        *self.stats.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

fn pid_of(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, server, argument] = &arguments[..]
        && first == "serve"
    {
        // A harness that is killed takes its servers along.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        let (_, serve) = SERVERS.iter().find(|(name, _)| name == server).unwrap();
        serve(argument);
        return ExitCode::SUCCESS;
    }
    let listing = arguments.iter().any(|argument| argument == "--list");
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = CASES.iter().filter(|(name, _)| filter.is_none_or(|f| name.contains(f.as_str())));
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in wanted {
        if listing {
            println!("{name}: test");
            continue;
        }
        let bound = bounded();
        let ok = catch_unwind(case).is_ok();
        drop(bound);
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        passed += usize::from(ok);
        failed += usize::from(!ok);
    }
    if !listing {
        println!("\n{passed} passed, {failed} failed");
    }
    ExitCode::from(u8::from(failed > 0))
}
