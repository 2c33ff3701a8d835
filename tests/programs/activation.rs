//! Examples that systemd starts, or a super-server, with a socket or a connection that is there already.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::examples::MIXINS;
use crate::harness::{Test, tests};
use crate::support::clients::{ask, tcp};
use crate::support::process::{Process, example, run};
use crate::support::{TIMEOUT, TempDir, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_server_takes_the_sockets_that_systemd_passes_by_name: ["systemd-socket-activate"],
    a_datagram_server_takes_its_socket: ["systemd-socket-activate"],
    a_connection_that_systemd_has_accepted_is_served: ["systemd-socket-activate"],
    a_super_server_starts_an_example_for_each_connection: ["tcpserver", "s6-ipcserver"],
    a_supervisor_passes_a_descriptor_by_its_number: ["bash", "systemd-socket-activate"],
    sockets_that_are_missing_or_of_another_kind_are_one_line: ["systemd-socket-activate"],
    systemd_is_told_of_the_start_the_stop_and_the_time_between: ["bash"],
    the_units_of_the_documentation_are_valid: ["systemd-analyze"],
];

/// An example that systemd-socket-activate starts when the first client comes.
fn activated(listen: &str, options: &[&str], name: &str, flags: &[&str]) -> Process {
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--listen", listen]).args(options);
    command.arg(example(name).get_program()).args(flags);
    let process = Process::spawn(command);
    // Its messages are on standard error.
    assert!(process.error_line().starts_with("Listening on "));
    process
}

fn client_of(path: &Path) -> UnixStream {
    let client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client
}

fn a_server_takes_the_sockets_that_systemd_passes_by_name() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let (web, admin) = (directory.join("web"), directory.join("admin"));
        let options = ["--listen", admin.to_str().unwrap(), "--fdname", "web:admin"];
        let flags = ["--listen", "systemd:admin", "--mixin", mixin];
        let server = activated(web.to_str().unwrap(), &options, "echo", &flags);
        server.wait_for("Listening on");
        let client = client_of(&admin);
        assert_eq!(ask(&client, mixin), *mixin);
        drop(client);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().status, Some(0), "{mixin}");
        // The socket is not this program's to remove.
        assert!(admin.exists());
    }
}

fn a_datagram_server_takes_its_socket() {
    let directory = TempDir::new();
    let (path, own) = (directory.join("echo"), directory.join("client"));
    let flags = ["--listen", "systemd:unknown"];
    let server = activated(path.to_str().unwrap(), &["--datagram"], "echo", &flags);
    let client = UnixDatagram::bind(own).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.send_to(b"hello", &path).unwrap();
    let mut answer = [0; 10];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"hello");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));
}

fn a_connection_that_systemd_has_accepted_is_served() {
    let directory = TempDir::new();
    let path = directory.join("echo");
    let options = ["--accept", "--inetd"];
    let server = activated(path.to_str().unwrap(), &options, "echo", &["--listen", "inetd"]);
    for number in 0..3 {
        let client = client_of(&path);
        assert_eq!(ask(&client, &number.to_string()), number.to_string());
        assert_eq!(ask(&client, "again"), "again");
    }
    server.signal(Signal::TERM);
    server.wait();
}

fn a_super_server_starts_an_example_for_each_connection() {
    let directory = TempDir::new();
    let path = directory.join("echo");
    let echo = example("echo");
    let mut command = Command::new("s6-ipcserver");
    command.arg(&path).arg(echo.get_program()).args(["--listen", "inetd"]);
    let s6 = Process::spawn(command);
    wait_until("s6-ipcserver listens", || path.exists());
    let client = client_of(&path);
    assert_eq!(ask(&client, "over a Unix socket"), "over a Unix socket");
    drop(client);
    s6.signal(Signal::TERM);
    s6.wait();

    let port = free_port();
    let mut command = Command::new("tcpserver");
    command.args(["-HRl0", "127.0.0.1", &port.to_string()]);
    command.arg(echo.get_program()).args(["--listen", "inetd"]);
    let tcpserver = Process::spawn(command);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_until("tcpserver listens", || TcpStream::connect(address).is_ok());
    assert_eq!(ask(&tcp(address), "over TCP"), "over TCP");
    tcpserver.signal(Signal::TERM);
    tcpserver.wait();
}

/// One that no program listened on just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn a_supervisor_passes_a_descriptor_by_its_number() {
    let directory = TempDir::new();
    let path = directory.join("echo");
    let server = activated(path.to_str().unwrap(), &[], "echo", &["--listen", "fd:3"]);
    assert_eq!(ask(&client_of(&path), "hello"), "hello");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));

    let mut command = Command::new("bash");
    let echo = example("echo");
    let script = r#"exec 5</dev/null; exec "$0" --listen fd:5"#;
    command.args(["-c", script]).arg(echo.get_program());
    let refused = run(command, "");
    assert_eq!(refused.status, Some(1));
    assert!(refused.stderr.contains("descriptor 5: "), "{refused:?}");

    let mut command = example("echo");
    command.args(["--listen", "fd:200"]);
    let refused = run(command, "");
    assert!(refused.stderr.starts_with("echo: descriptor 200: "), "{refused:?}");
}

fn sockets_that_are_missing_or_of_another_kind_are_one_line() {
    let mut command = example("echo");
    command.args(["--listen", "systemd:web"]).env_remove("LISTEN_PID");
    let refused = run(command, "");
    assert_eq!(refused.status, Some(1));
    assert_eq!(refused.stderr, "echo: web: the process was started with no sockets\n");

    let directory = TempDir::new();
    for (flags, expected) in [
        (["--listen", "systemd:other"], "echo: other: the process was started with web"),
        (["--listen", "fd:0"], "echo: descriptor 0: "),
    ] {
        let path = directory.join("socket");
        let options = ["--fdname", "web"];
        let server = activated(path.to_str().unwrap(), &options, "echo", &flags);
        let _client = client_of(&path);
        let refused = server.wait();
        assert!(refused.stderr.contains(expected), "{refused:?}");
        std::fs::remove_file(path).unwrap();
    }
}

fn systemd_is_told_of_the_start_the_stop_and_the_time_between() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let path = directory.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut command = Command::new("bash");
        // The watchdog is for the process with this id.
        let script = r#"WATCHDOG_PID=$$ exec "$0" --listen 127.0.0.1:0 --mixin "$1""#;
        command.args(["-c", script]).arg(example("echo").get_program()).arg(mixin);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
        let server = Process::spawn(command);
        let next = || {
            let mut message = [0; 1000];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap().trim_end().to_owned()
        };
        assert!(next().starts_with("STATUS=serving on 127.0.0.1:"), "{mixin}");
        assert_eq!(next(), "READY=1", "{mixin}");
        assert_eq!([next(), next()], ["WATCHDOG=1", "WATCHDOG=1"], "{mixin}");
        server.signal(Signal::TERM);
        let stopping = std::iter::repeat_with(next).find(|message| message != "WATCHDOG=1");
        assert_eq!(stopping.unwrap(), "STOPPING=1", "{mixin}");
        assert_eq!(next(), "STATUS=stopped: drained 0, forced 0", "{mixin}");
        assert_eq!(server.wait().status, Some(0), "{mixin}");
    }
}

fn the_units_of_the_documentation_are_valid() {
    let directory = TempDir::new();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
    let chat = example("chat").get_program().to_str().unwrap().to_owned();
    let mut command = Command::new("systemd-analyze");
    command.arg("verify");
    for name in ["chat.socket", "chat.service"] {
        let unit = std::fs::read_to_string(units.join(name)).unwrap();
        let copy = directory.join(name);
        // It has to exist.
        std::fs::write(&copy, unit.replace("/usr/local/bin/chat", &chat)).unwrap();
        command.arg(copy);
    }
    let verified = run(command, "");
    assert_eq!((verified.status, verified.stderr.trim_end()), (Some(0), ""), "{verified:?}");
    // The flags of the unit are those of the program.
    let unit = std::fs::read_to_string(units.join("chat.service")).unwrap();
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    let mut command = example("chat");
    command.args(start.split(' ').skip(1)).env_remove("LISTEN_PID");
    assert_eq!(run(command, "").stderr, "chat: chat: the process was started with no sockets\n");
}
