//! The example `gateway` before servers of other programs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::examples::MIXINS;
use crate::harness::{Test, tests};
use crate::support::clients::{echoes, read_until_closed, reset, tcp};
use crate::support::process::{Process, Server, example, run};
use crate::support::{TempDir, abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    echo_is_served_through_a_gateway_over_tcp_and_unix,
    redis_is_served_through_a_gateway: ["redis-server", "redis-cli"],
    redis_benchmark_runs_through_a_gateway: ["redis-server", "redis-benchmark"],
    web_pages_are_served_through_a_gateway: ["python3", "curl"],
    only_clients_of_allowed_networks_are_served,
    an_upstream_is_required,
    an_upstream_that_is_down_ends_the_connection,
    upstreams_that_misbehave_harm_no_other_client,
];

fn gateway(mixin: &str, upstream: &str) -> Server {
    Server::start("gateway", "127.0.0.1:0", &["--mixin", mixin, "--upstream", upstream])
}

fn echo_is_served_through_a_gateway_over_tcp_and_unix() {
    for mixin in MIXINS {
        for upstream in ["127.0.0.1:0".to_owned(), format!("unix:{}", abstract_name())] {
            let echo = Server::start("echo", &upstream, &[]);
            for listen in ["127.0.0.1:0".to_owned(), format!("unix:{}", abstract_name())] {
                let flags = ["--mixin", mixin, "--upstream", echo.address()];
                let gateway = Server::start("gateway", &listen, &flags);
                for length in [1, 1000, 60_000] {
                    echoes(gateway.endpoint(), &("x".repeat(length) + "\n"));
                }
                gateway.stop();
            }
            echo.stop();
        }
    }
}

/// A Redis on a free port, without files.
fn redis() -> (Process, String, TempDir) {
    let folder = TempDir::new();
    for _ in 0..5 {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", &free.port().to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder.path());
        let redis = Process::spawn(command);
        let mut has_started = false;
        // Another program may have taken the port: then it ends.
        wait_until("redis listens or ends", || {
            has_started = TcpStream::connect(free).is_ok();
            has_started || crate::support::process::has_ended(redis.pid())
        });
        if has_started {
            return (redis, free.to_string(), folder);
        }
    }
    panic!("redis-server does not start");
}

fn cli(gateway: &Server, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let [host, port] = gateway.host_and_port();
    let mut command = Command::new("redis-cli");
    command.args(["-h", &host, "-p", &port]).args(arguments);
    let ended = run(command, input);
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    ended.stdout
}

fn redis_is_served_through_a_gateway() {
    let (_redis, address, _folder) = redis();
    for mixin in MIXINS {
        let gateway = gateway(mixin, &address);
        assert_eq!(cli(&gateway, &["set", "greeting", "hello"], b""), b"OK\n", "{mixin}");
        assert_eq!(cli(&gateway, &["get", "greeting"], b""), b"hello\n", "{mixin}");
        // A value of 3 MB, in and out.
        let value: Vec<u8> = (0..3_000_000u32).map(|number| b'a' + (number % 23) as u8).collect();
        assert_eq!(cli(&gateway, &["-x", "set", "big"], &value), b"OK\n", "{mixin}");
        let back = cli(&gateway, &["get", "big"], b"");
        assert!(back.strip_suffix(b"\n") == Some(&value[..]), "{mixin}: {} bytes", back.len());
        gateway.stop();
    }
}

fn redis_benchmark_runs_through_a_gateway() {
    let (_redis, address, _folder) = redis();
    // One client at a time, as under `sequential` and in a process of `prefork`, is not what it measures.
    for mixin in ["threading", "forking", "fibers"] {
        let gateway = gateway(mixin, &address);
        let [host, port] = gateway.host_and_port();
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", &host, "-p", &port, "-c", "20", "-n", "4000", "-q", "-t", "set,get"]);
        command.args(["-d", "3000"]);
        let ended = run(command, "");
        assert_eq!(ended.status, Some(0), "{mixin}: {ended:?}");
        for name in ["SET:", "GET:"] {
            assert!(ended.text().contains(name), "{mixin}: {ended:?}");
        }
        assert!(!ended.stderr.contains("rror"), "{mixin}: {ended:?}");
        gateway.stop();
    }
}

/// Two requests on one connection, if the server keeps it open, and their bodies compared.
const HTTP_CLIENT: &str = r#"
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
for path in ("/small", "/big", "/none"):
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    print(path, response.status, len(body) if response.status == 200 else "")
"#;

fn web_pages_are_served_through_a_gateway() {
    let folder = TempDir::new();
    let big: Vec<u8> = (0..2_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    std::fs::write(folder.join("big"), &big).unwrap();
    std::fs::write(folder.join("small"), "hello\n").unwrap();
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]);
    command.arg("--directory").arg(folder.path()).arg("0");
    let web = Process::spawn(command);
    // Serving HTTP on 127.0.0.1 port 40001 (http://127.0.0.1:40001/) ...
    let line = web.line();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap();
    for mixin in MIXINS {
        let gateway = gateway(mixin, address);
        let [host, port] = gateway.host_and_port();
        let url = |path| format!("http://{host}:{port}/{path}");
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "30", &url("small"), &url("big")]);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{mixin}");
        assert!(ended.stdout == [&b"hello\n"[..], &big].concat(), "{mixin}");
        let mut command = Command::new("python3");
        command.args(["-c", HTTP_CLIENT, &host, &port]);
        let ended = run(command, "");
        assert_eq!(ended.text(), "/small 200 6\n/big 200 8000000\n/none 404 \n", "{ended:?}");
        gateway.stop();
    }
}

fn only_clients_of_allowed_networks_are_served() {
    let echo = Server::start("echo", "127.0.0.1:0", &[]);
    let start = |networks: &[&str]| {
        let mut flags = vec!["--upstream", echo.address()];
        networks.iter().for_each(|network| flags.extend(["--allow", network]));
        Server::start("gateway", "127.0.0.1:0", &flags)
    };
    let allowing = start(&["10.0.0.0/8", "127.0.0.0/8"]);
    echoes(allowing.endpoint(), "hello\n");
    allowing.stop();
    let other = start(&["10.0.0.0/8"]);
    let mut client = tcp(other.endpoint());
    let _ = client.write_all(b"hello\n");
    read_until_closed(&client);
    drop(client);
    other.stop();
    echo.stop();
}

fn an_upstream_is_required() {
    let allow = ["--upstream", "127.0.0.1:1", "--allow", "everybody"];
    for (flags, says) in [
        (&[][..], "--upstream is missing"),
        (&["--upstream", "nowhere"], "nowhere"),
        (&allow, "--allow everybody"),
    ] {
        let mut command = example("gateway");
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.text()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.starts_with("gateway: ") && ended.stderr.contains(says), "{ended:?}");
    }
}

fn an_upstream_that_is_down_ends_the_connection() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for mixin in MIXINS {
        let gateway = gateway(mixin, &free);
        for _ in 0..3 {
            read_until_closed(tcp(gateway.endpoint()));
        }
        gateway.signal(rustix::process::Signal::TERM);
        let ended = gateway.wait();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        assert!(ended.stderr.contains(&format!("cannot connect to {free}")), "{ended:?}");
    }
}

/// Some upstreams send garbage and reset, some never read, some never answer.
fn upstreams_that_misbehave_harm_no_other_client() {
    for mixin in ["threading", "fibers"] {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let gateway = gateway(mixin, &upstream.local_addr().unwrap().to_string());
        let mut kept = Vec::new();
        for number in 0..40 {
            let mut client = tcp(gateway.endpoint());
            let (mut server, _) = upstream.accept().unwrap();
            match number % 4 {
                0 => {
                    server.write_all(&[0xff; 5000]).unwrap();
                    let mut garbage = [0; 5000];
                    client.read_exact(&mut garbage).unwrap();
                    assert_eq!(garbage, [0xff; 5000]);
                    reset(server);
                    read_until_closed(&client);
                }
                1 => reset(server),
                // Nothing of this is read.
                2 => {
                    client.set_write_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
                    while client.write(&[b'x'; 65_536]).is_ok() {}
                    kept.push((client, server));
                }
                _ => kept.push((client, server)),
            }
        }
        let mut client = tcp(gateway.endpoint());
        let (mut server, _) = upstream.accept().unwrap();
        for _ in 0..10 {
            client.write_all(b"ping").unwrap();
            let mut piece = [0; 4];
            server.read_exact(&mut piece).unwrap();
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut piece).unwrap();
            assert_eq!(&piece, b"pong", "{mixin}");
        }
        drop((client, server, kept));
        gateway.signal(rustix::process::Signal::TERM);
        assert_eq!(gateway.wait().status, Some(0));
    }
}
