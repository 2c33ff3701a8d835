//! The example servers as processes of their own, over real sockets: what they print, what they
//! answer, what they refuse, and how they stop. The chats are in `chat_examples.rs`.
//!
//! Some of the clients are what a user would take: nc (of OpenBSD), telnet, Python.

mod common;
#[path = "common/process.rs"]
mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{PATIENCE, uninterrupted, wait_until};
use common::{TempDir, abstract_name, ask, echoes, line_of, rest_of, tcp, udp, unix, unixgram};
use process::{Ended, Process, Server, example, exists, run, without_time};
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use socket2::SockRef;
use socketserver::Scheme;

const MIXINS: [&str; 4] = ["sequential", "threading", "forking", "fibers"];

/// The example servers, with where they listen unless told otherwise.
const SERVERS: [(&str, &str); 9] = [
    ("hello", "127.0.0.1:2525"),
    ("echo", "127.0.0.1:23000"),
    ("chat", "127.0.0.1:2626"),
    ("named_chat", "127.0.0.1:21567"),
    ("greeter", "127.0.0.1:9999"),
    ("timestamp", "127.0.0.1:21568"),
    ("framed", "127.0.0.1:21569"),
    ("http_files", "127.0.0.1:8000"),
    ("embed", "unix:@socketserver-embed"),
];

// The command line.

#[test]
fn help_says_what_flags_there_are() {
    for (name, default) in SERVERS {
        let mut command = example(name);
        command.arg("--help");
        let ended = run(command, "");
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{name}");
        for word in ["--listen", "--mixin", "--stop-timeout", "--help", "sequential", default] {
            assert!(ended.text().contains(word), "{name}, {word}: {}", ended.text());
        }
        let forks = !["chat", "named_chat", "embed"].contains(&name);
        assert_eq!(ended.text().contains("forking"), forks, "{name}");
        assert_eq!(ended.text().contains("--greeting"), name == "chat", "{name}");
    }
}

/// One line on standard error, which names the program, and nothing on standard output.
#[track_caller]
fn is_told(name: &str, arguments: &[&str], status: i32, words: &[&str]) {
    let mut command = example(name);
    command.args(arguments);
    is_one_line(run(command, ""), name, status, words);
}

#[track_caller]
fn is_one_line(ended: Ended, name: &str, status: i32, words: &[&str]) {
    assert_eq!((ended.status, ended.text()), (Some(status), ""), "{ended:?}");
    let line = ended.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n') && line.starts_with(&format!("{name}: ")), "{line}");
    for word in words {
        assert!(line.contains(word), "{line:?} does not say {word:?}");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    for (name, _) in SERVERS {
        is_told(name, &["--nonsense"], 2, &["--nonsense"]);
        is_told(name, &["nonsense"], 2, &["nonsense"]);
        is_told(
            name,
            &["--mixin", "quick"],
            2,
            &["quick", "sequential, threading, forking or fibers"],
        );
        is_told(name, &["--mixin"], 2, &["--mixin"]);
        is_told(name, &["--listen"], 2, &["--listen"]);
        is_told(name, &["--stop-timeout", "soon"], 2, &["soon"]);
        is_told(name, &["--stop-timeout=-1"], 2, &["-1"]);
        is_told(name, &["--listen", "two\nlines"], 2, &[r"two\nlines"]);
    }
    is_told("chat", &["--greeting"], 2, &["--greeting"]);
    is_told("chat", &["--room", "tea"], 2, &["--room needs --backplane"]);
    if cfg!(not(feature = "redis")) {
        is_told("chat", &["--backplane", "redis://127.0.0.1"], 2, &["--features redis"]);
    }
    for name in ["chat", "named_chat", "embed"] {
        is_told(name, &["--mixin", "forking"], 2, &["--mixin forking", "share"]);
    }
}

#[test]
fn a_bad_address_is_one_line_and_status_2() {
    for address in ["", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:x", "::1:2525", ":2525"] {
        for name in ["hello", "echo"] {
            is_told(name, &["--listen", address], 2, &["bad address", address]);
        }
    }
    let long = format!("unix:/tmp/{}", "x".repeat(103));
    is_told("hello", &["--listen", &long], 2, &[&long, "108 bytes", "107"]);
    let long = format!("unixgram:@{}", "x".repeat(108));
    is_told("echo", &["--listen", &long], 2, &[&long, "108 bytes", "107"]);

    for (name, address) in [
        ("timestamp", "udp:///tmp/socket"),
        ("echo", "tcp:///tmp/socket"),
        ("hello", "udp://127.0.0.1:0"),
        ("greeter", "unixgram:/tmp/socket"),
        ("chat", "udp://127.0.0.1:0"),
        ("embed", "127.0.0.1:0"),
        ("embed", "unixgram:@name"),
    ] {
        is_told(name, &["--listen", address], 2, &["bad address", address]);
    }
}

#[test]
fn a_place_that_is_taken_is_one_line_with_its_address() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    let name = abstract_name();
    let mut cases: Vec<(&str, String)> = SERVERS
        .map(|(server, _)| match server {
            "embed" => (server, format!("unix:{}", abstract_name())),
            _ => (server, "127.0.0.1:0".to_owned()),
        })
        .into();
    cases.extend([
        ("hello", "[::1]:0".to_owned()),
        ("hello", "tcp://127.0.0.1:0".to_owned()),
        ("echo", "udp://127.0.0.1:0".to_owned()),
        ("timestamp", "udp://[::1]:0".to_owned()),
        ("echo", format!("unix:{path}")),
        ("echo", format!("unix:{name}")),
        ("echo", format!("unixgram:{path}")),
        ("echo", format!("unixgram:{name}")),
        ("hello", path),
        ("hello", name),
    ]);
    for (example, listen) in cases {
        let server = Server::start(example, &listen, &[]);
        // What it prints is the form that `--listen` takes.
        let address = server.address().to_owned();
        match listen.strip_suffix(":0") {
            Some(host) => assert!(address.contains(host.strip_prefix("tcp://").unwrap_or(host))),
            None => {
                assert_eq!(address.trim_start_matches("unix:"), listen.trim_start_matches("unix:"))
            }
        }
        assert!(!address.ends_with(":0"), "{address}");
        is_told(example, &["--listen", &address], 1, &["cannot listen on", &address, "in use"]);
        assert_eq!(server.stops().text().lines().count(), usize::from(example == "embed"));
    }
}

#[test]
fn other_places_where_it_cannot_listen_are_one_line_too() {
    let directory = TempDir::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().to_string();
    for name in ["hello", "chat", "framed"] {
        is_told(name, &["--listen", &port], 1, &[&port, "in use"]);
    }
    // No resolver has to be asked to know that there is no such name.
    let nowhere = format!("{}.invalid:0", "x".repeat(64));
    is_told("hello", &["--listen", &nowhere], 1, &["cannot resolve", "xxx.invalid"]);
    is_told("echo", &["--listen", "192.0.2.1:0"], 1, &["192.0.2.1:0"]);

    let missing = directory.join("missing/socket").display().to_string();
    is_told("echo", &["--listen", &missing], 1, &[&missing, "No such file"]);
    let file = directory.join("file");
    std::fs::write(&file, "not a socket").unwrap();
    let path = format!("unix:{}", file.display());
    is_told("echo", &["--listen", &path], 1, &[&path, "in use"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"not a socket");
}

#[test]
fn a_privileged_port_is_one_line() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u16>().unwrap() <= 1 {
        return; // The system has no such ports.
    }
    let server = example("hello");
    let mut command = Command::new(server.get_program());
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--inh-caps=-net_bind_service", "--bounding-set=-net_bind_service"]);
        command.arg(server.get_program());
    }
    command.args(["--listen", "127.0.0.1:1"]);
    is_one_line(run(command, ""), "hello", 1, &["127.0.0.1:1", "ermission denied"]);
}

#[test]
fn logging_is_as_rust_log_says() {
    let mut command = example("hello");
    command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "info");
    let server = Server::spawn(command);
    let line = server.error_line();
    assert!(line.contains(&format!("serving on {}", server.address())), "{line}");
    server.signal(Signal::TERM);
    assert_eq!(server.ends().status, Some(0));
}

// Stopping.

#[test]
fn both_signals_end_it_although_a_client_is_connected() {
    for mixin in MIXINS {
        for signal in [Signal::TERM, Signal::INT] {
            let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
            let client = tcp(server.endpoint());
            assert_eq!(ask(&client, "here"), "here");
            // What has been received is answered, even then.
            (&client).write_all(b"and th").unwrap();
            server.ends_by(signal);
            assert_eq!(rest_of(&client), b"and th", "{mixin}");
        }
    }
}

#[test]
fn every_example_ends_by_a_signal_although_clients_are_silent() {
    for (name, _) in SERVERS {
        for (mixin, signal) in [("sequential", Signal::INT), ("threading", Signal::TERM)] {
            let address = format!("unix:{}", abstract_name());
            let server = Server::start(name, &address, &["--mixin", mixin]);
            let clients = [unix(server.endpoint()), unix(server.endpoint())];
            server.ends_by(signal);
            for client in clients {
                rest_of(client);
            }
        }
    }
}

#[test]
fn a_stop_of_a_forking_server_leaves_no_child_and_no_socket_file() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let address = format!("unix:{}", path.display());
    for name in ["echo", "greeter", "timestamp", "framed"] {
        let server = Server::start(name, &address, &["--mixin", "forking"]);
        let clients: Vec<_> = (0..3).map(|_| unix(server.endpoint())).collect();
        wait_until("a child for each client", || server.children().len() == 3);
        let children = server.children();
        assert!(path.exists());
        server.stops();
        assert!(!children.into_iter().any(exists), "{name} left a child");
        assert!(!path.exists(), "{name} left its file");
        for client in clients {
            rest_of(client);
        }
    }
}

#[test]
fn children_are_gone_when_their_clients_are() {
    let server = Server::start("echo", "127.0.0.1:0", &["--mixin", "forking"]);
    let clients: Vec<_> = (0..5).map(|_| tcp(server.endpoint())).collect();
    for client in &clients {
        assert_eq!(ask(client, "?"), "?");
    }
    assert_eq!(server.children().len(), 5);
    drop(clients);
    // Neither running nor waiting to be reaped, although nobody else connects.
    wait_until("no child", || server.children().is_empty());
    server.stops();
}

#[test]
fn the_file_of_a_killed_server_is_replaced() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for scheme in ["unix", "unixgram"] {
        let address = format!("{scheme}:{}", path.display());
        let killed = Server::start("echo", &address, &[]);
        killed.signal(Signal::KILL);
        assert_eq!(killed.ends().status, None);
        assert!(path.exists());
        let server = Server::start("echo", &address, &[]);
        echoes(server.endpoint(), "again\n");
        server.stops();
        assert!(!path.exists());
    }
}

/// A client that asks for more answers than fit into its socket, and reads none of them. All of
/// its questions are in the server's socket when this returns.
fn glutton(server: &Server) -> UnixStream {
    let limit = std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
    let half: usize = limit.trim().parse::<usize>().unwrap() / 2;
    let client = unix(server.endpoint());
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    // Each of these lines is answered by ten bytes.
    (&client).write_all(&vec![b'\n'; half]).unwrap();
    client
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for mixin in MIXINS {
        let address = format!("unix:{}", abstract_name());
        let server =
            Server::start("greeter", &address, &["--mixin", mixin, "--stop-timeout", "600"]);
        let client = glutton(&server);
        let is_forking = mixin == "forking";
        wait_until("the child", || server.children().len() == usize::from(is_forking));
        server.signal(Signal::TERM);
        if mixin == "threading" {
            // Two threads might handle a signal each, and neither see the other's.
            let name = common::unix_address(server.endpoint().unix_name(Scheme::Unix).unwrap());
            wait_until("the stop", || UnixStream::connect_addr(&name).is_err());
        }
        server.signal(Signal::INT);
        wait_until("the end, while the client is still there", || has_ended(&server));
        // A child was not waited for, but does not outlive its client.
        drop(client);
        let ended = server.ends();
        assert!(matches!(ended.status, Some(130 | 143)), "{mixin}: {ended:?}");
    }
}

fn has_ended(server: &Server) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(server.pid()), options).unwrap().is_some()
}

#[test]
fn a_client_that_does_not_read_is_cut_off_at_the_deadline() {
    for mixin in MIXINS {
        let address = format!("unix:{}", abstract_name());
        let server =
            Server::start("greeter", &address, &["--mixin", mixin, "--stop-timeout", "0.3"]);
        let _client = glutton(&server);
        server.signal(Signal::TERM);
        let ended = server.ends();
        assert_eq!(ended.status, Some(0), "{mixin}: {ended:?}");
    }
}

// What they answer.

#[test]
fn hello_greets_and_closes() {
    for mixin in MIXINS {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let server = Server::start("hello", listen, &["--mixin", mixin]);
            for _ in 0..3 {
                assert_eq!(rest_of(tcp(server.endpoint())), b"Hello World!\n");
            }
            server.stops();
        }
    }
    let server = Server::start("hello", &abstract_name(), &[]);
    assert_eq!(rest_of(unix(server.endpoint())), b"Hello World!\n");
    server.stops();
}

/// Every byte there is, many times over, in lines of different lengths.
fn all_bytes() -> Vec<u8> {
    (0..=255u8).cycle().take(20_000).collect()
}

/// A client that sends all at once, is done sending, and reads to the end.
fn round_trip<S: Read + Write>(mut stream: S, close: impl Fn(&S), data: &[u8]) -> Vec<u8> {
    stream.write_all(data).unwrap();
    close(&stream);
    rest_of(stream)
}

#[test]
fn echo_on_four_transports_under_three_mixins_returns_any_bytes() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    for mixin in MIXINS {
        for (listen, scheme) in [
            ("127.0.0.1:0".to_owned(), Scheme::Tcp),
            ("[::1]:0".to_owned(), Scheme::Tcp),
            ("udp://127.0.0.1:0".to_owned(), Scheme::Udp),
            ("udp://[::1]:0".to_owned(), Scheme::Udp),
            (format!("unix:{path}"), Scheme::Unix),
            (format!("unix:{}", abstract_name()), Scheme::Unix),
            (format!("unixgram:{path}"), Scheme::UnixDatagram),
            (format!("unixgram:{}", abstract_name()), Scheme::UnixDatagram),
        ] {
            let server = Server::start("echo", &listen, &["--mixin", mixin]);
            for data in [all_bytes(), b"no end".into(), b"\n".into(), vec![0; 30_000]] {
                let mut buffer = vec![0; 65_536];
                let answer = match scheme {
                    Scheme::Tcp => round_trip(
                        tcp(server.endpoint()),
                        |stream| stream.shutdown(Shutdown::Write).unwrap(),
                        &data,
                    ),
                    Scheme::Unix => round_trip(
                        unix(server.endpoint()),
                        |stream| stream.shutdown(Shutdown::Write).unwrap(),
                        &data,
                    ),
                    Scheme::Udp => {
                        let socket = udp(server.endpoint());
                        socket.send(&data).unwrap();
                        let length = uninterrupted(|| socket.recv(&mut buffer));
                        buffer[..length].to_vec()
                    }
                    Scheme::UnixDatagram => {
                        let socket = unixgram(server.endpoint());
                        socket.send(&data).unwrap();
                        let length = uninterrupted(|| socket.recv(&mut buffer));
                        buffer[..length].to_vec()
                    }
                    scheme => unreachable!("{scheme:?}"),
                };
                assert!(answer == data, "{mixin} {listen}: {:?}", answer.escape_ascii());
            }
            server.stops();
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_silent_client_keeps_nobody_waiting_under_threading_and_forking() {
    for mixin in ["threading", "forking"] {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        let silent = tcp(server.endpoint());
        echoes(server.endpoint(), "one\n");
        echoes(server.endpoint(), "two\n");
        assert_eq!(ask(&silent, "at last"), "at last");
        server.stops();
    }
}

/// Gone without a goodbye: the peer is told that the connection was reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_client_that_resets_harms_nobody() {
    for mixin in MIXINS {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        reset(tcp(server.endpoint()));
        let client = tcp(server.endpoint());
        assert_eq!(ask(&client, "here"), "here");
        reset(client);
        let client = tcp(server.endpoint());
        (&client).write_all(b"what nobody will take\n").unwrap();
        reset(client);
        echoes(server.endpoint(), "still here\n");
        // Nor is it worth a line on standard error.
        server.stops();
    }
}

#[test]
fn a_line_that_is_too_long_ends_its_connection_and_no_other() {
    const LIMIT: usize = 64 * 1024;
    for mixin in MIXINS {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        client.write_all(&[b'x'; LIMIT + 1]).unwrap();
        // Sends to a connection that is being closed may fail, and the rest of it be lost.
        assert_eq!(rest_of(client), b"", "{mixin}");
        // A forking server also says how the child ended.
        while !server.error_line().contains("line too long (limit 65536 bytes)") {}

        let mut longest = vec![b'x'; LIMIT];
        longest[LIMIT - 1] = b'\n';
        let mut client = tcp(server.endpoint());
        let mut answer = vec![0; LIMIT];
        client.write_all(&longest).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert!(answer == longest);
        drop(client);
        server.signal(Signal::TERM);
        assert_eq!(server.ends().status, Some(0));
    }
}

#[test]
fn greeter_greets_whoever_a_line_names() {
    for mixin in MIXINS {
        let server = Server::start("greeter", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        assert_eq!(line_of(&client), "Welcome!\r");
        assert_eq!(ask(&client, "Ada"), "Hello, Ada!\r");
        assert_eq!(ask(&client, "Grace Hopper\r"), "Hello, Grace Hopper!\r");
        client.write_all(b"exit\r\nnever read\n").unwrap();
        assert_eq!(rest_of(&client), b"");

        let all = round_trip(
            tcp(server.endpoint()),
            |client| client.shutdown(Shutdown::Write).unwrap(),
            b"\xff\n\nexit?\nno end",
        );
        let expected =
            b"Welcome!\r\nHello, \xff!\r\nHello, !\r\nHello, exit?!\r\nHello, no end!\r\n";
        assert_eq!(all, expected);
        server.stops();
    }
}

#[test]
fn timestamp_sends_lines_back_with_the_time() {
    for mixin in MIXINS {
        let server = Server::start("timestamp", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        assert_eq!(without_time(&ask(&client, "what time is it?")), "what time is it?");
        assert_eq!(without_time(&ask(&client, "telnet\r")), "telnet\r");
        client.write_all(b"no end").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let rest = String::from_utf8(rest_of(client)).unwrap();
        assert_eq!(without_time(&rest), "no end");
        server.stops();

        let server = Server::start("timestamp", "udp://127.0.0.1:0", &["--mixin", mixin]);
        let client = udp(server.endpoint());
        for text in ["a datagram", "with an end\n", ""] {
            client.send(text.as_bytes()).unwrap();
            let mut answer = [0; 100];
            let length = uninterrupted(|| client.recv(&mut answer));
            assert_eq!(without_time(str::from_utf8(&answer[..length]).unwrap()), text);
        }
        server.stops();
    }
}

/// Numbers as `framed` takes them.
fn frame(numbers: &[i32]) -> Vec<u8> {
    let mut frame = (4 * numbers.len() as u32).to_be_bytes().to_vec();
    frame.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    frame
}

fn sum_frame(sum: i64) -> Vec<u8> {
    [&8u32.to_be_bytes()[..], &sum.to_be_bytes()].concat()
}

#[test]
fn framed_adds_up() {
    for mixin in MIXINS {
        let server = Server::start("framed", "127.0.0.1:0", &["--mixin", mixin]);
        let mut client = tcp(server.endpoint());
        let largest = vec![i32::MAX; 1024];
        for (numbers, sum) in [
            (&[1, 2][..], 3),
            (&[], 0),
            (&[-1, 0, 3], 2),
            (&[i32::MIN, i32::MIN], 2 * i64::from(i32::MIN)),
            (&largest, 1024 * i64::from(i32::MAX)),
        ] {
            client.write_all(&frame(numbers)).unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer[..], sum_frame(sum));
        }
        // Byte by byte, and two at once.
        for byte in frame(&[40, 2]) {
            client.write_all(&[byte]).unwrap();
        }
        client.write_all(&[frame(&[5]), frame(&[6])].concat()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(client), [sum_frame(42), sum_frame(5), sum_frame(6)].concat());
        server.stops();
    }
}

#[test]
fn framed_refuses_what_is_too_long_or_no_numbers() {
    for mixin in MIXINS {
        let server = Server::start("framed", "127.0.0.1:0", &["--mixin", mixin]);
        for (bad, complaint) in [
            (&b"\xff\xff\xff\xff"[..], "message of 4294967295 bytes is too long (limit 4096"),
            (b"\x00\x00\x10\x01", "message of 4097 bytes is too long"),
            (b"GET / HTTP/1.1\r\n\r\n", "is too long"),
            (b"\x00\x00\x00\x03abc", "3 bytes are no list of numbers"),
        ] {
            let mut client = tcp(server.endpoint());
            // What came before is answered.
            client.write_all(&[&frame(&[1]), bad].concat()).unwrap();
            assert_eq!(rest_of(client), sum_frame(1));
            // A forking server also says how the child ended.
            while !server.error_line().contains(complaint) {}
        }
        // One that ends in the middle.
        for bad in [&b"\x00\x00"[..], b"\x00\x00\x00\x08\x00\x00"] {
            let mut client = tcp(server.endpoint());
            client.write_all(bad).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rest_of(client), b"");
        }
        let mut client = tcp(server.endpoint());
        client.write_all(&frame(&[2, 3])).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(client), sum_frame(5));
        server.signal(Signal::TERM);
        assert_eq!(server.ends().status, Some(0));
    }
}

#[test]
fn embed_tells_how_far_it_is_and_stops() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for mixin in ["sequential", "threading"] {
        for signal in [None, Some(Signal::TERM), Some(Signal::INT)] {
            let address = format!("unix:{}", path.display());
            let server = Server::start("embed", &address, &["--mixin", mixin]);
            let control = unix(server.endpoint());
            let status = ask(&control, "status");
            let (ticks, seconds) =
                status.strip_suffix(" s").unwrap().split_once(" ticks in ").unwrap();
            let (_, _): (u64, f64) = (ticks.parse().unwrap(), seconds.parse().unwrap());
            wait_until("a tick", || !ask(&control, "status").starts_with("0 ticks"));
            assert_eq!(ask(&control, "what?"), "status or stop?");
            let ended = match signal {
                Some(signal) => server.ends_by(signal),
                None => {
                    (&control).write_all(b"stop\n").unwrap();
                    server.ends()
                }
            };
            assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
            assert_eq!(rest_of(control), b"");
            let last = ended.text();
            assert!(last.starts_with("stopped") && last.ends_with("cut off: 0\n"), "{last}");
            assert_eq!(last.lines().count(), 1);
            assert!(!path.exists());
        }
    }
}

// Clients that others have written.

/// `printf INPUT | nc -N ARGUMENTS`: sends, half-closes, and reads to the end.
#[track_caller]
fn nc(arguments: &[&str], input: &str) -> Vec<u8> {
    let mut command = Command::new("nc");
    command.arg("-N").args(arguments);
    let ended = run(command, input);
    let status = (ended.status, ended.stderr.as_str());
    assert_eq!(status, (Some(0), ""), "nc has to be the one of netcat-openbsd");
    ended.stdout
}

#[test]
fn nc_is_answered_although_it_is_done_sending() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    for mixin in MIXINS {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let server = Server::start("echo", listen, &["--mixin", mixin]);
            let [host, port] = server.host_and_port();
            assert_eq!(nc(&[&host, &port], "a\nb\n"), b"a\nb\n");
            assert_eq!(nc(&[&host, &port], "a\nno end"), b"a\nno end");
            assert_eq!(nc(&[&host, &port], ""), b"");
            server.stops();
        }
        for name in [path.clone(), abstract_name()] {
            let server = Server::start("echo", &format!("unix:{name}"), &["--mixin", mixin]);
            assert_eq!(nc(&["-U", &name], "a\nb"), b"a\nb");
            server.stops();
        }
    }
}

#[test]
fn nc_does_what_the_examples_tell_to_try() {
    for (name, _) in SERVERS {
        let address = match name {
            "embed" => format!("unix:{}", abstract_name()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let server = Server::spawn({
            let mut command = example(name);
            command.args(["--listen", &address]);
            command
        });
        let answer = match name {
            "embed" => nc(&["-U", server.address().strip_prefix("unix:").unwrap()], "status\n"),
            _ => {
                let [host, port] = server.host_and_port();
                let input = match name {
                    "framed" => "\0\0\0\x08\0\0\0\x01\0\0\0\x02",
                    "http_files" => "GET / HTTP/1.0\r\n\r\n",
                    _ => "ada\n",
                };
                nc(&[&host, &port], input)
            }
        };
        let text = String::from_utf8_lossy(&answer);
        match name {
            "hello" => assert_eq!(text, "Hello World!\n"),
            "echo" => assert_eq!(text, "ada\n"),
            "chat" => assert_eq!(text, "You're connected to the chat server\r\n"),
            "named_chat" => assert_eq!(text, "success\r\n"),
            "greeter" => assert_eq!(text, "Welcome!\r\nHello, ada!\r\n"),
            "timestamp" => assert_eq!(without_time(&text), "ada\n"),
            "framed" => assert_eq!(answer, sum_frame(3)),
            "http_files" => assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}"),
            _ => assert!(text.ends_with(" s\n") && text.contains(" ticks in "), "{text}"),
        }
        server.stops();
    }
}

const PYTHON_CLIENT: &str = r#"
import socket, sys
scheme, where = sys.argv[1], sys.argv[2:]
data = bytes(range(256)) * 100
if scheme == "tcp":
    sock = socket.create_connection((where[0], int(where[1])), timeout=30)
elif scheme == "udp":
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((where[0], int(where[1])))
else:
    kind = socket.SOCK_STREAM if scheme == "unix" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_UNIX, kind)
    if scheme == "unixgram":
        sock.bind("")  # The system chooses a name, so that there is somebody to answer.
    sock.connect(where[0].replace("@", "\0", 1))
sock.settimeout(30)
sock.sendall(data)
answer = b""
if scheme in ("udp", "unixgram"):
    answer = sock.recv(65536)
else:
    sock.shutdown(socket.SHUT_WR)
    while piece := sock.recv(65536):
        answer += piece
print("the same" if answer == data else answer)
"#;

#[test]
fn python_is_answered_on_four_transports_under_three_mixins() {
    for mixin in MIXINS {
        for (scheme, listen) in [
            ("tcp", "127.0.0.1:0".to_owned()),
            ("tcp", "[::1]:0".to_owned()),
            ("udp", "udp://127.0.0.1:0".to_owned()),
            ("udp", "udp://[::1]:0".to_owned()),
            ("unix", format!("unix:{}", abstract_name())),
            ("unixgram", format!("unixgram:{}", abstract_name())),
        ] {
            let server = Server::start("echo", &listen, &["--mixin", mixin]);
            let mut command = Command::new("python3");
            command.args(["-c", PYTHON_CLIENT, scheme]);
            match server.address().split_once('@') {
                Some((_, name)) => command.arg(format!("@{name}")),
                None => command.args(server.host_and_port()),
            };
            let ended = run(command, "");
            assert_eq!((ended.text(), &*ended.stderr), ("the same\n", ""), "{mixin} {listen}");
            server.stops();
        }
    }
}

#[test]
fn telnet_shows_the_greetings() {
    let hello = Server::start("hello", "127.0.0.1:0", &[]);
    let mut command = Command::new("telnet");
    command.args(hello.host_and_port());
    // Its input stays open: telnet leaves at the end of it.
    let ended = Process::spawn(command).wait();
    assert!(ended.text().contains("Hello World!\n"), "{ended:?}");
    hello.stops();

    let greeter = Server::start("greeter", "127.0.0.1:0", &[]);
    let mut command = Command::new("telnet");
    command.args(greeter.host_and_port());
    let mut telnet = Process::spawn(command);
    while telnet.line().trim_end() != "Welcome!" {}
    telnet.send("Ada\n");
    assert_eq!(telnet.line().trim_end(), "Hello, Ada!");
    telnet.send("exit\n");
    telnet.wait();
    greeter.stops();
}

#[test]
fn many_clients_at_a_time_each_get_their_own_answers() {
    for mixin in ["threading", "forking"] {
        let server = Server::start("echo", "127.0.0.1:0", &["--mixin", mixin]);
        thread::scope(|scope| {
            for client in 0..20 {
                let endpoint = server.endpoint();
                scope.spawn(move || {
                    let stream = tcp(endpoint);
                    for line in 0..20 {
                        let text = format!("client {client}, line {line}");
                        assert_eq!(ask(&stream, &text), text);
                    }
                });
            }
        });
        server.stops();
    }
}

#[test]
fn who_comes_after_the_stop_is_refused() {
    for mixin in MIXINS {
        let server = Server::start("hello", &abstract_name(), &["--mixin", mixin]);
        let name = common::unix_address(server.endpoint().unix_name(Scheme::Unix).unwrap());
        assert_eq!(rest_of(unix(server.endpoint())), b"Hello World!\n");
        server.stops();
        let error = UnixStream::connect_addr(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
