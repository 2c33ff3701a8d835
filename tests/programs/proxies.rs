//! The example servers behind proxies, and `gateway` as one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::examples::{MIXINS, SERVERS, frame};
use crate::harness::{Test, tests};
use crate::support::abstract_name;
use crate::support::clients::{Client, ask, line_of, rest_of, tcp};
use crate::support::process::{Server, example, run};
use crate::support::proxies::Proxy;

pub(crate) const TESTS: &[Test] = tests![
    echo_is_served_behind_haproxy: ["haproxy"],
    a_gateway_passes_on_who_the_client_is,
    a_gateway_behind_haproxy_passes_on_who_the_client_is: ["haproxy"],
    every_server_requires_a_header_from_its_proxies,
    a_wrong_flag_is_one_line_and_status_2,
];

const PROXIES: [&str; 2] = ["--proxy-protocol", "127.0.0.0/8"];

fn echo_is_served_behind_haproxy() {
    for mixin in MIXINS {
        let server =
            Server::start("echo", "127.0.0.1:0", &["--mixin", mixin, PROXIES[0], PROXIES[1]]);
        for option in ["send-proxy", "send-proxy-v2"] {
            let proxy = Proxy::haproxy(server.address(), "", option);
            for line in ["hello", "again"] {
                let client = proxy.client();
                assert_eq!(ask(&client, line), line, "{mixin}, {option}");
                assert_eq!(ask(&client, "PROXY"), "PROXY", "{mixin}, {option}");
            }
            proxy.stop();
        }
        server.stop();
    }
}

/// A chat room, which shows the addresses of its clients.
fn chat() -> Server {
    Server::start("chat", "127.0.0.1:0", &PROXIES)
}

/// The room has a client with the address of this one, whatever is between them.
#[track_caller]
fn joins_as_itself(room: &Server, client: &TcpStream) {
    assert!(line_of(client).starts_with("You're connected"));
    let own = client.local_addr().unwrap();
    assert_eq!(room.line(), format!("Client joined {own}"));
}

fn a_gateway_passes_on_who_the_client_is() {
    let room = chat();
    for mixin in MIXINS {
        for version in ["v1", "v2"] {
            let flags = ["--upstream", room.address(), "--send-proxy", version, "--mixin", mixin];
            let gateway = Server::start("gateway", "127.0.0.1:0", &flags);
            let client = tcp(gateway.endpoint());
            joins_as_itself(&room, &client);
            drop(client);
            assert!(room.line().starts_with("Client left"));
            gateway.stop();
        }
    }
    room.stop();
}

fn a_gateway_behind_haproxy_passes_on_who_the_client_is() {
    let room = chat();
    let upstream = ["--upstream", room.address(), "--send-proxy", "v2"];
    let gateway = Server::start("gateway", "127.0.0.1:0", &[&upstream[..], &PROXIES].concat());
    let proxy = Proxy::haproxy(gateway.address(), "", "send-proxy-v2");
    let client = proxy.client();
    joins_as_itself(&room, &client);
    drop(client);
    assert!(room.line().starts_with("Client left"));
    proxy.stop();
    gateway.stop();
    room.stop();
}

fn every_server_requires_a_header_from_its_proxies() {
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    for (name, _) in SERVERS {
        // Those of another network, which come first, are none that connect here.
        let (listen, proxies) = match name {
            "embed" => (format!("unix:{}", abstract_name()), uid.as_str()),
            _ => ("127.0.0.1:0".to_owned(), "127.0.0.1"),
        };
        let flags = ["--proxy-protocol", "192.0.2.0/24", "--proxy-protocol", proxies];
        let server = Server::start(name, &listen, &flags);
        let client = Client::at(server.endpoint());
        let request = if name == "framed" { frame(&[1, 2]) } else { b"status\n".to_vec() };
        // The server may have closed it already.
        let _ = (&mut &client).write_all(&request);
        let mut answer = Vec::new();
        let _ = (&mut &client).read_to_end(&mut answer);
        assert_eq!(answer.escape_ascii().to_string(), "", "{name}");
        drop(client);
        let client = Client::at(server.endpoint());
        client.send([b"PROXY UNKNOWN\r\n", &request[..]].concat());
        client.shutdown(Shutdown::Write);
        assert!(!rest_of(&client).is_empty(), "{name}");
        drop(client);
        server.stop();
    }
}

fn a_wrong_flag_is_one_line_and_status_2() {
    let gateway = ["--upstream", "127.0.0.1:1", "--send-proxy", "v3"];
    for (name, flags, says) in [
        ("echo", &["--proxy-protocol", "everybody"][..], "not a network"),
        ("hello", &["--proxy-protocol", "uid:root"], "not a network"),
        ("hello", &["--proxy-protocol", "10.0.0.0/33"], "not a network"),
        ("echo", &["--listen", "udp://127.0.0.1:0", PROXIES[0], PROXIES[1]], "datagrams"),
        ("gateway", &gateway, "v1 or v2"),
    ] {
        let mut command = example(name);
        command.args(flags);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.text()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains(says) && ended.stderr.lines().count() == 1, "{ended:?}");
    }
}
