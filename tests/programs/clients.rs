//! The example clients as filters, and with errors in their command line or of their server. At a
//! terminal, they are in `terminal.rs`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use socketserver::services::{Echo, Hello};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::process::{Ended, Process, example};
use crate::support::servers::{serve, serve_at, serve_with};
use crate::support::{TIMEOUT, TempDir, abstract_name, next};

pub(crate) const TESTS: &[Test] = tests![
    a_mebibyte_of_all_bytes_is_echoed_unchanged,
    a_server_that_sends_before_it_reads_is_no_deadlock,
    every_form_of_a_stream_address_is_understood,
    end_of_file_from_the_server_ends_the_client_while_its_input_is_open,
    received_bytes_are_printed_at_once_and_after_the_end_of_the_input,
    a_closed_standard_output_is_an_error_and_no_panic,
    a_connection_that_is_reset_is_a_failure,
    each_line_is_a_datagram_and_each_answer_is_printed,
    missing_answers_are_counted,
    a_port_without_a_server_is_reported_before_the_timeout,
    a_wrong_command_line_is_one_line_and_status_2,
    help_is_printed_with_status_0,
    a_server_that_cannot_be_reached_is_one_line_and_status_1,
    the_server_accepts_or_refuses_a_name,
];

/// Starts an example client.
fn start(name: &str, arguments: &[&str]) -> Process {
    let mut command = example(name);
    command.args(arguments);
    Process::spawn(command)
}

/// An address, and the first connection to it.
pub(crate) fn listen() -> (String, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, accepted) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let _ = sender.send(stream);
    });
    (address, accepted)
}

fn echo() -> (RunningServer, String) {
    let server = serve(Echo);
    let address = server.local_addr().to_string();
    (server, address)
}

#[track_caller]
fn assert_fails(ended: &Ended, status: i32, reason: &str) {
    assert_eq!(ended.status, Some(status), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains(reason), "{}", ended.stderr);
    assert_eq!(ended.stdout, b"");
}

#[track_caller]
fn assert_answers(ended: &Ended, output: &[u8]) {
    assert_eq!(ended.stderr, "");
    assert_eq!(ended.stdout.escape_ascii().to_string(), output.escape_ascii().to_string());
    assert_eq!(ended.status, Some(0));
}

// As filters.

fn a_mebibyte_of_all_bytes_is_echoed_unchanged() {
    let (_server, address) = echo();
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 256) as u8).collect();
    for client in ["echo_client", "chat_client"] {
        let ended = start(client, &[&address]).finish(bytes.clone());
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout == bytes, "{client}: {} bytes came back", ended.stdout.len());
    }
}

fn a_server_that_sends_before_it_reads_is_no_deadlock() {
    const SIZE: usize = 16 << 20;
    let handler = handler_fn(|connection| {
        connection.write_all(&vec![b'x'; SIZE])?;
        let mut request = Vec::new();
        connection.read_to_end(&mut request)?;
        Ok(write!(connection, "{}", request.len())?)
    });
    let server = serve(handler);
    let address = server.local_addr().to_string();
    let ended = start("echo_client", &[&address]).finish(vec![b'y'; SIZE]);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    assert_eq!(&ended.stdout[SIZE..], SIZE.to_string().as_bytes());
}

fn every_form_of_a_stream_address_is_understood() {
    let (tcp, address) = echo();
    let port = tcp.local_addr().port().unwrap();
    let v6 = serve_at("[::1]:0", ThreadingTcpServer::builder(), Echo);
    let directory = TempDir::new();
    let path = directory.join("echo.sock").display().to_string();
    let file = serve_at(&path, ThreadingUnixStreamServer::builder(), Echo);
    let named = serve_at(&abstract_name(), ThreadingUnixStreamServer::builder(), Echo);
    for arguments in [
        &[address.as_str()][..],
        &["--connect", &address],
        &[&format!("--connect={address}")],
        &[&format!("tcp://localhost:{port}")],
        &[&v6.local_addr().to_string()],
        &[&file.local_addr().to_string()],
        &[&path],
        &[&named.local_addr().to_string()],
    ] {
        assert_answers(&start("echo_client", arguments).finish("a\nb"), b"a\nb");
    }
}

fn end_of_file_from_the_server_ends_the_client_while_its_input_is_open() {
    let server = serve(Hello);
    let client = start("echo_client", &[&server.local_addr().to_string()]);
    assert_answers(&client.wait(), b"Hello World!\n");
}

fn received_bytes_are_printed_at_once_and_after_the_end_of_the_input() {
    let (address, accepted) = listen();
    let mut client = start("chat_client", &[&address]);
    let mut server = next(&accepted);
    server.write_all(b"not a whole line").unwrap();
    client.wait_for("not a whole line");
    client.send("a line\n");
    client.end_of_input();
    let mut received = String::new();
    server.read_to_string(&mut received).unwrap();
    assert_eq!(received, "a line\n");
    server.write_all(b"last words\r\n").unwrap();
    client.wait_for("last words\r\n");
    drop(server);
    assert_answers(&client.wait(), b"");
}

fn a_closed_standard_output_is_an_error_and_no_panic() {
    let (_server, address) = echo();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = example("echo_client");
    command.arg(address);
    let (mut client, _) = Process::spawn_into(command, writer.into());
    client.send("a line\n");
    // Its input stays open: the failed write ends it.
    assert_fails(&client.wait(), 1, "cannot write to standard output: Broken pipe");
}

fn a_connection_that_is_reset_is_a_failure() {
    let (address, accepted) = listen();
    let mut client = start("echo_client", &[&address]);
    let mut server = next(&accepted);
    client.send("unread\n");
    // Closing with unread input resets the connection.
    server.peek(&mut [0]).unwrap();
    server.write_all(b"").unwrap();
    drop(server);
    assert_fails(&client.wait(), 1, "connection lost: Connection reset by peer");
}

// Datagrams.

fn each_line_is_a_datagram_and_each_answer_is_printed() {
    let upper = datagram_handler_fn(|request| {
        let answer = request.data().to_ascii_uppercase();
        Ok(request.reply(&answer)?)
    });
    let directory = TempDir::new();
    let path = directory.join("upper.sock").display().to_string();
    let udp = serve_with(ThreadingUdpServer::builder(), upper);
    let v6 = serve_at("[::1]:0", ThreadingUdpServer::builder(), upper);
    let file = serve_at(&path, ThreadingUnixDatagramServer::builder(), upper);
    let named = serve_at(&abstract_name(), ThreadingUnixDatagramServer::builder(), upper);
    let bare = Address::Tcp(udp.local_addr().socket_addr().unwrap());
    for address in [udp.local_addr(), &bare, v6.local_addr(), file.local_addr(), named.local_addr()]
    {
        let client = start("udp_client", &["-t", "30", &address.to_string()]);
        let ended = client.finish(b"one\n\n\xff two");
        assert_answers(&ended, b"ONE\n\n\xff TWO\n");
    }
}

fn missing_answers_are_counted() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let ended = start("udp_client", &["--timeout=0.01", &address]).finish("one\ntwo\n");
    assert_fails(&ended, 1, &format!("no answer from {address} to 2 of 2"));

    let selective = datagram_handler_fn(|request| {
        if request.data() != b"two" {
            request.reply(b"yes")?;
        }
        Ok(())
    });
    let server = serve_with(ThreadingUdpServer::builder(), selective);
    let mut client = start("udp_client", &["-t2", &server.local_addr().to_string()]);
    client.send("one\ntwo\nthree\n");
    client.wait_for("yes\n");
    client.wait_for("yes\n");
    assert_fails(&client.finish(""), 1, "to 1 of 3");
}

fn a_port_without_a_server_is_reported_before_the_timeout() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // The socket is connected to itself: the port is in use, and the system refuses other peers.
    socket.connect(socket.local_addr().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let ended = start("udp_client", &["-t", "3600", &address]).finish("one\ntwo\n");
    assert_fails(&ended, 1, "to 2 of 2");
}

// Errors.

fn a_wrong_command_line_is_one_line_and_status_2() {
    for client in ["echo_client", "chat_client", "udp_client"] {
        for (arguments, reason) in [
            (&["--frobnicate"][..], "invalid option '--frobnicate'"),
            (&["-x"], "invalid option '-x'"),
            (&["localhost"], "the port is missing"),
            (&["localhost:99999"], "not a port"),
            (&["--connect"], "missing argument"),
            (&["localhost:1", "localhost:2"], "unexpected argument"),
            (&["two\nlines:1\n:x"], "bad address"),
        ] {
            assert_fails(&start(client, arguments).wait(), 2, reason);
        }
    }
    for (client, arguments, reason) in [
        ("echo_client", &["udp://127.0.0.1:1"][..], "not a TCP address"),
        ("chat_client", &["unixgram:@x"], "not a Unix stream address"),
        ("chat_client", &["-u"], "missing argument"),
        ("chat_client", &["-u", "two\nlines"], "a name is one line"),
        ("udp_client", &["tcp://127.0.0.1:1"], "not a UDP address"),
        ("udp_client", &["unix:@x"], "not a Unix datagram address"),
        ("udp_client", &["--timeout", "soon"], "not a number of seconds"),
        ("udp_client", &["--timeout", "0"], "not a number of seconds"),
        ("udp_client", &["--timeout", "-1"], "not a number of seconds"),
        ("udp_client", &["--timeout", "nan"], "not a number of seconds"),
    ] {
        assert_fails(&start(client, arguments).wait(), 2, reason);
    }
}

fn help_is_printed_with_status_0() {
    for client in ["echo_client", "chat_client", "udp_client"] {
        for flag in ["-h", "--help"] {
            let ended = start(client, &[flag]).wait();
            assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
            assert!(ended.stdout.starts_with(format!("usage: {client} ").as_bytes()));
        }
    }
}

fn a_server_that_cannot_be_reached_is_one_line_and_status_1() {
    // The port is bound, so that it stays unused, and not listening.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    for (client, address, reason) in [
        ("echo_client", address.as_str(), "Connection refused"),
        ("chat_client", &address, "Connection refused"),
        ("echo_client", "unix:/nonexistent/a.sock", "No such file"),
        ("udp_client", "unixgram:/nonexistent/a.sock", "No such file"),
    ] {
        let reason = format!("cannot connect to {address}: {reason}");
        assert_fails(&start(client, &[address]).wait(), 1, &reason);
    }
    // The label is too long for a name, so no resolver is asked.
    let host = format!("{}.invalid", "x".repeat(64));
    let ended = start("echo_client", &[&format!("{host}:1")]).wait();
    assert_fails(&ended, 1, &format!("cannot resolve {host}"));
}

fn the_server_accepts_or_refuses_a_name() {
    let server = handler_fn(|connection: &mut Connection| {
        let mut name = String::new();
        connection.read_line(&mut name)?;
        match name.trim_end() {
            "ada" => connection.write_all(b"success\r\n[ctime] bob: hi\r\n")?,
            "bob" => return Ok(connection.write_all(b"reuse\r\n")?),
            "" => return Ok(connection.write_all(b"invalid\r\n")?),
            "mute" => return Ok(()),
            _ => connection.write_all(b"You're connected\r\n")?,
        }
        let mut line = String::new();
        connection.read_line(&mut line)?;
        Ok(write!(connection, "got {line}")?)
    });
    let server = serve(server);
    let address = server.local_addr().to_string();
    let ended = start("chat_client", &["-u", "ada", &address]).finish("hello\n");
    assert_answers(&ended, b"[ctime] bob: hi\r\ngot hello\n");
    for (name, reason) in [
        ("bob", r#"the name "bob" is taken"#),
        ("", r#"does not accept "" as a name"#),
        ("mute", "the server closed the connection"),
        ("eve", r#"answers "You're connected" to a name"#),
    ] {
        let ended = start("chat_client", &["--user", name, &address]).wait();
        assert_fails(&ended, 1, reason);
    }
}
