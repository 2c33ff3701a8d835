//! `--console`: an example server that its administrator asks and commands, by `nc` and by Python.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, kill_process};

use crate::examples::SERVERS;
use crate::harness::{Test, tests};
use crate::support::clients::{ask, rest_of, tcp};
use crate::support::process::{Server, example, run};
use crate::support::{TempDir, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    an_administrator_asks_and_commands_over_netcat: ["nc"],
    replies_for_programs_are_json: ["python3"],
    a_stop_says_what_became_of_the_connections: ["nc"],
    every_server_has_a_console: ["nc"],
    the_console_is_back_after_a_restart: ["nc"],
    only_the_same_user_and_root_may_use_it: ["python3"],
    where_a_console_cannot_work_is_one_line,
];

const MIXINS: [&str; 3] = ["sequential", "threading", "fibers"];

fn start(name: &str, mixin: &str, path: &Path) -> Server {
    let flags = ["--mixin", mixin, "--console", path.to_str().unwrap()];
    let server = Server::start(name, "127.0.0.1:0", &flags);
    // The file is there a moment before that.
    wait_until("the console listens", || UnixStream::connect(path).is_ok());
    server
}

/// What the console says to these lines.
fn says(path: &Path, lines: &str) -> String {
    let mut command = Command::new("nc");
    command.args(["-N", "-U", path.to_str().unwrap()]);
    let ended = run(command, lines);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    ended.text().to_owned()
}

fn an_administrator_asks_and_commands_over_netcat() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let path = directory.join("console");
        let server = start("echo", mixin, &path);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let client = tcp(server.endpoint());
        assert_eq!(ask(&client, "hello"), "hello");
        let status = says(&path, "status\n");
        let line = |name: &str| {
            let line = status.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.unwrap_or_else(|| panic!("{name}: {status}")).split_once(' ').unwrap().1.trim()
        };
        assert_eq!((line("state"), line("active"), line("accepted")), ("serving", "1", "1"));
        assert_eq!(line("process"), server.pid().to_string());
        assert_eq!(line("bytes_received"), "0", "of requests that have ended");
        let own = client.local_addr().unwrap().to_string();
        let connections = says(&path, &format!("connections {own}\n"));
        let lines: Vec<_> = connections.lines().collect();
        assert_eq!(lines.len(), 2, "{connections}");
        assert!(lines[1].contains(&own) && lines[1].contains("reads"), "{connections}");
        assert_eq!(says(&path, "connections elsewhere\n").lines().count(), 1);
        assert_eq!(says(&path, "stuck\n").lines().count(), 1);
        // New clients wait in the backlog.
        assert_eq!(says(&path, "suspend\n"), "done\n");
        let waiting = tcp(server.endpoint());
        assert!(says(&path, "status\n").contains("suspended"));
        let number = lines[1].split(' ').next().unwrap();
        assert_eq!(says(&path, &format!("disconnect {number}\n")), "done\n");
        assert!(rest_of(&client).is_empty());
        assert_eq!(says(&path, "resume\nlimit connections 9\n"), "done\ndone\n");
        assert_eq!(ask(&waiting, "at last"), "at last");
        assert!(says(&path, "metrics\n").contains("\nsocketserver_requests_active 1\n"));
        assert!(says(&path, "help\n").lines().any(|line| line.starts_with("disconnect NUMBER")));
        drop(waiting);
        server.stop();
        assert!(!path.exists());
    }
}

fn replies_for_programs_are_json() {
    let directory = TempDir::new();
    let path = directory.join("console");
    let server = start("echo", "threading", &path);
    let client = tcp(server.endpoint());
    assert_eq!(ask(&client, "hello"), "hello");
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, path.to_str().unwrap()]);
    let ended = run(command, "");
    let peer = client.local_addr().unwrap();
    let expected = format!("serving 1\n[('reads', '{peer}', [])]\nTrue True\nno such command\n");
    assert_eq!(ended.text(), expected, "{ended:?}");
    server.stop();
}

const PROGRAM: &str = r#"
import json, socket, sys
console = socket.socket(socket.AF_UNIX)
console.settimeout(30)
console.connect(sys.argv[1])
replies = console.makefile()
def ask(command):
    console.sendall(f"json {command}\n".encode())
    return json.loads(replies.readline())
status = ask("status")
print(status["state"], status["active"])
print([(c["activity"], c["peer"], c["upstreams"]) for c in ask("connections")])
print(ask("limit peer 3"), ask("metrics").endswith("\n"))
print(ask('what "\t\\')["error"].split(";")[0])
"#;

fn a_stop_says_what_became_of_the_connections() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let path = directory.join("console");
        let server = start("echo", mixin, &path);
        let client = tcp(server.endpoint());
        assert_eq!(ask(&client, "hello"), "hello");
        let report = says(&path, "stop 5\n");
        assert!(report.starts_with("drained         1\nforced          0\n"), "{mixin}: {report}");
        assert!(rest_of(&client).is_empty());
        server.wait();
        assert!(!path.exists());
    }
}

fn every_server_has_a_console() {
    for (name, _) in SERVERS {
        let directory = TempDir::new();
        let path = directory.join("console");
        let address = match name {
            "embed" => format!("unix:{}", crate::support::abstract_name()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let server = Server::start(name, &address, &["--console", path.to_str().unwrap()]);
        wait_until("the console listens", || path.exists());
        assert!(says(&path, "status\n").starts_with("state           serving\n"), "{name}");
        server.stop();
    }
}

fn the_console_is_back_after_a_restart() {
    let directory = TempDir::new();
    let path = directory.join("console");
    let server = start("echo", "threading", &path);
    let process = |status: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix("process"));
        line.and_then(|line| line.trim().parse().ok()).and_then(rustix::process::Pid::from_raw)
    };
    let first = process(&says(&path, "status\n")).unwrap();
    kill_process(first, Signal::USR2).unwrap();
    let mut last = None;
    wait_until("the successor's console answers", || {
        let mut command = Command::new("nc");
        command.args(["-N", "-U", path.to_str().unwrap()]);
        last = process(run(command, "status\n").text()).filter(|pid| *pid != first);
        last.is_some()
    });
    kill_process(last.unwrap(), Signal::TERM).unwrap();
    server.wait();
    wait_until("the file is removed", || !path.exists());
}

fn only_the_same_user_and_root_may_use_it() {
    // To an abstract name every process may connect, and to a path with this mode.
    let name = crate::support::abstract_name();
    let server = Server::start("echo", "127.0.0.1:0", &["--console", &format!("unix:{name}")]);
    let ask_as = |uid: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", STRANGER, &name, uid]);
        run(command, "").text().trim().to_owned()
    };
    wait_until("the console listens", || ask_as("").contains("serving"));
    if name.starts_with('/') {
        std::fs::set_permissions(&name, PermissionsExt::from_mode(0o666)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        assert_eq!(ask_as("65534"), "b''");
    }
    server.stop();
}

const STRANGER: &str = r#"
import os, socket, sys
if sys.argv[2]:
    os.setuid(int(sys.argv[2]))
console = socket.socket(socket.AF_UNIX)
console.settimeout(30)
try:
    console.connect(sys.argv[1].replace("@", "\0", 1))
    console.sendall(b"status\n")
    print(console.recv(100))
except BrokenPipeError:
    print(b"")
except ConnectionError as error:
    print(b"" if isinstance(error, ConnectionResetError) else error)
"#;

fn where_a_console_cannot_work_is_one_line() {
    for (flags, expected) in [
        (["--mixin", "forking", "--console", "/tmp/x"], "needs a thread"),
        (["--mixin", "prefork", "--console", "/tmp/x"], "needs a thread"),
        (["--mixin", "threading", "--console", "127.0.0.1:0"], "not a Unix socket"),
    ] {
        let mut command = example("echo");
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.stderr.lines().count()), (Some(2), 1), "{ended:?}");
        assert!(ended.stderr.contains(expected), "{ended:?}");
    }
}
