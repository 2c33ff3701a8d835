//! Examples that restart on `SIGUSR2`, under load: no client is refused, reset, or left without an answer.

use std::fs::Permissions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use socketserver::Endpoint;

use crate::examples::MIXINS;
use crate::harness::{Test, tests};
use crate::support::clients::{ask, line_of, tcp, udp, unix, unixgram};
use crate::support::process::{Process, example, listening_on, run};
use crate::support::{TIMEOUT, TempDir, wait_until};
#[cfg(feature = "tls")]
use crate::tls_clients;

pub(crate) const TESTS: &[Test] = tests![
    restarts_under_load_lose_no_client,
    restarts_under_load_lose_no_datagram,
    a_restart_over_netcat: ["nc"],
    a_socket_that_systemd_has_passed_is_handed_on: ["systemd-socket-activate"],
    a_successor_that_fails_changes_nothing,
    a_successor_that_is_killed_changes_nothing,
    a_stranger_is_sent_away: ["python3"],
    an_embedded_server_restarts,
    an_open_connection_ends_as_by_any_stop,
];

#[cfg(feature = "tls")]
pub(crate) const TLS_TESTS: &[Test] = tests![restarts_under_load_lose_no_client_over_tls];

/// A server, and those that succeed it, which share its output.
struct Servers {
    first: Process,
    address: Endpoint,
    /// The one that serves.
    pid: Pid,
    told: UnixDatagram,
    /// The first has the sockets.
    directories: Vec<TempDir>,
}

impl Servers {
    fn start(name: &str, flags: &[&str]) -> Servers {
        let mut command = example(name);
        command.args(flags);
        Servers::spawn(command, |process| listening_on(&process.line()).parse().unwrap())
    }

    fn spawn(mut command: Command, address: impl Fn(&Process) -> Endpoint) -> Servers {
        let directory = TempDir::new();
        let path = directory.join("notify");
        let told = UnixDatagram::bind(&path).unwrap();
        told.set_read_timeout(Some(TIMEOUT)).unwrap();
        command.env("NOTIFY_SOCKET", &path).env("RUNTIME_DIRECTORY", directory.path());
        let first = Process::spawn(command);
        let (address, pid) = (address(&first), first.pid());
        Servers { first, address, pid, told, directories: vec![directory] }
    }

    /// An example that is replaced by this script once it serves.
    fn replaced_by(script: &str, flags: &[&str]) -> (Servers, PathBuf) {
        let directory = TempDir::new();
        let program = directory.join("program");
        std::fs::copy(example("echo").get_program(), &program).unwrap();
        let mut command = Command::new(&program);
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        let address = |process: &Process| listening_on(&process.line()).parse().unwrap();
        let mut servers = Servers::spawn(command, address);
        // Not written into: the program runs.
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        servers.directories.push(directory);
        (servers, program)
    }

    /// What is told the service manager next, of this kind.
    fn told(&self, what: &str) -> String {
        let mut message = [0; 1024];
        loop {
            let length = self.told.recv(&mut message).unwrap_or_else(|e| panic!("{what}: {e}"));
            let message = str::from_utf8(&message[..length]).unwrap();
            if let Some(line) = message.lines().find_map(|line| line.strip_prefix(what)) {
                return line.to_owned();
            }
        }
    }

    fn restart(&mut self) {
        kill_process(self.pid, Signal::USR2).unwrap();
        let successor = self.told("MAINPID=").parse().unwrap();
        self.pid = Pid::from_raw(successor).unwrap();
    }

    fn stop(self) -> String {
        kill_process(self.pid, Signal::TERM).unwrap();
        let ended = self.first.wait();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.stderr
    }
}

/// The last one is an orphan, which a failed test must end.
impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(pid) = Pid::from_raw(self.0.load(Ordering::Relaxed).cast_signed())
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

struct Guard(AtomicU32);

/// Restarts while clients ask one thing after the other.
fn under_load(servers: &mut Servers, restarts: usize, ask: &[&(dyn Fn(&str) + Sync)]) {
    let guard = Guard(AtomicU32::new(servers.pid.as_raw_nonzero().get().cast_unsigned()));
    let over = AtomicBool::new(false);
    let answered: Vec<_> = ask.iter().map(|_| AtomicU32::new(0)).collect();
    thread::scope(|scope| {
        for (ask, answered) in ask.iter().zip(&answered) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let number = answered.load(Ordering::Relaxed);
                    ask(&format!("number {number}"));
                    answered.store(number + 1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..restarts {
            let before: Vec<_> = answered.iter().map(|n| n.load(Ordering::Relaxed)).collect();
            servers.restart();
            guard.0.store(servers.pid.as_raw_nonzero().get().cast_unsigned(), Ordering::Relaxed);
            wait_until("each client has an answer of the new server", || {
                answered
                    .iter()
                    .zip(&before)
                    .all(|(n, before)| n.load(Ordering::Relaxed) > before + 1)
            });
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn restarts_under_load_lose_no_client() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let path = directory.join("socket");
        let also = format!("unix:{}", path.display());
        let flags = ["--listen", "127.0.0.1:0", "--also", &also, "--mixin", mixin];
        let mut servers = Servers::start("echo", &flags);
        let (tcp_at, unix_at) = (servers.address.clone(), Endpoint::try_from(&*path).unwrap());
        let by_tcp = |line: &str| assert_eq!(ask(&tcp(tcp_at.clone()), line), line);
        let by_unix = |line: &str| assert_eq!(ask(&unix(unix_at.clone()), line), line);
        under_load(&mut servers, 10, &[&by_tcp, &by_unix, &by_tcp]);
        servers.stop();
        assert!(!path.exists(), "{mixin}");
    }
}

fn restarts_under_load_lose_no_datagram() {
    for mixin in MIXINS {
        let flags = ["--max-rate", "0", "--mixin", mixin];
        let mut servers =
            Servers::start("echo", &[&["--listen", "udp://127.0.0.1:0"], &flags[..]].concat());
        let socket = udp(servers.address.clone());
        let by_udp = |line: &str| {
            comes_back(line, |data, answer| socket.send(data).and_then(|_| socket.recv(answer)));
        };
        under_load(&mut servers, 5, &[&by_udp]);
        servers.stop();

        let directory = TempDir::new();
        let address = format!("unixgram:{}", directory.join("socket").display());
        let mut servers = Servers::start("echo", &[&["--listen", &address], &flags[..]].concat());
        let sockets = [(); 2].map(|()| unixgram(servers.address.clone()));
        let [first, second] = sockets.each_ref().map(|socket| {
            move |line: &str| {
                comes_back(line, |data, answer| {
                    socket.send(data).and_then(|_| socket.recv(answer))
                });
            }
        });
        under_load(&mut servers, 5, &[&first, &second]);
        servers.stop();
    }
}

#[track_caller]
fn comes_back(line: &str, exchange: impl Fn(&[u8], &mut [u8]) -> io::Result<usize>) {
    let mut answer = [0; 100];
    let length = exchange(line.as_bytes(), &mut answer).unwrap_or_else(|e| panic!("{line}: {e}"));
    assert_eq!(&answer[..length], line.as_bytes());
}

#[cfg(feature = "tls")]
fn restarts_under_load_lose_no_client_over_tls() {
    let [certificate, key] = tls_clients::pair("localhost").map(|file| file.display().to_string());
    for mixin in MIXINS {
        let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--mixin", mixin];
        let flags = [&["--listen", "127.0.0.1:0"], &tls[..]].concat();
        let mut servers = Servers::start("echo", &flags);
        let address = servers.address.clone();
        let by_tls = |line: &str| {
            let config = tls_clients::client_config(None);
            let mut client = tls_clients::connect_at(address.clone(), config, "localhost");
            // In two steps, as by a client on another machine.
            tls_clients::handshake(&mut client).unwrap();
            assert_eq!(tls_clients::ask(&mut client, line), line, "{mixin}");
        };
        under_load(&mut servers, 10, &[&by_tls, &by_tls, &by_tls]);
        servers.stop();
    }
}

fn a_restart_over_netcat() {
    let mut servers = Servers::start("echo", &["--listen", "127.0.0.1:0"]);
    let address = servers.address.clone();
    let address = address.resolve(socketserver::Scheme::Tcp).unwrap()[0];
    let by_netcat = |line: &str| {
        let mut command = Command::new("nc");
        command.args(["-N", "127.0.0.1", &address.port().to_string()]);
        assert_eq!(run(command, line).text(), line);
    };
    under_load(&mut servers, 5, &[&by_netcat]);
    servers.stop();
}

fn a_socket_that_systemd_has_passed_is_handed_on() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", path.to_str().unwrap(), "--fdname", "chat"]);
    let notify = directory.join("notify");
    for (name, value) in
        [("NOTIFY_SOCKET", &notify), ("RUNTIME_DIRECTORY", &path.parent().unwrap().to_owned())]
    {
        command.args(["--setenv", &format!("{name}={}", value.display())]);
    }
    command.arg(example("echo").get_program()).args(["--listen", "systemd:chat"]);
    let address = Endpoint::try_from(&*path).unwrap();
    let mut servers = Servers::spawn(command, |process| {
        wait_until("it listens", || path.exists());
        assert!(process.error_line().starts_with("Listening on"));
        address.clone()
    });
    servers.told = UnixDatagram::bind(&notify).unwrap();
    servers.told.set_read_timeout(Some(TIMEOUT)).unwrap();
    let by_unix = |line: &str| assert_eq!(ask(&unix(address.clone()), line), line);
    // The first client starts it.
    by_unix("hello");
    under_load(&mut servers, 5, &[&by_unix]);
    servers.stop();
    assert!(path.exists(), "the file is the service manager's");
}

fn a_successor_that_fails_changes_nothing() {
    for mixin in MIXINS {
        let (servers, program) = Servers::replaced_by("#!/bin/sh\nexit 3\n", &["--mixin", mixin]);
        kill_process(servers.pid, Signal::USR2).unwrap();
        servers.first.wait_for("not handed over: the successor has ended: exit status: 3");
        std::fs::remove_file(&program).unwrap();
        kill_process(servers.pid, Signal::USR2).unwrap();
        servers.first.wait_for("not handed over: cannot start the successor");
        assert_eq!(ask(&tcp(servers.address.clone()), "hello"), "hello", "{mixin}");
        servers.stop();
    }
}

fn a_successor_that_is_killed_changes_nothing() {
    let script = "#!/bin/sh\necho successor $$\nexec /bin/sleep 60\n";
    let (servers, _) = Servers::replaced_by(script, &[]);
    kill_process(servers.pid, Signal::USR2).unwrap();
    servers.first.wait_for("try: ");
    servers.first.line();
    let line = servers.first.line();
    let successor = line.strip_prefix("successor ").unwrap().parse().unwrap();
    kill_process(Pid::from_raw(successor).unwrap(), Signal::KILL).unwrap();
    servers.first.wait_for("not handed over: the successor has ended: signal: 9");
    assert_eq!(ask(&tcp(servers.address.clone()), "hello"), "hello");
    servers.stop();
}

fn a_stranger_is_sent_away() {
    // A successor that says nothing, while the server waits for it.
    let (servers, _) = Servers::replaced_by("#!/bin/sh\nexec /bin/sleep 60\n", &[]);
    kill_process(servers.pid, Signal::USR2).unwrap();
    let name = format!("echo-{}.hand-over", servers.pid.as_raw_nonzero());
    let path = servers.directories[0].join(&name);
    wait_until("it listens", || path.exists());
    let mut stranger = Command::new("python3");
    stranger.args(["-c", STRANGER, path.to_str().unwrap()]);
    let ended = run(stranger, "");
    if rustix::process::geteuid().is_root() {
        assert_eq!(ended.text(), "PermissionError\nb''\n", "{ended:?}");
        servers.first.wait_for("not the successor: it is a process of the user 65534");
    }
    let children = servers.first.children();
    children.into_iter().for_each(|child| kill_process(child, Signal::KILL).unwrap());
    servers.first.wait_for("not handed over: the successor has ended: signal: 9");
    assert_eq!(ask(&tcp(servers.address.clone()), "hello"), "hello");
    servers.stop();
}

/// As another user, first by what the mode of the file lets it, then in spite of the mode.
const STRANGER: &str = r#"
import os, socket, sys
path = sys.argv[1]
if os.geteuid() != 0:
    sys.exit()
def connect():
    os.seteuid(65534)
    try:
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(30)
        stranger.connect(path)
        stranger.sendall(b"socketserver hand-over 1\n")
        return stranger.recv(100)
    except (BrokenPipeError, ConnectionResetError):
        return b""
    except PermissionError:
        return "PermissionError"
    finally:
        os.seteuid(0)
print(connect())
os.chmod(os.path.dirname(path), 0o755)
os.chmod(path, 0o666)
print(connect())
"#;

fn an_embedded_server_restarts() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let address = format!("unix:{}", path.display());
    let mut servers = Servers::start("embed", &["--listen", &address]);
    let endpoint = servers.address.clone();
    let by_unix = |_: &str| {
        let answer = ask(&unix(endpoint.clone()), "status");
        assert!(answer.contains("ticks"), "{answer}");
    };
    // It tells no service manager: its builder is its own.
    by_unix("");
    kill_process(servers.pid, Signal::USR2).unwrap();
    servers.first.wait_for("listening on");
    let successors = servers.first.children();
    assert_eq!(successors.len(), 1);
    servers.pid = successors[0];
    servers.first.wait_for("stopped; clients cut off: 0");
    by_unix("");
    servers.stop();
    assert!(!path.exists());
}

fn an_open_connection_ends_as_by_any_stop() {
    for mixin in MIXINS {
        if mixin == "sequential" {
            // It serves no second client meanwhile.
            continue;
        }
        let mut servers = Servers::start("echo", &["--listen", "127.0.0.1:0", "--mixin", mixin]);
        let open = tcp(servers.address.clone());
        assert_eq!(ask(&open, "before"), "before");
        (&open).write_all(b"at the end").unwrap();
        servers.restart();
        assert_eq!(line_of(&open), "at the end", "{mixin}");
        match (&open).write_all(b"after\n") {
            Ok(()) => {
                let mut rest = Vec::new();
                let ended = (&open).read_to_end(&mut rest);
                let is_reset = |error: &io::Error| error.kind() == ErrorKind::ConnectionReset;
                assert!(rest.is_empty() && ended.as_ref().err().is_none_or(is_reset), "{ended:?}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe),
        }
        assert_eq!(ask(&tcp(servers.address.clone()), "after"), "after");
        servers.stop();
    }
}
