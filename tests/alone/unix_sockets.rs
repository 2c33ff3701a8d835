//! Unix sockets among processes: who may connect, which of several servers gets the name, who the peer is,
//! and descriptors that programs of others send and receive.

use std::fs::File;
use std::io::{BufRead, Write, pipe, read_to_string, stdin};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, getuid, setrlimit, umask};
use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::spawnable_mixins;
use crate::support::clients::{ask, echoes, unix};
use crate::support::process::{Process, run};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::servers::{answers, serve_at};
use crate::support::system::open_descriptors;
use crate::support::{TIMEOUT, TempDir};

pub(crate) const TESTS: &[Test] = tests![
    the_mode_of_a_socket_is_what_was_asked_for_whatever_the_umask_is,
    only_users_of_the_group_may_connect: ["setpriv", "nc"],
    of_several_servers_that_start_on_a_stale_socket_exactly_one_wins,
    a_peer_is_the_process_at_the_other_end: ["python3"],
    a_peer_outside_of_the_container_has_no_number: ["unshare"],
    python_sends_and_receives_descriptors: ["python3"],
    descriptors_that_the_process_cannot_have_end_the_connection,
];

pub(crate) const PARTS: &[Part] = &[
    ("contends", contend),
    ("tells_peers", |address| {
        serve(ThreadingUnixStreamServer::bind(address, tells_peer()).unwrap())
    }),
    ("has_few_descriptors", serve_with_few_descriptors),
    ("forks_and_passes", |address| {
        serve(ForkingUnixStreamServer::bind(address, passes()).unwrap())
    }),
];

fn the_mode_of_a_socket_is_what_was_asked_for_whatever_the_umask_is() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for mask in [0, 0o22, 0o77, 0o777] {
        for mode in [0o600, 0o660, 0o666] {
            let before = umask(Mode::from_raw_mode(mask));
            let stream = UnixStreamServer::builder().socket_mode(mode).bind(&*path, Echo);
            let stream_mode = path.metadata().map(|file| file.permissions().mode() & 0o777);
            drop(stream.unwrap());
            let address = format!("unixgram:{}", path.display());
            let datagram = UnixDatagramServer::builder().socket_mode(mode).bind(&*address, Echo);
            let datagram_mode = path.metadata().map(|file| file.permissions().mode() & 0o777);
            drop(datagram.unwrap());
            umask(before);
            assert_eq!(stream_mode.unwrap(), mode, "umask {mask:o}");
            assert_eq!(datagram_mode.unwrap(), mode, "umask {mask:o}");
        }
    }
}

/// What a user with this group gets from an echo server.
fn answer_to(group: &str, path: &Path) -> String {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", group, "--clear-groups", "nc", "-N", "-U"]);
    command.arg(path);
    run(command, "hello\n").text().to_owned()
}

/// Only root may give a file away, or become another user.
fn only_users_of_the_group_may_connect() {
    if !getuid().is_root() {
        return;
    }
    let directory = TempDir::new();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = directory.join("socket");
    for mixin in spawnable_mixins() {
        let builder = UnixStreamServer::builder().mixin(mixin);
        let builder = builder.socket_mode(0o660).socket_owner(65_533).socket_group(4321);
        let server = serve_at(path.to_str().unwrap(), builder, Echo);
        let file = path.metadata().unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (65_533, 4321, 0o660));
        assert_eq!(answer_to("4321", &path), "hello\n");
        assert_eq!(answer_to("4322", &path), "");
        assert_eq!(server.stats().accepted, 1);
    }
}

/// Binds at the moment that its test says, and serves if it is the one that may.
fn contend(address: &str) {
    println!("listening on {address}, perhaps");
    stdin().lock().read_line(&mut String::new()).unwrap();
    match UnixStreamServer::builder().socket_mode(0o600).bind(address, Echo) {
        Ok(server) => serve(server),
        Err(error) => println!("{error}"),
    }
}

fn of_several_servers_that_start_on_a_stale_socket_exactly_one_wins() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let address = format!("unix:{}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    for _ in 0..20 {
        let this_program = std::env::current_exe().unwrap();
        let mut servers: Vec<_> = (0..4)
            .map(|_| {
                let mut command = Command::new(&this_program);
                command.args(["play", "contends", &address]);
                Process::spawn(command)
            })
            .collect();
        servers.iter().for_each(|server| assert!(server.line().ends_with("perhaps")));
        servers.iter_mut().for_each(|server| server.send("go\n"));
        let (won, lost): (Vec<_>, Vec<_>) = servers
            .into_iter()
            .map(|server| (server.line(), server))
            .partition(|(line, _)| *line == format!("listening on {address}"));
        assert_eq!(won.len(), 1);
        for (line, server) in lost {
            assert!(line.contains("in use"), "{line}");
            assert_eq!(server.wait().status, Some(0));
        }
        // The winner has the name, and is killed: the file is stale.
        echoes(address.parse::<Endpoint>().unwrap(), "hello\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for (_, server) in won {
            server.signal(Signal::KILL);
            server.wait();
        }
        assert!(path.exists());
    }
}

fn tells_peer() -> impl StreamRequestHandler {
    answers(|_, connection| {
        let peer = connection.peer_credentials()?.ok_or("no peer")?;
        Ok(writeln!(connection, "{:?} {} {}", peer.pid, peer.uid, peer.gid)?)
    })
}

const WHO: &str = "
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(b'who?\\n')
print(client.makefile().readline().strip())
print(f'Some({os.getpid()}) {os.geteuid()} {os.getegid()}')
";

fn a_peer_is_the_process_at_the_other_end() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for mixin in spawnable_mixins() {
        let builder = UnixStreamServer::builder().mixin(mixin);
        let _server = serve_at(path.to_str().unwrap(), builder, tells_peer());
        let mut python = Command::new("python3");
        python.args(["-c", WHO]).arg(&path);
        let ended = run(python, "");
        let [said, own] = ended.lines().collect::<Vec<_>>()[..] else { panic!("{ended:?}") };
        assert_eq!(said, own);
    }
}

/// Only root may make a PID namespace.
fn a_peer_outside_of_the_container_has_no_number() {
    if !getuid().is_root() {
        return;
    }
    let directory = TempDir::new();
    let address = format!("unix:{}", directory.join("socket").display());
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
    let server = ServerProcess::start_by(unshare, "tells_peers", &address);
    let client = unix(server.endpoint());
    assert_eq!(ask(&client, "who?"), "None 0 0");
    drop(client);
}

/// Answers a line with the text of the file that came with it, and then with a pipe that has it too.
fn passes() -> impl StreamRequestHandler {
    handler_fn(|connection| {
        connection.receive_fds(1)?;
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            let text = read_to_string(File::from(connection.next_fd().ok_or("no file")?))?;
            write!(connection, "{text}")?;
            let (reader, mut writer) = pipe()?;
            writer.write_all(text.as_bytes())?;
            connection.send_fds(b"!", &[reader.as_fd()])?;
            line.clear();
        }
        Ok(())
    })
}

const PASSES: &str = "
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
for text in (b'one', b'two', b'three'):
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    socket.send_fds(client, [b'here\\n'], [reader])
    os.close(reader)
    received, descriptors = b'', []
    while len(received) < len(text) + 1:
        data, more, flags, address = socket.recv_fds(client, 100, 3)
        received += data
        descriptors += more
    assert received == text + b'!', received
    assert len(descriptors) == 1, descriptors
    assert os.read(descriptors[0], 100) == text
    os.close(descriptors[0])
print('ok')
";

fn python_sends_and_receives_descriptors() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let exchange = || {
        let mut python = Command::new("python3");
        python.args(["-c", PASSES]).arg(&path);
        let ended = run(python, "");
        assert_eq!((ended.text(), ended.stderr.as_str()), ("ok\n", ""));
    };
    for mixin in spawnable_mixins() {
        let builder = UnixStreamServer::builder().mixin(mixin);
        let _server = serve_at(path.to_str().unwrap(), builder, passes());
        exchange();
    }
    let address = format!("unix:{}", path.display());
    let server = ServerProcess::start("forks_and_passes", &address);
    exchange();
    server.stop();
}

/// Ten more than it has when it listens.
fn serve_with_few_descriptors(address: &str) {
    let reads = handler_fn(|connection| {
        connection.receive_fds(100)?;
        let error = connection.read_line(&mut String::new()).unwrap_err();
        let is_limit = matches!(Error::of(&error), Some(Error::TooManyDescriptors { .. }));
        writeln!(connection, "{is_limit}")?;
        Err(error.into())
    });
    let server = ThreadingUnixStreamServer::bind(address, reads).unwrap();
    let current = Some(open_descriptors() as u64 + 10);
    setrlimit(Resource::Nofile, Rlimit { current, ..getrlimit(Resource::Nofile) }).unwrap();
    serve(server);
}

fn descriptors_that_the_process_cannot_have_end_the_connection() {
    let directory = TempDir::new();
    let address = format!("unix:{}", directory.join("socket").display());
    let server = ServerProcess::start("has_few_descriptors", &address);
    let connects = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap().handle();
    // As often as it takes to run out of them, if some are left open.
    for _ in 0..10 {
        let mut client = connects.connect(&*address, TIMEOUT).unwrap();
        let file = File::open("/dev/null").unwrap();
        client.send_fds(b"hello\n", &[file.as_fd(); 100]).unwrap();
        let mut answer = String::new();
        client.read_line(&mut answer).unwrap();
        assert_eq!(answer, "true\n");
    }
    let ended = server.stop();
    assert_eq!(ended.count("limit"), 10, "{ended:?}");
}
