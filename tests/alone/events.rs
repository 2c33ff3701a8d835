//! What observers are told by servers that fork, and by one without descriptors; and what becomes of the
//! events for others: `tracing`. The servers are processes of their own, but for that.

use std::io::Write;
use std::process;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use socketserver::events::*;
use socketserver::extend::Mixin;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{ask, line_of, rest_of};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::servers::answers;

pub(crate) const TESTS: &[Test] = tests![
    a_forking_server_tells_in_the_parent_what_its_children_have_done,
    a_child_that_is_killed_or_exits_by_itself_has_failed,
    requests_of_many_children_are_told_apart,
    a_child_tells_what_only_it_knows,
    the_children_of_a_preforking_server_tell_of_their_requests,
    a_server_without_descriptors_says_so,
];

#[cfg(feature = "tracing")]
pub(crate) const TRACING_TESTS: &[Test] =
    tests![events_of_tracing_have_the_fields_that_are_promised];

pub(crate) const PARTS: &[Part] = &[
    ("told", |mixin| serve_told(mixin, None)),
    ("told-behind-proxies", |mixin| {
        serve_told(mixin, Some(Access::closed().allow(std::net::IpAddr::from([127, 0, 0, 1]))))
    }),
    ("told-without-descriptors", |_| {
        let limit = Rlimit { current: Some(16), maximum: Some(16) };
        setrlimit(Resource::Nofile, limit).unwrap();
        let builder = ThreadingTcpServer::builder().max_connections(1000);
        let printer = Printer { parent: process::id() };
        serve(builder.observer(printer).bind("127.0.0.1:0", services::Echo).unwrap());
    }),
];

fn serve_told(mixin: &str, proxies: Option<Access>) {
    let mixin: Box<dyn Mixin> = match mixin {
        "prefork" => Box::new(Prefork::new().children(1)),
        _ => Box::new(Forking::new()),
    };
    let builder = TcpServer::builder().mixin(mixin).observer(Printer { parent: process::id() });
    let builder = builder.proxy_protocol(proxies.map(ProxyProtocol::from));
    let commands = answers(|line, client| {
        match line.split_once(' ') {
            Some(("connect", address)) => drop(client.connect(address, Duration::from_secs(9))),
            _ if line == "panic" => panic!("as told"),
            _ if line == "fail" => return Err("as told".into()),
            _ if line == "exit" => process::exit(0),
            _ if line == "pid" => return Ok(writeln!(client, "{}", process::id())?),
            _ => {}
        }
        Ok(writeln!(client, "{line}")?)
    });
    serve(builder.bind("127.0.0.1:0", commands).unwrap());
}

/// Prints each event, and whether the parent or a child is told.
struct Printer {
    parent: u32,
}

impl Printer {
    fn print(&self, event: std::fmt::Arguments<'_>) {
        let who = if process::id() == self.parent { "parent" } else { "child" };
        println!("{who}: {event}");
    }
}

impl Observer for Printer {
    fn listening(&self, _address: &Address) {
        self.print(format_args!("listening"));
    }

    fn accepted(&self, accepted: &Accepted<'_>) {
        self.print(format_args!("accepted {}", accepted.id));
    }

    fn refused(&self, refused: &Refused<'_>) {
        self.print(format_args!("refused {:?}: {}", refused.id.map(u64::from), refused.reason));
    }

    fn handshaken(&self, handshaken: &Handshaken<'_>) {
        self.print(format_args!("handshaken {} {}", handshaken.id, handshaken.peer));
    }

    fn closed(&self, closed: &Closed<'_>) {
        let Closed { id, reason, received, sent, longest_wait, .. } = closed;
        let has_waited = *longest_wait >= Duration::from_millis(50);
        let waited = if has_waited { ", and has waited" } else { "" };
        self.print(format_args!("closed {id} {} {received} {sent}{waited}", reason.name()));
    }

    fn upstream(&self, upstream: &Upstream<'_>) {
        let change = match upstream.change {
            UpstreamChange::Connected { .. } => "connected",
            UpstreamChange::Failed { .. } => "failed",
            _ => "closed",
        };
        self.print(format_args!("upstream of {:?} {change}", upstream.request.map(u64::from)));
    }

    fn pressure(&self, pressure: &Pressure<'_>) {
        match pressure {
            Pressure::AcceptFails { error, .. } => {
                self.print(format_args!("accept fails: {error}"));
            }
            Pressure::AcceptWorks { .. } => self.print(format_args!("accept works")),
            other => self.print(format_args!("{other:?}")),
        }
    }

    fn stopping(&self) {
        self.print(format_args!("stopping"));
    }

    fn stopped(&self, report: &StopReport) {
        self.print(format_args!("stopped, {} drained", report.drained));
    }
}

fn a_forking_server_tells_in_the_parent_what_its_children_have_done() {
    let server = ServerProcess::start("told", "forking");
    server.reads("parent: listening");
    let client = server.client();
    server.reads("parent: accepted 1");
    // A slow client.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ask(&client, "hello"), "hello");
    drop(client);
    server.reads("parent: closed 1 eof 6 6, and has waited");
    for (line, closed) in [("panic", "closed 2 panicked 6 0"), ("fail", "closed 3 failed 5 0")] {
        let mut client = server.client();
        writeln!(client, "{line}").unwrap();
        assert!(server.line().starts_with("parent: accepted"));
        assert!(rest_of(&client).is_empty());
        // Perhaps the client was slow.
        let told = server.line();
        assert_eq!(told.trim_end_matches(", and has waited"), format!("parent: {closed}"));
    }
    let client = server.client();
    server.reads("parent: accepted 4");
    assert_eq!(ask(&client, "hello"), "hello");
    server.signal(Signal::TERM);
    server.reads("parent: stopping");
    let told = server.line();
    assert_eq!(told.trim_end_matches(", and has waited"), "parent: closed 4 stopped 6 6");
    server.reads("parent: stopped, 1 drained");
    let ended = server.wait();
    assert_eq!(ended.count("finished"), 4, "{ended:?}");
}

fn a_child_that_is_killed_or_exits_by_itself_has_failed() {
    let server = ServerProcess::start("told", "forking");
    server.reads("parent: listening");
    let client = server.client();
    let pid = ask(&client, "pid").parse().unwrap();
    server.reads("parent: accepted 1");
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    server.reads("parent: closed 1 failed 0 0");
    let mut client = server.client();
    server.reads("parent: accepted 2");
    client.write_all(b"exit\n").unwrap();
    server.reads("parent: closed 2 failed 0 0");
    server.stop();
}

fn requests_of_many_children_are_told_apart() {
    let server = ServerProcess::start("told", "forking");
    server.reads("parent: listening");
    // More than there are places: they are used again.
    for first in [1, 31] {
        let clients: Vec<_> = (0..30).map(|_| server.client()).collect();
        for index in 0..30 {
            server.reads(&format!("parent: accepted {}", first + index));
        }
        for (index, client) in clients.iter().enumerate() {
            let line = "x".repeat(index);
            assert_eq!(ask(client, &line), line);
        }
        for (index, client) in clients.into_iter().enumerate().rev() {
            drop(client);
            let (id, bytes) = (first + index, index + 1);
            let told = server.line();
            let closed = format!("parent: closed {id} eof {bytes} {bytes}");
            assert_eq!(told.trim_end_matches(", and has waited"), closed);
        }
    }
    server.stop();
}

const HEADER: &str = "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";

fn a_child_tells_what_only_it_knows() {
    let server = ServerProcess::start("told-behind-proxies", "forking");
    server.reads("parent: listening");
    let mut client = server.client();
    server.reads("parent: accepted 1");
    client.write_all(HEADER.as_bytes()).unwrap();
    server.reads("child: handshaken 1 192.0.2.1:56324");
    // It is a connection that is accepted too.
    client.write_all(format!("connect {}\n", server.address).as_bytes()).unwrap();
    assert!(line_of(&client).starts_with("connect"));
    let mut told: Vec<_> = (0..4).map(|_| server.line()).collect();
    let parents = told.iter().filter(|line| line.starts_with("parent"));
    let of_parent: Vec<_> = parents.map(|line| line.trim_end_matches(", and has waited")).collect();
    // The upstream has a number of its own, which may be the next one.
    let id = of_parent[0].strip_prefix("parent: accepted ").unwrap();
    assert_eq!(of_parent[1], format!("parent: closed {id} eof 0 0"));
    told.retain(|line| line.starts_with("child"));
    let of_child = ["child: upstream of Some(1) connected", "child: upstream of Some(1) closed"];
    assert_eq!(told, of_child);
    drop(client);
    assert!(server.line().starts_with("parent: closed 1 eof"));
    let mut bad = server.client();
    assert!(server.line().starts_with("parent: accepted"));
    bad.write_all(b"no header\n").unwrap();
    let refused = server.line();
    assert!(refused.starts_with("child: refused Some("), "{refused}");
    let closed = server.line();
    assert!(closed.contains("bad_proxy_header"), "{closed}");
    server.stop();
}

fn the_children_of_a_preforking_server_tell_of_their_requests() {
    let server = ServerProcess::start("told", "prefork");
    server.reads("parent: listening");
    let client = server.client();
    server.reads("child: accepted 1");
    assert_eq!(ask(&client, "hello"), "hello");
    drop(client);
    let told = server.line();
    assert_eq!(told.trim_end_matches(", and has waited"), "child: closed 1 eof 6 6");
    let client = server.client();
    server.reads("child: accepted 2");
    server.signal(Signal::TERM);
    let mut told = [server.line(), server.line()];
    told.sort();
    assert!(told[0].starts_with("child: closed 2 "), "{told:?}");
    assert_eq!(told[1], "parent: stopping");
    server.reads("parent: stopped, 1 drained");
    drop(client);
    server.wait();
}

fn a_server_without_descriptors_says_so() {
    let server = ServerProcess::start("told-without-descriptors", "");
    server.reads("parent: listening");
    let clients: Vec<_> = (0..16).map(|_| server.client()).collect();
    let failure = loop {
        let line = server.line();
        if !line.starts_with("parent: accepted") {
            break line;
        }
    };
    assert_eq!(failure, "parent: accept fails: Too many open files (os error 24)");
    drop(clients);
    // Five seconds after the last failure; all events of the clients come before.
    while server.line() != "parent: accept works" {}
    server.stop();
}

#[cfg(feature = "tracing")]
mod tracing_subscriber {
    //! Keeps events of `tracing` as text.

    use std::fmt::{Debug, Write};

    use parking_lot::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    pub(super) static EVENTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    pub(super) struct Kept;

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }

    impl Subscriber for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "socketserver"
        }

        fn event(&self, event: &Event<'_>) {
            let mut text = Text(event.metadata().level().to_string());
            event.record(&mut text);
            EVENTS.lock().push(text.0);
        }

        fn new_span(&self, _span: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _span: &Id, _values: &Record<'_>) {}

        fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

        fn enter(&self, _span: &Id) {}

        fn exit(&self, _span: &Id) {}
    }
}

#[cfg(feature = "tracing")]
fn events_of_tracing_have_the_fields_that_are_promised() {
    use crate::support::TIMEOUT;
    use crate::support::clients::tcp;
    use crate::support::servers::serve_with;
    use tracing_subscriber::{EVENTS, Kept};

    tracing::subscriber::set_global_default(Kept).unwrap();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let handler = answers(move |line, client| {
        client.connect(nowhere.to_string(), TIMEOUT).map(drop).unwrap_err();
        Ok(writeln!(client, "{line}")?)
    });
    let builder = ThreadingTcpServer::builder().observer(TracingEvents).max_connections(1);
    let server = serve_with(builder, handler);
    let address = server.local_addr().clone();
    let client = tcp(&address);
    let peer = client.local_addr().unwrap();
    assert_eq!(ask(&client, "hello"), "hello");
    drop(client);
    crate::support::wait_until("closed", || {
        EVENTS.lock().iter().any(|event| event.contains("message=closed"))
    });
    assert!(server.stop(TIMEOUT).is_clean());
    // Times are not the same each time.
    let without_times = |event: &String| {
        let fields = event.split(' ').filter(|field| !field.contains('.') || field.contains(':'));
        fields.collect::<Vec<_>>().join(" ")
    };
    let mut events: Vec<_> = EVENTS.lock().iter().map(without_times).collect();
    let mut expected = [
        format!("INFO message=listening address={address}"),
        format!("DEBUG message=accepted id=1 peer={peer} listener={address}"),
        "WARN message=at a limit limit=1".to_owned(),
        format!("WARN message=upstream failed request=1 endpoint={nowhere}"),
        format!(
            "INFO message=closed id=1 peer={peer} listener={address} reason=\"eof\" received=6 sent=6"
        ),
        "INFO message=stopping".to_owned(),
        "INFO message=stopped drained=0 forced=0 killed=0 stuck=0".to_owned(),
    ];
    for event in &mut events {
        if let Some((before, error)) = event.split_once(" error=") {
            assert!(error.contains("refused"), "{error}");
            *event = before.to_owned();
        }
    }
    // The limit is reached before or after the request is served.
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
}
