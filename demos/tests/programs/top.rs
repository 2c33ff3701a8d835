//! `top`, on a server in this process.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use socketserver::services::{Console, Echo};
use socketserver::{RunningServer, ThreadingTcpServer, ThreadingUnixStreamServer};

use crate::harness::{Test, tests};
use crate::support::clients::{ask, tcp};
use crate::support::process::{Process, run};
use crate::support::{TIMEOUT, TempDir};

pub(crate) const TESTS: &[Test] = tests![
    once_it_prints_a_picture,
    a_console_that_is_not_there_is_one_line,
    on_a_terminal_it_draws_until_q_and_leaves_it_as_it_was: ["python3"],
    it_ends_with_the_server: ["python3"],
];

fn top(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_top"));
    command.args(arguments);
    command
}

/// A server with one client, and its console.
fn serve(console: &Path) -> (RunningServer, RunningServer, TcpStream) {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let handle = server.handle();
    let console = ThreadingUnixStreamServer::bind(console, Console::new(handle)).unwrap();
    let client = tcp(server.local_addr());
    assert_eq!(ask(&client, "hello"), "hello");
    (server, console.spawn().unwrap(), client)
}

fn once_it_prints_a_picture() {
    let directory = TempDir::new();
    let path = directory.join("console");
    let (server, _console, client) = serve(&path);
    let ended = run(top(&["--once", "--interval", "0.05", path.to_str().unwrap()]), "");
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
    let lines: Vec<_> = ended.lines().collect();
    assert!(ended.lines().all(|line| line.chars().count() <= 80), "{ended:?}");
    assert_eq!(lines.len(), 8, "{ended:?}");
    let process = std::process::id();
    assert_eq!(lines[0], format!("serving on {}, process {process}", server.local_addr()));
    assert!(lines[1].starts_with("requests  1 of "), "{ended:?}");
    assert_eq!(lines[4], "activity  1 reads");
    assert!(lines[7].ends_with(&format!(" {}", client.local_addr().unwrap())), "{ended:?}");
}

fn a_console_that_is_not_there_is_one_line() {
    for (arguments, status) in [
        (&["/nowhere/console"][..], 1),
        (&[], 2),
        (&["--interval", "0", "/x"], 2),
        (&["a", "b"], 2),
    ] {
        let ended = run(top(arguments), "");
        assert_eq!((ended.status, ended.stderr.lines().count()), (Some(status), 1), "{ended:?}");
        assert!(ended.stderr.starts_with("top: "), "{ended:?}");
    }
}

/// Runs `top` on a terminal of its own, shows the first picture to standard output, and then does what
/// it is told on standard input: `key K`, or `wait`.
const ON_A_TERMINAL: &str = r#"
import os, pty, struct, fcntl, sys, termios
parent, child = pty.openpty()
fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
before = termios.tcgetattr(child)
pid = os.fork()
if pid == 0:
    os.close(parent)
    os.login_tty(child)
    os.execv(sys.argv[1], sys.argv[1:])
screen = b""
def until(text):
    global screen
    while text not in screen:
        screen += os.read(parent, 65536)
until(b"activity  1 reads")
print("drawn", b"\x1b[?1049h" in screen, flush=True)
screen = b""
until(b"activity  1 reads")
print("again", flush=True)
if sys.stdin.readline() == "q\n":
    os.write(parent, b"q")
until(b"\x1b[?1049l")
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), termios.tcgetattr(child) == before)
print(screen.split(b"\x1b[?1049l")[-1].decode().strip())
"#;

fn on_a_terminal(path: &Path) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", ON_A_TERMINAL]).arg(top(&[]).get_program());
    command.args(["--interval", "0.1", path.to_str().unwrap()]);
    let process = Process::spawn(command);
    assert_eq!(process.line(), "drawn True");
    assert_eq!(process.line(), "again");
    process
}

fn on_a_terminal_it_draws_until_q_and_leaves_it_as_it_was() {
    let directory = TempDir::new();
    let path = directory.join("console");
    let _served = serve(&path);
    let ended = on_a_terminal(&path).finish("q\n");
    assert_eq!(ended.text(), "0 True\n\n", "{ended:?}");
}

fn it_ends_with_the_server() {
    let directory = TempDir::new();
    let path = directory.join("console");
    let (server, console, _client) = serve(&path);
    let terminal = on_a_terminal(&path);
    console.stop(Duration::from_millis(100));
    server.stop(TIMEOUT);
    let ended = terminal.finish("wait\n");
    assert!(ended.text().starts_with("1 True\n"), "{ended:?}");
}
