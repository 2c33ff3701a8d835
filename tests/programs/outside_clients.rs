//! The example servers, driven by clients that are not of this package: nc (of OpenBSD), telnet, and
//! Python. Those of the chats are in `chat.rs` and `named_chat.rs`.

use std::process::Command;

use crate::examples::{MIXINS, SERVERS, sum_frame, without_time};
use crate::harness::{Test, tests};
use crate::support::process::{Process, Server, example, run};
use crate::support::{TempDir, abstract_name};

pub(crate) const TESTS: &[Test] = tests![
    nc_reads_answers_after_its_end_of_file: ["nc"],
    nc_gets_what_each_example_answers: ["nc"],
    python_is_answered_on_four_transports_under_every_mixin: ["python3"],
    telnet_shows_the_greetings: ["telnet"],
];

/// `printf INPUT | nc -N ARGUMENTS`: sends, half-closes, and reads to the end.
#[track_caller]
fn nc(arguments: &[&str], input: &str) -> Vec<u8> {
    let mut command = Command::new("nc");
    command.arg("-N").args(arguments);
    let ended = run(command, input);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    ended.stdout
}

fn nc_reads_answers_after_its_end_of_file() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    for mixin in MIXINS {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let server = Server::start("echo", listen, &["--mixin", mixin]);
            let [host, port] = server.host_and_port();
            assert_eq!(nc(&[&host, &port], "a\nb\n"), b"a\nb\n");
            assert_eq!(nc(&[&host, &port], "a\nno end"), b"a\nno end");
            assert_eq!(nc(&[&host, &port], ""), b"");
            server.stop();
        }
        for name in [path.clone(), abstract_name()] {
            let server = Server::start("echo", &format!("unix:{name}"), &["--mixin", mixin]);
            assert_eq!(nc(&["-U", &name], "a\nb"), b"a\nb");
            server.stop();
        }
    }
}

fn nc_gets_what_each_example_answers() {
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
            "ticker" => assert!(text.lines().any(|line| line == "clients?"), "{text}"),
            "store" => assert!(text.starts_with("ERROR: "), "{text}"),
            "greeter" => assert_eq!(text, "Welcome!\r\nHello, ada!\r\n"),
            "timestamp" => assert_eq!(without_time(&text), "ada\n"),
            "framed" => assert_eq!(answer, sum_frame(3)),
            _ => assert!(text.ends_with(" s\n") && text.contains(" ticks in "), "{text}"),
        }
        server.stop();
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
        # The server replies to this name. The empty one has the system choose an abstract one.
        sock.bind(where[0] + "-client" if where[0][0] == "/" else "")
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

fn python_is_answered_on_four_transports_under_every_mixin() {
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
            match server.address().split_once(':') {
                Some(("unix" | "unixgram", name)) => command.arg(name),
                _ => command.args(server.host_and_port()),
            };
            let ended = run(command, "");
            assert_eq!((ended.text(), &*ended.stderr), ("the same\n", ""), "{mixin} {listen}");
            server.stop();
        }
    }
}

fn telnet_shows_the_greetings() {
    let hello = Server::start("hello", "127.0.0.1:0", &[]);
    let mut command = Command::new("telnet");
    command.args(hello.host_and_port());
    // Its input stays open, since telnet ends with it.
    let ended = Process::spawn(command).wait();
    assert!(ended.text().contains("Hello World!\n"), "{ended:?}");
    hello.stop();

    let greeter = Server::start("greeter", "127.0.0.1:0", &[]);
    let mut command = Command::new("telnet");
    command.args(greeter.host_and_port());
    let mut telnet = Process::spawn(command);
    while telnet.line().trim_end() != "Welcome!" {}
    telnet.send("Ada\n");
    assert_eq!(telnet.line().trim_end(), "Hello, Ada!");
    telnet.send("exit\n");
    telnet.wait();
    greeter.stop();
}
