//! The example servers with several listeners.

use std::io::Write;
use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;
use socketserver::Endpoint;

use crate::examples::{MIXINS, SERVERS};
use crate::harness::{Test, tests};
use crate::support::clients::{ask, echoes, line_of, tcp, unix};
use crate::support::process::{Process, Server, example, run};
use crate::support::{TempDir, abstract_name};

pub(crate) const TESTS: &[Test] = tests![
    every_server_listens_on_further_addresses,
    clients_of_a_chat_meet_whichever_way_they_come: ["nc"],
    datagrams_are_answered_at_further_addresses: ["nc"],
    a_further_address_that_cannot_be_bound_is_one_line_and_status_1,
    a_server_listens_on_sockets_of_systemd_beside_an_address: ["systemd-socket-activate"],
];

/// The addresses that a server prints behind its first two lines.
#[track_caller]
fn further(server: &Server, count: usize) -> Vec<String> {
    let line = || server.line().strip_prefix("also listening on ").unwrap().to_owned();
    (0..count).map(|_| line()).collect()
}

fn every_server_listens_on_further_addresses() {
    let directory = TempDir::new();
    for (name, _) in SERVERS {
        let (path, other) = (directory.join("socket"), abstract_name());
        let listen = format!("unix:{other}");
        let also = ["--also", path.to_str().unwrap(), "--also", "127.0.0.1:0"];
        let server = Server::start(name, &listen, &also);
        let addresses = further(&server, 2);
        assert_eq!(addresses[0], format!("unix:{}", path.display()));
        tcp(addresses[1].parse::<Endpoint>().unwrap());
        server.stop();
        assert!(!path.exists(), "{name}");
    }
}

fn clients_of_a_chat_meet_whichever_way_they_come() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    for mixin in ["threading", "fibers"] {
        let also = ["--also", &path, "--also", "[::1]:0", "--mixin", mixin];
        let server = Server::start("chat", "127.0.0.1:0", &also);
        let addresses = further(&server, 2);
        let first = tcp(server.endpoint());
        line_of(&first);
        server.wait_for("joined");
        let second = unix(addresses[0].parse::<Endpoint>().unwrap());
        line_of(&second);
        server.wait_for("joined");
        line_of(&first);
        // The third is not of this package.
        let (host, port) = addresses[1].rsplit_once(':').unwrap();
        let mut nc = Command::new("nc");
        nc.args([host.trim_matches(['[', ']']), port]);
        let mut third = Process::spawn(nc);
        assert!(third.line().starts_with("You're connected"));
        line_of(&first);
        line_of(&second);
        third.send("hello, both\n");
        assert!(line_of(&first).ends_with("hello, both\r"));
        assert!(line_of(&second).ends_with("hello, both\r"));
        (&second).write_all(b"hello, third\n").unwrap();
        third.wait_for("hello, third");
        drop((first, second, third));
        server.stop();
    }
}

fn datagrams_are_answered_at_further_addresses() {
    for mixin in MIXINS {
        let also = ["--also", "udp://[::1]:0", "--mixin", mixin];
        let server = Server::start("timestamp", "udp://127.0.0.1:0", &also);
        let address = further(&server, 1).remove(0);
        let (host, port) = address.strip_prefix("udp://").unwrap().rsplit_once(':').unwrap();
        let [first, first_port] = server.host_and_port();
        for (host, port) in [(host.trim_matches(['[', ']']), port), (&first, &first_port)] {
            let mut nc = Command::new("nc");
            nc.args(["-u", "-W", "1", "-w", "10", host, port]);
            let ended = run(nc, "hello\n");
            assert!(ended.text().ends_with("] hello\n"), "{mixin}: {ended:?}");
        }
        server.stop();
    }
}

fn a_further_address_that_cannot_be_bound_is_one_line_and_status_1() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for (also, status, words) in [(taken.as_str(), 1, "in use"), ("nonsense", 2, "bad address")] {
        let mut command = example("echo");
        command.args(["--listen", "127.0.0.1:0", "--also", also]);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.text()), (Some(status), ""), "{ended:?}");
        assert!(ended.stderr.contains(also) && ended.stderr.contains(words), "{ended:?}");
    }
}

fn a_server_listens_on_sockets_of_systemd_beside_an_address() {
    let directory = TempDir::new();
    let (web, admin) = (directory.join("web"), directory.join("admin"));
    for mixin in MIXINS {
        let mut command = Command::new("systemd-socket-activate");
        command.args(["--listen", web.to_str().unwrap(), "--listen", admin.to_str().unwrap()]);
        command.args(["--fdname", "web:admin"]).arg(example("echo").get_program());
        command.args(["--listen", "systemd:web", "--also", "systemd:admin"]);
        command.args(["--also", "127.0.0.1:0", "--mixin", mixin]);
        let server = Process::spawn(command);
        server.wait_for("Listening on");
        server.wait_for("Listening on");
        // It is started by the first client.
        let client = unix(web.to_str().unwrap().parse::<Endpoint>().unwrap());
        assert_eq!(ask(&client, mixin), mixin);
        drop(client);
        server.wait_for("also listening on ");
        assert_eq!(server.line(), format!("unix:{}", admin.display()));
        echoes(format!("unix:{}", admin.display()).parse::<Endpoint>().unwrap(), "admin\n");
        let address = server.line().strip_prefix("also listening on ").unwrap().to_owned();
        echoes(address.parse::<Endpoint>().unwrap(), "TCP\n");
        server.signal(Signal::TERM);
        assert_eq!(server.wait().status, Some(0), "{mixin}");
        assert!(web.exists() && admin.exists());
        std::fs::remove_file(&web).unwrap();
        std::fs::remove_file(&admin).unwrap();
    }
}
