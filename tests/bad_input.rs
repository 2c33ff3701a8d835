//! Bad addresses, bad clients, and parts of a user's own that misbehave: a clear error, or none,
//! and the server goes on serving.

mod common;

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{
    Client, PATIENCE, Settings, TempDir, Told, ask, bounded, echoes, line_of, next,
    on_every_stream_server, rest_of, tcp, wait_until,
};
use parking_lot::Mutex;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::transport::Transport;
use socketserver::*;

#[test]
fn a_port_in_use_is_named_and_whoever_has_it_goes_on() {
    let _bound = bounded();
    let first = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let address = first.local_addr().to_string();
    let error = TcpServer::bind(&address, Echo).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }));
    let expected = format!("cannot listen on {address}: Address already in use");
    assert!(error.to_string().starts_with(&expected), "{error}");
    echoes(first.local_addr(), "still here\n");

    let first = UdpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let error = UdpServer::bind(first.local_addr(), Echo).unwrap_err();
    assert!(error.to_string().contains(&first.local_addr().to_string()), "{error}");
    echoes(first.local_addr(), "still here");
}

/// The part of the next test that runs as a user without privileges; it does nothing otherwise.
#[test]
fn binding_a_privileged_port() {
    if std::env::var_os("WITHOUT_PRIVILEGES").is_some() {
        println!("said: {}", TcpServer::bind("127.0.0.1:1", Echo).unwrap_err());
    }
}

#[test]
fn a_privileged_port_is_a_clear_error() {
    let _bound = bounded();
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first.is_ok_and(|first| first.trim() == "0") {
        return eprintln!("this system has no privileged ports");
    }
    let this = std::env::current_exe().unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]).arg(this);
        setpriv
    } else {
        Command::new(this)
    };
    command.args(["--exact", "binding_a_privileged_port", "--nocapture"]);
    let output = match command.env("WITHOUT_PRIVILEGES", "1").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return eprintln!("skipped, for want of setpriv: {error}"),
    };
    let expected = "said: cannot listen on 127.0.0.1:1: Permission denied";
    assert!(output.contains(expected), "{output}");
}

#[test]
fn a_path_that_is_too_long_and_one_that_leads_nowhere_are_named() {
    let directory = TempDir::new();
    let long = directory.join(&"x".repeat(120));
    let error = UnixStreamServer::bind(long.as_path(), Echo).unwrap_err();
    assert!(error.to_string().contains("over the system's limit of 107"), "{error}");
    assert!(error.to_string().contains(long.to_str().unwrap()), "{error}");
    let error = UnixDatagramServer::bind(format!("@{}", "x".repeat(108)), Echo).unwrap_err();
    assert!(error.to_string().contains("over the system's limit"), "{error}");

    let nowhere = directory.join("no/such/directory");
    let error = UnixStreamServer::bind(nowhere.as_path(), Echo).unwrap_err();
    assert!(error.to_string().contains(nowhere.to_str().unwrap()), "{error}");
}

#[test]
fn the_longest_path_and_name_can_be_served() {
    let _bound = bounded();
    let directory = TempDir::new();
    let left = UnixName::MAX_LENGTH - directory.path().as_os_str().len() - 1;
    let longest = directory.join(&"x".repeat(left));
    let server = UnixStreamServer::bind(longest.as_path(), Echo).unwrap().spawn().unwrap();
    echoes(server.local_addr(), "hello\n");
    let mut name = common::abstract_name();
    name.push_str(&"x".repeat(1 + UnixName::MAX_LENGTH - name.len()));
    let server = UnixStreamServer::bind(&name, Echo).unwrap().spawn().unwrap();
    assert_eq!(server.local_addr().to_string(), format!("unix:{name}"));
    echoes(server.local_addr(), "hello\n");
}

#[test]
fn a_name_that_does_not_resolve_an_address_of_another_machine_and_a_wrong_scheme_are_named() {
    let _bound = bounded();
    for (address, reason) in [
        ("nosuchhost.invalid:1", "cannot resolve nosuchhost.invalid"),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1:0"),
        ("unix:/tmp/x", "bad address \"unix:/tmp/x\": not a TCP address"),
        ("localhost", "bad address \"localhost\": the port is missing"),
    ] {
        let error = TcpServer::bind(address, Echo).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
    }
}

struct ShortLines;

impl Settings for ShortLines {
    fn set<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder.max_line_length(100)
    }
}

#[test]
fn a_line_that_is_too_long_ends_its_connection_alone() {
    let _bound = bounded();
    let (handler, words) = Told::new(Echo);
    let words = Mutex::new(words);
    on_every_stream_server(handler, ShortLines, |server| {
        let words = words.lock();
        let client = Client::of(server);
        let longest = "x".repeat(99);
        assert_eq!(ask(&client, &longest), longest);
        client.send(format!("{longest}x\n"));
        assert!(rest_of(&client).is_empty());
        for word in ["setup", "handle", "finish", "error: line too long (limit 100 bytes)"] {
            assert_eq!(next(&words), word);
        }
        let client = Client::of(server);
        assert_eq!(ask(&client, "still here"), "still here");
        drop(client);
        for word in ["setup", "handle", "finish"] {
            assert_eq!(next(&words), word);
        }
    });
}

#[test]
fn an_endless_line_is_cut_off_at_the_default_limit() {
    let _bound = bounded();
    let (handler, words) = Told::new(Echo);
    let server = ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap();
    let mut client = tcp(server.local_addr());
    // The server stops reading at some time; what is sent after that fails.
    while client.write_all(&[b'x'; 100_000]).is_ok() {}
    assert_eq!(
        [next(&words), next(&words), next(&words), next(&words)],
        ["setup", "handle", "finish", "error: line too long (limit 65536 bytes)"]
    );
    echoes(server.local_addr(), "still here\n");
}

#[test]
fn text_that_is_not_utf8_is_an_error_for_who_wants_a_string() {
    let _bound = bounded();
    let (handler, words) = Told::new(handler_fn(|connection| {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        Ok(connection.write_all(line.as_bytes())?)
    }));
    let server = ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap();
    let client = Client::of(&server);
    client.send(b"\xff\xfe\n");
    assert!(rest_of(&client).is_empty());
    assert_eq!([next(&words), next(&words), next(&words)], ["setup", "handle", "finish"]);
    assert!(next(&words).contains("invalid utf-8"));
    assert_eq!(ask(&Client::of(&server), "\u{1F980}"), "\u{1F980}");
}

#[test]
fn a_frame_that_announces_more_than_the_limit_is_refused_unread() {
    let _bound = bounded();
    let frames = handler_fn(|connection| {
        let frames = LengthPrefixed::new(Prefix::U32).max_length(1000);
        let mut message = Vec::new();
        while frames.read(&mut *connection, &mut message)? {
            frames.write(&mut *connection, &message)?;
        }
        Ok(())
    });
    let (handler, words) = Told::new(frames);
    let words = Mutex::new(words);
    on_every_stream_server(handler, (), |server| {
        let words = words.lock();
        let client = Client::of(server);
        client.send(b"\0\0\0\x02hi\xff\xff\xff\xff");
        assert_eq!(rest_of(&client), b"\0\0\0\x02hi");
        assert_eq!([next(&words), next(&words), next(&words)], ["setup", "handle", "finish"]);
        let error = next(&words);
        assert_eq!(error, "error: message of 4294967295 bytes is too long (limit 1000 bytes)");
        let client = Client::of(server);
        client.send([b"\0\0\x03\xe8".to_vec(), vec![7; 1000]].concat());
        let mut answer = [0; 1004];
        (&client).read_exact(&mut answer).unwrap();
        assert_eq!(answer[4..], [7; 1000]);
        drop(client);
        assert_eq!([next(&words), next(&words), next(&words)], ["setup", "handle", "finish"]);
    });
}

/// A thread per request, as a user would write it; some requests are lost, one way or the other.
#[derive(Default)]
struct Careless(AtomicUsize);

impl Mixin for Careless {
    fn process_request(&self, _server: &BaseServer, request: Request) {
        match self.0.fetch_add(1, Ordering::Relaxed) % 4 {
            2 => drop(request),
            3 => panic!("as told, at {request:?}"),
            _ => drop(thread::spawn(move || request.finish())),
        }
    }
}

impl Spawnable for Careless {}

#[test]
fn a_mixin_of_the_users_own_keeps_every_contract_without_knowing_it() {
    let _bound = bounded();
    let mixin = Careless::default();
    let builder = TcpServer::builder().mixin(mixin).max_connections(2);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    for _ in 0..5 {
        echoes(server.local_addr(), "one\n");
        echoes(server.local_addr(), "two\n");
        for _ in 0..2 {
            let mut lost = tcp(server.local_addr());
            assert_eq!(lost.read(&mut [0]).unwrap(), 0);
        }
    }
    // A client that stays reads the end when the server stops.
    let client = tcp(server.local_addr());
    assert_eq!(ask(&client, "hello"), "hello");
    let handle = server.handle();
    assert_eq!(server.stop(PATIENCE).drained, 1);
    assert!(rest_of(&client).is_empty());
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.finished, stats.active), (21, 21, 0));
}

#[test]
fn a_handler_that_panics_with_something_odd_is_survived() {
    let _bound = bounded();
    let shared = Arc::new(Echo);
    let odd = move |connection: &mut Connection| -> HandlerResult {
        if connection.id() == ConnectionId::from(1) {
            std::panic::panic_any(7_u8);
        }
        StreamRequestHandler::handle(&shared, connection)
    };
    let server = ThreadingTcpServer::bind("127.0.0.1:0", odd).unwrap().spawn().unwrap();
    assert_eq!(line_of(tcp(server.local_addr())), "");
    echoes(server.local_addr(), "still here\n");
    wait_until("both have ended", || server.stats().finished == 2);
    assert_eq!(server.stats().panicked, 1);
}
