//! The examples' flag `--access-log`: the whole line, as it is documented.

use std::io::Write;
use std::net::Shutdown;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::examples::{MIXINS, SERVERS};
use crate::harness::{Test, tests};
use crate::support::clients::{Client, line_of, round_trip};
use crate::support::process::Server;
use crate::support::{TempDir, abstract_name};

pub(crate) const TESTS: &[Test] = tests![
    every_server_writes_a_line_for_each_connection,
    the_line_has_what_was_sent_and_received_under_each_mixin,
    a_datagram_has_a_line_too,
    the_name_of_a_client_cannot_forge_a_line,
    without_the_flag_there_is_no_line,
];

/// The fields of a line, after the logger's own.
fn fields(line: &str) -> Vec<(&str, &str)> {
    let (head, fields) = line.split_once("] ").expect(line);
    assert!(head.ends_with(" INFO  socketserver::access"), "{line}");
    fields.split(' ').map(|field| field.split_once('=').expect(line)).collect()
}

/// The next line is for this request: the values, apart from the times, which are checked here.
#[track_caller]
fn reads(server: &Server, expected: [(&str, &str); 6]) {
    let line = server.error_line();
    let fields = fields(&line);
    let names: Vec<_> = fields.iter().map(|field| field.0).collect();
    let all = ["peer", "id", "listener", "reason", "duration", "longest_wait", "received", "sent"];
    assert_eq!(names, all, "{line}");
    for (name, value) in fields {
        if ["duration", "longest_wait"].contains(&name) {
            let (seconds, decimals) = value.split_once('.').expect(&line);
            assert!(seconds.parse::<u64>().is_ok() && decimals.len() == 3, "{line}");
        } else {
            assert!(expected.contains(&(name, value)), "{name} in {line}, not {expected:?}");
        }
    }
}

fn every_server_writes_a_line_for_each_connection() {
    for (name, address) in SERVERS {
        let listen =
            if address.starts_with("unix") { abstract_name() } else { "127.0.0.1:0".to_owned() };
        let listen = if listen.starts_with('@') { format!("unix:{listen}") } else { listen };
        let server = Server::start(name, &listen, &["--access-log"]);
        let client = Client::at(server.endpoint());
        client.shutdown(Shutdown::Write);
        crate::support::clients::read_until_closed(&mut &client.file());
        let line = server.error_line();
        let fields = fields(&line);
        assert_eq!((fields[1], fields[2]), (("id", "1"), ("listener", server.address())), "{name}");
        server.stop();
    }
}

fn the_line_has_what_was_sent_and_received_under_each_mixin() {
    for mixin in MIXINS {
        let server = Server::start("echo", "127.0.0.1:0", &["--access-log", "--mixin", mixin]);
        let client = crate::support::clients::tcp(server.endpoint());
        let peer = client.local_addr().unwrap().to_string();
        (&client).write_all(b"hello\n").unwrap();
        assert_eq!(line_of(&client), "hello");
        drop(client);
        let listener = server.address();
        let expected = [
            ("peer", &*peer),
            ("id", "1"),
            ("listener", listener),
            ("reason", "eof"),
            ("received", "6"),
            ("sent", "6"),
        ];
        reads(&server, expected);
        server.stop();
    }
}

fn a_datagram_has_a_line_too() {
    let server = Server::start("echo", "udp://127.0.0.1:0", &["--access-log"]);
    assert_eq!(round_trip(server.endpoint(), b"hello"), b"hello");
    let line = server.error_line();
    let fields = fields(&line);
    assert!(fields[0].1.starts_with("udp://127.0.0.1:"), "{line}");
    assert_eq!(fields[2..4], [("listener", server.address()), ("reason", "completed")]);
    assert_eq!(fields[6..], [("received", "5"), ("sent", "5")]);
    server.stop();
}

fn the_name_of_a_client_cannot_forge_a_line() {
    let directory = TempDir::new();
    let directory = directory.path().display();
    let hostile = "x id=7\n[2026-01-01T00:00:00Z INFO] peer=\"a\u{202e}\\";
    let escaped = r#"x id=7\\x0a[2026-01-01T00:00:00Z INFO] peer=\"a\u{202e}\\\\"#;
    let path = (format!("{directory}/{hostile}"), format!("{directory}/{escaped}"));
    let abstract_ = (format!("\0{hostile}"), format!("@{escaped}"));
    let names = if abstract_name().starts_with('@') { vec![path, abstract_] } else { vec![path] };
    for (name, escaped) in names {
        let listen = format!("unix:{}", abstract_name());
        let server = Server::start("echo", &listen, &["--access-log"]);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(name).unwrap()).unwrap();
        let address = listen.replace("unix:", "").replace('@', "\0");
        socket.connect(&SockAddr::unix(address).unwrap()).unwrap();
        drop(socket);
        let line = server.error_line();
        let expected = format!(r#"] peer="unix:{escaped}" id=1 listener={listen} "#);
        assert!(line.contains(&expected), "{line}");
        assert_eq!(server.stop().stderr, "");
    }
}

fn without_the_flag_there_is_no_line() {
    let server = Server::start("echo", "127.0.0.1:0", &[]);
    assert_eq!(round_trip(server.endpoint(), b"hello\n"), b"hello\n");
    assert_eq!(server.stop().stderr, "");
}
