//! The example servers over TLS, and `gateway` to servers with TLS.

use std::fs;
use std::io::Write;
use std::process::Command;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use socketserver::{Address, rustls};

use crate::examples::{MIXINS, SERVERS};
use crate::harness::{Test, tests};
use crate::support::clients::{Client, ask, line_of, read_until_closed, rest_of, tcp};
use crate::support::process::{Process, Server, example, run};
use crate::support::proxies::Proxy;
use crate::support::{TempDir, abstract_name, wait_until};
use crate::tls_clients::{self, client_config, connect_at, file, handshake, pair};

pub(crate) const TESTS: &[Test] = tests![
    every_server_is_served_over_tls_and_not_without,
    openssl_speaks_with_echo: ["openssl"],
    a_client_certificate_is_required: ["openssl"],
    a_signal_has_the_certificate_renewed: ["curl"],
    curl_fetches_pages_through_a_gateway: ["curl", "python3"],
    a_gateway_connects_to_a_server_of_openssl: ["openssl", "curl"],
    a_gateway_connects_to_servers_whose_name_it_checks,
    haproxy_passes_tls_on_with_a_header_before_it: ["haproxy", "openssl"],
    a_gateway_sends_a_header_before_its_handshake,
    a_wrong_flag_is_one_line,
];

fn path(name: &str) -> String {
    file(name).display().to_string()
}

/// Starts an example with a certificate, that of this name.
fn start(example: &str, listen: &str, certificate: &str, flags: &[&str]) -> Server {
    let [chain, key] = pair(certificate).map(|path| path.display().to_string());
    let tls = ["--tls-cert", &chain, "--tls-key", &key];
    Server::start(example, listen, &[&tls, flags].concat())
}

fn every_server_is_served_over_tls_and_not_without() {
    for (name, _) in SERVERS {
        let listen = match name {
            "embed" => format!("unix:{}", abstract_name()),
            _ => "127.0.0.1:0".to_owned(),
        };
        let server = start(name, &listen, "localhost", &[]);
        let mut client = connect_at(server.endpoint(), client_config(None), "localhost");
        handshake(&mut client).unwrap();
        drop(client);
        let plain = Client::at(server.endpoint());
        plain.send("GET / HTTP/1.1\r\n\r\n");
        // An alert, and nothing else.
        let answer = rest_of(&plain);
        assert_eq!((answer.first(), answer.len()), (Some(&21), 7), "{name}");
        drop(plain);
        server.stop();
    }
}

/// `openssl s_client`, which trusts the authority, until the server ends the connection.
fn s_client(address: &str, options: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-verify_return_error", "-CAfile", &path("authority.pem")]);
    match address.strip_prefix("unix:") {
        Some(path) => command.args(["-unix", path]),
        None => command.args(["-connect", address]),
    };
    command.args(["-servername", "localhost", "-verify_hostname", "localhost"]).args(options);
    command
}

fn openssl_speaks_with_echo() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let socket = format!("unix:{}", directory.join("socket").display());
        for listen in ["127.0.0.1:0", &socket] {
            let server = start("echo", listen, "localhost", &["--mixin", mixin]);
            let mut client = Process::spawn(s_client(server.address(), &[]));
            for line in ["hello", "again"] {
                client.send(format!("{line}\n"));
                assert_eq!(client.line(), line, "{mixin}, {listen}");
            }
            drop(client);
            server.stop();
        }
    }
}

fn a_client_certificate_is_required() {
    let authority = path("authority.pem");
    for mixin in MIXINS {
        let flags = ["--mixin", mixin, "--tls-client-ca", &authority];
        let server = start("hello", "127.0.0.1:0", "localhost", &flags);
        for (name, is_served) in [(Some("ada"), true), (Some("eve"), false), (None, false)] {
            let mut command = s_client(server.address(), &["-ign_eof"]);
            if let Some(name) = name {
                let [chain, key] = pair(name);
                command.arg("-cert").arg(chain).arg("-key").arg(key);
            }
            let ended = run(command, "");
            let expected = if is_served { "Hello World!\n" } else { "" };
            assert_eq!(ended.text(), expected, "{mixin}, {name:?}: {ended:?}");
        }
        server.stop();
    }
}

fn a_signal_has_the_certificate_renewed() {
    for mixin in MIXINS {
        let directory = TempDir::new();
        let [chain, key] = ["chain", "key"].map(|name| directory.join(name));
        let install = |name: &str| {
            let [new_chain, new_key] = pair(name);
            // As a client of an authority does it: the files are never half written.
            for (from, to) in [(new_chain, &chain), (new_key, &key)] {
                fs::copy(from, directory.join("new")).unwrap();
                fs::rename(directory.join("new"), to).unwrap();
            }
        };
        install("localhost");
        let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
        let flags = ["--mixin", mixin, "--tls-cert", chain, "--tls-key", key];
        let server = Server::start("echo", "127.0.0.1:0", &flags);
        let connect = || connect_at(server.endpoint(), client_config(None), "localhost");
        // Whether a new connection, or each of several children, shows this one.
        let shows = |name: &str| {
            let expected = CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap();
            (0..10).all(|_| {
                let mut client = connect();
                handshake(&mut client).unwrap();
                client.conn.peer_certificates().unwrap()[0] == expected
            })
        };
        assert!(shows("localhost"), "{mixin}");
        // Others would wait for one that is open.
        let is_concurrent = !["sequential", "prefork"].contains(&mixin);
        let mut open = is_concurrent.then(connect);
        if let Some(open) = &mut open {
            assert_eq!(tls_clients::ask(open, "before"), "before", "{mixin}");
        }

        install("renewed");
        server.signal(Signal::HUP);
        wait_until("the certificate is renewed", || shows("renewed"));

        // One that is broken changes nothing.
        fs::write(chain, "no certificate").unwrap();
        server.signal(Signal::HUP);
        let line = server.error_line();
        assert!(line.contains("old certificate") && line.contains(chain), "{mixin}: {line}");
        assert!(shows("renewed"), "{mixin}");

        install("localhost");
        server.signal(Signal::HUP);
        wait_until("the certificate is renewed again", || shows("localhost"));
        if let Some(open) = &mut open {
            assert_eq!(tls_clients::ask(open, "after"), "after", "{mixin}");
        }
        drop(open);
        server.signal(Signal::TERM);
        assert_eq!(server.wait().status, Some(0), "{mixin}");
    }
}

/// Python's server of files, in this folder; and its address.
fn web(folder: &TempDir) -> (Process, String) {
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]);
    command.arg("--directory").arg(folder.path()).arg("0");
    let web = Process::spawn(command);
    // Serving HTTP on 127.0.0.1 port 40001 (http://127.0.0.1:40001/) ...
    let line = web.line();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    (web, address)
}

fn curl_fetches_pages_through_a_gateway() {
    let folder = TempDir::new();
    let page: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(folder.join("page"), &page).unwrap();
    let (_web, address) = web(&folder);
    for mixin in MIXINS {
        let flags = ["--mixin", mixin, "--upstream", &address];
        let behind = start("gateway", "127.0.0.1:0", "localhost", &flags);
        // Over TLS to the first, which has it to the second.
        let roots = path("authority.pem");
        let to_behind = ["--upstream-tls", "localhost", "--upstream-ca", &roots];
        let flags = [&["--mixin", mixin, "--upstream", behind.address()], &to_behind[..]].concat();
        let before = start("gateway", "127.0.0.1:0", "other", &flags);
        for (server, name) in [(&behind, "localhost"), (&before, "other.example")] {
            let [_, port] = server.host_and_port();
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "30", "--cacert", &roots]);
            curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
            let url = format!("https://{name}:{port}/page");
            let ended = run(
                {
                    curl.args([&url, &url]);
                    curl
                },
                "",
            );
            assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{mixin}, {name}");
            assert!(ended.stdout == page.repeat(2), "{mixin}, {name}: {}", ended.stdout.len());
        }
        before.stop();
        behind.stop();
    }
}

fn a_gateway_connects_to_a_server_of_openssl() {
    let [chain, key] = pair("localhost").map(|path| path.display().to_string());
    let mut command = Command::new("openssl");
    // Any port: it says which.
    command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", &chain, "-key", &key, "-www"]);
    let server = Process::spawn(command);
    let address = loop {
        if let Some(address) = server.line().strip_prefix("ACCEPT ") {
            break address.to_owned();
        }
    };
    let roots = path("authority.pem");
    for mixin in MIXINS {
        let upstream = ["--upstream", &address, "--upstream-tls=localhost"];
        let flags = [&upstream[..], &["--upstream-ca", &roots, "--mixin", mixin]].concat();
        let gateway = Server::start("gateway", "127.0.0.1:0", &flags);
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http0.9", "--max-time", "30"]);
        curl.arg(format!("http://{}/", gateway.address()));
        let ended = run(curl, "");
        assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{mixin}");
        assert!(ended.text().contains("TLSv1.3"), "{mixin}: {ended:?}");
        gateway.stop();
    }
}

fn a_gateway_connects_to_servers_whose_name_it_checks() {
    let roots = path("authority.pem");
    for listen in ["127.0.0.1:0".to_owned(), format!("unix:{}", abstract_name())] {
        let echo = start("echo", &listen, "other", &[]);
        for (name, is_served) in [("other.example", true), ("another.example", false)] {
            let upstream = ["--upstream", echo.address(), "--upstream-tls", name];
            let flags = [&upstream[..], &["--upstream-ca", &roots]].concat();
            let gateway = Server::start("gateway", "127.0.0.1:0", &flags);
            let mut client = tcp(gateway.endpoint());
            if is_served {
                assert_eq!(ask(&client, "hello"), "hello", "{listen}");
                drop(client);
                gateway.stop();
            } else {
                let _ = client.write_all(b"hello\n");
                read_until_closed(&mut client);
                gateway.signal(Signal::TERM);
                let ended = gateway.wait();
                assert!(ended.stderr.contains("certificate"), "{ended:?}");
            }
        }
        echo.stop();
    }
    // By default the name is that of the host.
    let echo = start("echo", "localhost:0", "localhost", &[]);
    let [_, port] = echo.host_and_port();
    let upstream = format!("localhost:{port}");
    let flags = ["--upstream-tls", "--upstream-ca", &roots, "--upstream", &upstream];
    let gateway = Server::start("gateway", "127.0.0.1:0", &flags);
    let client = tcp(gateway.endpoint());
    assert_eq!(ask(&client, "hello"), "hello");
    drop(client);
    gateway.stop();
    echo.stop();
}

const PROXIES: [&str; 2] = ["--proxy-protocol", "127.0.0.0/8"];

/// A chat room, which shows the addresses of its clients.
fn chat() -> Server {
    start("chat", "127.0.0.1:0", "localhost", &PROXIES)
}

fn haproxy_passes_tls_on_with_a_header_before_it() {
    let room = chat();
    for option in ["send-proxy", "send-proxy-v2"] {
        let proxy = Proxy::haproxy(room.address(), "", option);
        let address = Address::Tcp(proxy.listener.local_addr().unwrap());
        let mut client = connect_at(&address, client_config(None), "localhost");
        assert!(line_of(&mut client).starts_with("You're connected"), "{option}");
        let Client::Tcp(socket) = &client.sock.0 else { panic!("no TCP") };
        assert_eq!(room.line(), format!("Client joined {}", socket.local_addr().unwrap()));
        drop(client);
        assert!(room.line().starts_with("Client left"), "{option}");
        proxy.stop();
    }
    room.stop();
    // The handshake of another program, and each mixin.
    for mixin in MIXINS {
        let echo =
            start("echo", "127.0.0.1:0", "localhost", &["--mixin", mixin, PROXIES[0], PROXIES[1]]);
        let proxy = Proxy::haproxy(echo.address(), "", "send-proxy-v2");
        let address = proxy.listener.local_addr().unwrap().to_string();
        let mut client = Process::spawn(s_client(&address, &[]));
        client.send("hello\n");
        assert_eq!(client.line(), "hello", "{mixin}");
        drop(client);
        proxy.stop();
        echo.stop();
    }
}

fn a_gateway_sends_a_header_before_its_handshake() {
    let (room, roots) = (chat(), path("authority.pem"));
    for version in ["v1", "v2"] {
        let tls = ["--upstream-tls", "localhost", "--upstream-ca", &roots];
        let upstream = ["--upstream", room.address(), "--send-proxy", version];
        let gateway = Server::start("gateway", "127.0.0.1:0", &[upstream, tls].concat());
        let client = tcp(gateway.endpoint());
        assert!(line_of(&client).starts_with("You're connected"));
        let own = client.local_addr().unwrap();
        assert_eq!(room.line(), format!("Client joined {own}"), "{version}");
        drop(client);
        assert!(room.line().starts_with("Client left"));
        gateway.stop();
    }
    room.stop();
}

fn a_wrong_flag_is_one_line() {
    let [chain, key] = pair("localhost").map(|path| path.display().to_string());
    let (roots, missing) = (path("authority.pem"), path("missing.pem"));
    let gateway = ["--upstream", "127.0.0.1:1", "--upstream-ca"];
    for (name, flags, status, says) in [
        ("hello", &["--tls-cert", &chain][..], 2, "--tls-key"),
        ("hello", &["--tls-key", &key], 2, "--tls-cert"),
        ("hello", &["--tls-client-ca", &roots], 2, "--tls-cert"),
        ("hello", &["--tls-cert", &missing, "--tls-key", &key], 1, &missing),
        ("hello", &["--tls-cert", &key, "--tls-key", &key], 1, &key),
        ("embed", &["--tls-cert", &roots, "--tls-key", &key], 1, &key),
        (
            "echo",
            &["--tls-cert", &chain, "--tls-key", &key, "--listen", "udp://127.0.0.1:0"],
            2,
            "datagrams",
        ),
        ("gateway", &[&gateway[..], &[&missing, "--upstream-tls"]].concat(), 1, &missing),
        ("gateway", &[&gateway[..], &[&roots, "--upstream-tls", "a b"]].concat(), 2, "a b"),
        (
            "gateway",
            &["--upstream", "unix:@x", "--upstream-ca", &roots, "--upstream-tls"],
            2,
            "Unix socket",
        ),
    ] {
        let mut command = example(name);
        command.args(flags);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.text()), (Some(status), ""), "{name} {flags:?}: {ended:?}");
        assert!(ended.stderr.contains(says) && ended.stderr.lines().count() == 1, "{ended:?}");
    }
}
