//! The example clients as processes of their own: as filters, at a terminal, and with whatever can
//! be wrong with their command line or their server.
//!
//! A terminal is what `script` (of util-linux) makes of its pipes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use socketserver::services::{Echo, Hello};
use socketserver::{
    Address, Connection, RunningServer, ThreadingTcpServer, ThreadingUdpServer,
    ThreadingUnixDatagramServer, ThreadingUnixStreamServer, datagram_handler_fn, handler_fn,
};

/// Nothing here takes anywhere near as long, unless it hangs.
const LIMIT: Duration = Duration::from_secs(30);

const CTRL_C: &[u8] = b"\x03";
const CTRL_D: &[u8] = b"\x04";

/// A running client, killed when the test is over.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    events: Receiver<(Pipe, Vec<u8>)>,
    output: Vec<u8>,
    errors: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Pipe {
    Output,
    Errors,
}

/// How a client ended.
struct Ended {
    status: Option<i32>,
    output: Vec<u8>,
    errors: String,
}

impl Client {
    /// Starts an example with pipes for its input and output.
    fn start(name: &str, arguments: &[&str]) -> Client {
        let mut command = Command::new(example(name));
        command.args(arguments).stdout(Stdio::piped());
        Client::spawn(command)
    }

    /// Starts an example at a terminal of its own, and waits for its prompt.
    fn at_terminal(name: &str, arguments: &[&str]) -> Client {
        let program = example(name);
        let words = [program.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
        let words: Vec<_> = words.map(|word| format!("'{word}'")).collect();
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]).env("TERM", "xterm");
        command.stdout(Stdio::piped());
        let mut client = Client::spawn(command);
        client.wait_for("> ");
        client
    }

    fn spawn(mut command: Command) -> Client {
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, events) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            collect(output, Pipe::Output, sender.clone());
        }
        collect(child.stderr.take().unwrap(), Pipe::Errors, sender);
        let input = child.stdin.take();
        Client { child, input, events, output: Vec::new(), errors: Vec::new() }
    }

    /// Types, or pipes, something into the client.
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("its input has ended");
        input.write_all(bytes.as_ref()).unwrap();
    }

    /// Waits until a text has come, on either output, and forgets everything up to there.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        loop {
            for pipe in [&mut self.output, &mut self.errors] {
                let at = pipe.windows(text.len()).position(|window| window == text.as_bytes());
                if let Some(at) = at {
                    pipe.drain(..at + text.len());
                    return;
                }
            }
            assert!(self.receive(), "ended without {text:?}: {}", self.said());
        }
    }

    /// Waits for the client to end by itself.
    #[track_caller]
    fn end(mut self) -> Ended {
        while self.receive() {}
        Ended {
            status: self.child.wait().unwrap().code(),
            output: std::mem::take(&mut self.output),
            errors: String::from_utf8(std::mem::take(&mut self.errors)).unwrap(),
        }
    }

    /// Sends the last there is to send, and waits for the end.
    #[track_caller]
    fn finish(mut self, bytes: impl Into<Vec<u8>>) -> Ended {
        let (mut input, bytes) = (self.input.take().unwrap(), bytes.into());
        // A client that ends early leaves a part unread, which is its good right.
        let writer = thread::spawn(move || drop(input.write_all(&bytes)));
        let ended = self.end();
        writer.join().unwrap();
        ended
    }

    /// Takes the next piece of output; whether there was one before the end.
    #[track_caller]
    fn receive(&mut self) -> bool {
        match self.events.recv_timeout(LIMIT) {
            Ok((Pipe::Output, bytes)) => self.output.extend(bytes),
            Ok((Pipe::Errors, bytes)) => self.errors.extend(bytes),
            Err(mpsc::RecvTimeoutError::Disconnected) => return false,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs: {}", self.said()),
        }
        true
    }

    fn said(&self) -> String {
        format!("{:?}, {:?}", self.output.escape_ascii(), self.errors.escape_ascii())
            .replace("EscapeAscii ", "")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(
    mut pipe: impl Read + Send + 'static,
    which: Pipe,
    events: mpsc::Sender<(Pipe, Vec<u8>)>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if events.send((which, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// Where cargo has put an example: beside the directory of this test.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{}: not built; `cargo build --examples` does it", path.display());
    path
}

/// One client on one connection, whose other end the test holds in its own hands.
fn listen() -> (String, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, accepted) = mpsc::channel();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
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
    assert_eq!(ended.status, Some(status), "{}", ended.errors);
    assert_eq!(ended.errors.lines().count(), 1, "{}", ended.errors);
    assert!(ended.errors.contains(reason), "{}", ended.errors);
    assert_eq!(ended.output, b"");
}

#[track_caller]
fn assert_answers(ended: &Ended, output: &[u8]) {
    assert_eq!(ended.errors, "");
    assert_eq!(ended.output.escape_ascii().to_string(), output.escape_ascii().to_string());
    assert_eq!(ended.status, Some(0));
}

// As filters.

#[test]
fn a_mebibyte_of_all_bytes_comes_back_as_it_was_sent() {
    let (_server, address) = echo();
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 256) as u8).collect();
    for client in ["echo_client", "chat_client"] {
        let ended = Client::start(client, &[&address]).finish(bytes.clone());
        assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""));
        assert!(ended.output == bytes, "{client}: {} bytes came back", ended.output.len());
    }
}

#[test]
fn a_server_that_first_sends_and_then_reads_is_no_deadlock() {
    const SIZE: usize = 16 << 20;
    let handler = handler_fn(|connection| {
        connection.write_all(&vec![b'x'; SIZE])?;
        let mut request = Vec::new();
        connection.read_to_end(&mut request)?;
        Ok(write!(connection, "{}", request.len())?)
    });
    let server = serve(handler);
    let address = server.local_addr().to_string();
    let ended = Client::start("echo_client", &[&address]).finish(vec![b'y'; SIZE]);
    assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""));
    assert_eq!(&ended.output[SIZE..], SIZE.to_string().as_bytes());
}

#[test]
fn every_form_of_a_stream_address_is_understood() {
    let (tcp, address) = echo();
    let port = tcp.local_addr().port().unwrap();
    let v6 = ThreadingTcpServer::bind("[::1]:0", Echo).unwrap().spawn().unwrap();
    let directory = Directory::new("streams");
    let path = directory.0.join("echo.sock");
    let path = path.to_str().unwrap();
    let file = ThreadingUnixStreamServer::bind(path, Echo).unwrap().spawn().unwrap();
    let name = format!("@clients-test-{}", std::process::id());
    let named = ThreadingUnixStreamServer::bind(name.as_str(), Echo).unwrap().spawn().unwrap();
    for arguments in [
        &[address.as_str()][..],
        &["--connect", &address],
        &[&format!("--connect={address}")],
        &[&format!("tcp://localhost:{port}")],
        &[&v6.local_addr().to_string()],
        &[&file.local_addr().to_string()],
        &[path],
        &[&named.local_addr().to_string()],
    ] {
        assert_answers(&Client::start("echo_client", arguments).finish("a\nb"), b"a\nb");
    }
}

#[test]
fn the_servers_end_ends_the_client_while_its_input_is_open() {
    let server = serve(Hello);
    let client = Client::start("echo_client", &[&server.local_addr().to_string()]);
    // Its input is closed only when the test drops it.
    assert_answers(&client.end(), b"Hello World!\n");
}

#[test]
fn what_arrives_is_shown_at_once_and_after_the_end_of_the_input() {
    let (address, accepted) = listen();
    let mut client = Client::start("chat_client", &[&address]);
    let mut server = accepted.recv_timeout(LIMIT).unwrap();
    server.write_all(b"no line's end").unwrap();
    client.wait_for("no line's end");
    client.send("a line\n");
    drop(client.input.take());
    let mut received = String::new();
    server.read_to_string(&mut received).unwrap();
    assert_eq!(received, "a line\n");
    server.write_all(b"last words\r\n").unwrap();
    client.wait_for("last words\r\n");
    drop(server);
    assert_answers(&client.end(), b"");
}

#[test]
fn a_reader_of_the_output_that_goes_away_is_an_error_and_no_panic() {
    let (_server, address) = echo();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(example("echo_client"));
    command.arg(address).stdout(writer);
    let mut client = Client::spawn(command);
    client.send("a line\n");
    // Its input stays open: that it cannot write has to end it.
    assert_fails(&client.end(), 1, "cannot write to standard output: Broken pipe");
}

#[test]
fn a_connection_that_is_reset_is_a_failure() {
    let (address, accepted) = listen();
    let mut client = Client::start("echo_client", &[&address]);
    let mut server = accepted.recv_timeout(LIMIT).unwrap();
    client.send("unread\n");
    // Closing with something unread resets; so it has to have come.
    server.peek(&mut [0]).unwrap();
    server.write_all(b"").unwrap();
    drop(server);
    assert_fails(&client.end(), 1, "connection lost: Connection reset by peer");
}

// Datagrams.

#[test]
fn each_line_is_a_datagram_and_each_answer_is_shown() {
    let upper = datagram_handler_fn(|request| {
        let answer = request.data().to_ascii_uppercase();
        Ok(request.reply(&answer)?)
    });
    let directory = Directory::new("datagrams");
    let path = directory.0.join("upper.sock");
    let name = format!("@clients-test-{}-datagrams", std::process::id());
    let udp = ThreadingUdpServer::bind("127.0.0.1:0", upper).unwrap().spawn().unwrap();
    let v6 = ThreadingUdpServer::bind("[::1]:0", upper).unwrap().spawn().unwrap();
    let file = ThreadingUnixDatagramServer::bind(path, upper).unwrap().spawn().unwrap();
    let named = ThreadingUnixDatagramServer::bind(name, upper).unwrap().spawn().unwrap();
    let bare = Address::Tcp(udp.local_addr().socket_addr().unwrap());
    for address in [udp.local_addr(), &bare, v6.local_addr(), file.local_addr(), named.local_addr()]
    {
        let client = Client::start("udp_client", &["-t", "30", &address.to_string()]);
        let ended = client.finish(b"one\n\n\xff two");
        assert_answers(&ended, b"ONE\n\n\xff TWO\n");
    }
}

#[test]
fn an_answer_that_does_not_come_is_counted() {
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let ended = Client::start("udp_client", &["--timeout=0.01", &address]).finish("one\ntwo\n");
    assert_fails(&ended, 1, &format!("no answer from {address} to 2 of 2"));

    let selective = datagram_handler_fn(|request| {
        if request.data() != b"two" {
            request.reply(b"yes")?;
        }
        Ok(())
    });
    let server = ThreadingUdpServer::bind("127.0.0.1:0", selective).unwrap().spawn().unwrap();
    let mut client = Client::start("udp_client", &["-t2", &server.local_addr().to_string()]);
    client.send("one\ntwo\nthree\n");
    client.wait_for("yes\n");
    client.wait_for("yes\n");
    assert_fails(&client.finish(""), 1, "to 1 of 3");
}

#[test]
fn a_port_without_a_server_needs_no_patience() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Bound and connected elsewhere, the port is taken, but refuses others.
    socket.connect(socket.local_addr().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let ended = Client::start("udp_client", &["-t", "3600", &address]).finish("one\ntwo\n");
    assert_fails(&ended, 1, "to 2 of 2");
}

// What can be wrong.

#[test]
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
            assert_fails(&Client::start(client, arguments).end(), 2, reason);
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
        assert_fails(&Client::start(client, arguments).end(), 2, reason);
    }
}

#[test]
fn help_is_an_answer_and_no_error() {
    for client in ["echo_client", "chat_client", "udp_client"] {
        for flag in ["-h", "--help"] {
            let ended = Client::start(client, &[flag]).end();
            assert_eq!((ended.status, ended.errors.as_str()), (Some(0), ""));
            assert!(ended.output.starts_with(format!("usage: {client} ").as_bytes()));
        }
    }
}

#[test]
fn a_server_that_is_not_there_is_one_line_and_status_1() {
    // Bound, so that nobody else takes the port, but not listening.
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
        assert_fails(&Client::start(client, &[address]).end(), 1, &reason);
    }
    // Too long for a name server to be asked.
    let host = format!("{}.invalid", "x".repeat(64));
    let ended = Client::start("echo_client", &[&format!("{host}:1")]).end();
    assert_fails(&ended, 1, &format!("cannot resolve {host}"));
}

#[test]
fn a_name_is_taken_refused_or_good() {
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
    let ended = Client::start("chat_client", &["-u", "ada", &address]).finish("hello\n");
    assert_answers(&ended, b"[ctime] bob: hi\r\ngot hello\n");
    for (name, reason) in [
        ("bob", r#"the name "bob" is taken"#),
        ("", r#"does not accept "" as a name"#),
        ("mute", "the server closed the connection"),
        ("eve", r#"answers "You're connected" to a name"#),
    ] {
        let ended = Client::start("chat_client", &["--user", name, &address]).end();
        assert_fails(&ended, 1, reason);
    }
}

// At a terminal.

#[test]
fn a_line_typed_at_a_terminal_is_answered() {
    let upper = handler_fn(|connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
        Ok(())
    });
    let server = serve(upper);
    let address = server.local_addr().to_string();
    for client in ["echo_client", "chat_client"] {
        let mut client = Client::at_terminal(client, &[&address]);
        for (line, answer) in [("one", "ONE\r\n"), ("zwölf", "ZWÖLF\r\n"), ("three", "THREE\r\n")]
        {
            client.send(format!("{line}\r"));
            // Not for the next prompt: it may have come before the answer.
            client.wait_for(answer);
        }
    }
}

#[test]
fn an_incoming_line_does_not_tear_the_one_that_is_being_typed() {
    let (address, accepted) = listen();
    let mut client = Client::at_terminal("chat_client", &[&address]);
    let mut server = BufReader::new(accepted.recv_timeout(LIMIT).unwrap());
    client.send("half a");
    client.wait_for("half a");
    server.get_mut().write_all(b"[bob] \x1b[2Jhi\x07\r\n[bob] \ttwice\r\n").unwrap();
    // On lines of their own, and the prompt again below, with what had been typed.
    client.wait_for("[bob] \u{fffd}[2Jhi\u{fffd}\r\n");
    client.wait_for("[bob] \ttwice\r\n");
    client.wait_for("> half a");
    client.send(" line\r");
    let mut line = String::new();
    server.read_line(&mut line).unwrap();
    assert_eq!(line, "half a line\n");
    client.wait_for("> ");
    client.send(CTRL_C);
    assert_eq!(client.end().status, Some(0));
}

#[test]
fn the_servers_last_words_are_shown_and_end_the_client_at_its_prompt() {
    for _ in 0..20 {
        let (address, accepted) = listen();
        let mut client = Client::at_terminal("chat_client", &[&address]);
        let mut server = accepted.recv_timeout(LIMIT).unwrap();
        client.send("half a");
        client.wait_for("half a");
        server.write_all(b"one\r\ntwo\r\nlast words").unwrap();
        drop(server);
        client.wait_for("one\r\n");
        client.wait_for("two\r\n");
        client.wait_for("last words\r\n");
        client.wait_for("the server closed the connection\r\n");
        assert_eq!(client.end().status, Some(0));
    }
}

#[test]
fn an_answer_that_is_the_servers_last_is_shown() {
    let handler = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        Ok(connection.write_all(b"bye\r\n")?)
    });
    let server = serve(handler);
    let address = server.local_addr().to_string();
    for _ in 0..20 {
        let mut client = Client::at_terminal("chat_client", &[&address]);
        client.send("quit\r");
        client.wait_for("bye\r\n");
        client.wait_for("the server closed the connection\r\n");
        assert_eq!(client.end().status, Some(0));
    }
}

#[test]
fn leaving_waits_for_the_last_answers() {
    let (address, accepted) = listen();
    let mut client = Client::at_terminal("echo_client", &[&address]);
    let mut server = accepted.recv_timeout(LIMIT).unwrap();
    client.send(CTRL_D);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    server.write_all(b"bye\r\n").unwrap();
    drop(server);
    client.wait_for("bye\r\n");
    assert_eq!(client.end().status, Some(0));
}

#[test]
fn a_server_that_does_not_let_go_is_left() {
    let (address, accepted) = listen();
    let mut client = Client::at_terminal("chat_client", &[&address]);
    let server = accepted.recv_timeout(LIMIT).unwrap();
    client.send(CTRL_D);
    assert_eq!(client.end().status, Some(0));
    drop(server);
}

#[test]
fn datagrams_are_typed_and_answered_at_a_terminal() {
    let twice = datagram_handler_fn(|request| {
        let answer = request.data().repeat(2);
        Ok(request.reply(&answer)?)
    });
    let server = ThreadingUdpServer::bind("127.0.0.1:0", twice).unwrap().spawn().unwrap();
    let address = server.local_addr().to_string();
    let mut client = Client::at_terminal("udp_client", &["-t", "30", &address]);
    client.send("one\r");
    client.wait_for("oneone\r\n");
    client.wait_for("> ");
    client.send(CTRL_D);
    assert_eq!(client.end().status, Some(0));
}

/// A directory for socket files, removed when the test is over.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("clients-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
