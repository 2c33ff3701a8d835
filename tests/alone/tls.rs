//! TLS with clients that are not of this package, under each mixin; and servers that fork. Each server is a
//! process of its own.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::transport::{Tcp, UnixStream};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::{NAMES, mixin_named};
use crate::support::abstract_name;
use crate::support::clients::{read_until_closed, rest_of};
use crate::support::process::{Process, run};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::tls_clients::{file, pair, server_config};

pub(crate) const TESTS: &[Test] = tests![
    openssl_speaks_both_versions_and_none_that_is_older: ["openssl"],
    openssl_shows_a_client_certificate: ["openssl"],
    openssl_is_told_when_the_output_ends: ["openssl"],
    curl_fetches_a_page: ["curl"],
    python_sends_and_receives: ["python3"],
    python_ends_its_output_and_reads_on: ["python3"],
    sslscan_finds_nothing_weak: ["sslscan"],
    slow_handshakes_hold_up_children_only: ["openssl"],
    a_stop_of_a_forking_server_answers_what_was_received: ["openssl"],
    a_stop_does_not_change_why_a_handshake_failed,
    sessions_are_resumed_by_other_children: ["openssl"],
];

pub(crate) const PARTS: &[Part] = &[("tls", serve_tls)];

/// The argument: a mixin, an address, and `required` or `optional` for client certificates.
fn serve_tls(argument: &str) {
    let words: Vec<&str> = argument.split(' ').collect();
    let [name, address, rest @ ..] = &words[..] else { panic!("{argument}") };
    let mixin = mixin_named(name);
    let [chain, key] = pair("other");
    let mut tls = server_config().also_certificate(chain, key).unwrap();
    let demand = match rest {
        [] => None,
        ["required"] => Some(ClientCertificates::Required),
        ["optional"] => Some(ClientCertificates::Optional),
        _ => panic!("{argument}"),
    };
    if let Some(demand) = demand {
        tls = tls.client_certificates(demand, file("authority.pem")).unwrap();
    }
    let timeout = Duration::from_secs(2);
    if address.starts_with("unix:") {
        let builder = Builder::<UnixStream, _>::new(mixin).tls(tls).handshake_timeout(timeout);
        serve(builder.bind(*address, answer).unwrap());
    } else {
        let builder = Builder::<Tcp, _>::new(mixin).tls(tls).handshake_timeout(timeout);
        serve(builder.bind(*address, answer).unwrap());
    }
}

/// A page for HTTP; otherwise lines are echoed, and `quit` ends it.
fn answer(connection: &mut Connection) -> HandlerResult {
    let mut line = String::new();
    while connection.read_line(&mut line)? > 0 {
        match line.trim_end() {
            "quit" => break,
            "tls?" => writeln!(connection, "{:?}", connection.tls())?,
            "GET / HTTP/1.1" => {
                while connection.read_line(&mut line)? > 2 {}
                // The end of the page is that of the connection.
                write!(connection, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                for number in 0..100_000 {
                    writeln!(connection, "{number}")?;
                }
                break;
            }
            _ => connection.write_all(line.as_bytes())?,
        }
        line.clear();
    }
    Ok(())
}

fn start(mixin: &str, more: &str) -> ServerProcess {
    ServerProcess::start("tls", format!("{mixin} 127.0.0.1:0 {more}").trim_end())
}

fn port(server: &ServerProcess) -> &str {
    server.address.rsplit_once(':').unwrap().1
}

/// `openssl s_client`, which trusts the authority.
fn s_client(server: &ServerProcess, options: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", "-CAfile"]);
    command.arg(file("authority.pem"));
    match server.address.strip_prefix("unix:") {
        Some(name) => command.args(["-unix", name, "-servername", "localhost"]),
        None => command.args(["-connect", &server.address, "-servername", "localhost"]),
    };
    command.args(options);
    command
}

fn openssl_speaks_both_versions_and_none_that_is_older() {
    for mixin in NAMES {
        let server = start(mixin, "");
        for (option, version, suite) in [
            ("-tls1_3", "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
            ("-tls1_2", "TLSv1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ] {
            let ended = run(s_client(&server, &[option, "-ign_eof"]), "hello\ntls?\nquit\n");
            assert_eq!(ended.status, Some(0), "{mixin}: {ended:?}");
            let lines: Vec<_> = ended.lines().collect();
            assert_eq!((lines.len(), lines[0]), (2, "hello"), "{mixin}: {ended:?}");
            assert!(lines[1].contains(version) && lines[1].contains(suite), "{ended:?}");
        }
        for option in ["-tls1_1", "-tls1"] {
            // At this level OpenSSL itself would have it.
            let options = [option, "-cipher", "DEFAULT:@SECLEVEL=0"];
            let ended = run(s_client(&server, &options), "hello\nquit\n");
            assert!(ended.stderr.contains("alert handshake failure"), "{mixin}: {ended:?}");
        }
        let ended = server.stop();
        assert_eq!(
            (ended.count("completed"), ended.count("handshake_failed")),
            (2, 2),
            "{ended:?}"
        );
    }
}

fn openssl_shows_a_client_certificate() {
    let with = |name: &str| {
        let [chain, key] = pair(name).map(|path| path.display().to_string());
        [String::from("-cert"), chain, String::from("-key"), key]
    };
    let (ada, eve) = (with("ada"), with("eve"));
    let (ada, eve) = (ada.each_ref().map(|word| &**word), eve.each_ref().map(|word| &**word));
    for mixin in NAMES {
        for (demand, without) in [("required", false), ("optional", true)] {
            let server = start(mixin, demand);
            let asks = |options: &[&str]| {
                let ended = run(s_client(&server, options), "tls?\nquit\n");
                ended.lines().next().map(str::to_owned)
            };
            let told = asks(&[&ada[..], &["-ign_eof"]].concat()).expect("an answer");
            // With the authority's, which it has too.
            assert!(told.contains("peer_certificates: 2"), "{mixin}: {told}");
            assert_eq!(asks(&[&eve[..], &["-ign_eof"]].concat()), None, "{mixin}: {demand}");
            assert_eq!(asks(&["-ign_eof"]).is_some(), without, "{mixin}: {demand}");
            let failed = if without { 1 } else { 2 };
            assert_eq!(server.stop().count("handshake_failed"), failed, "{mixin}");
        }
    }
}

fn openssl_is_told_when_the_output_ends() {
    for mixin in NAMES {
        for address in ["127.0.0.1:0".to_owned(), format!("unix:{}", abstract_name())] {
            if address.starts_with("unix:") {
                // openssl has no abstract names.
                continue;
            }
            let server = ServerProcess::start("tls", &format!("{mixin} {address}"));
            let ended = run(s_client(&server, &["-ign_eof", "-msg"]), "hello\nquit\n");
            let notices = ended.text().matches("warning close_notify").count();
            assert_eq!(notices, 2, "{mixin}: {ended:?}");
        }
    }
}

fn curl_fetches_a_page() {
    let page: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    for mixin in NAMES {
        let server = start(mixin, "");
        let port = port(&server);
        for (name, options) in [
            ("localhost", &["--tlsv1.3"][..]),
            ("localhost", &["--tls-max", "1.2"]),
            ("other.example", &[]),
            ("a.wild.example", &[]),
        ] {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--cacert"]).arg(file("authority.pem"));
            curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1")]).args(options);
            curl.arg(format!("https://{name}:{port}/"));
            let ended = run(curl, "");
            // It insists on `close_notify`.
            assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{mixin} {name} {options:?}");
            assert!(ended.text() == page, "{mixin} {name}");
        }
        let mut curl = Command::new("curl");
        curl.args(["--silent", &format!("http://127.0.0.1:{port}/")]);
        assert_ne!(run(curl, "").status, Some(0), "{mixin}: plain HTTP");
        let ended = server.stop();
        assert_eq!(ended.count("handshake_failed"), 1, "{mixin}: {ended:?}");
    }
}

/// Connects as `tls`, and runs the rest.
const PYTHON: &str = r#"
import select, socket, ssl, sys
roots, address = sys.argv[1:3]
context = ssl.create_default_context(cafile=roots)
if address.startswith("unix:"):
    plain = socket.socket(socket.AF_UNIX)
    plain.connect(address[5:].replace("@", "\0", 1))
else:
    host, port = address.rsplit(":", 1)
    plain = socket.create_connection((host, int(port)))
plain.settimeout(30)
tls = context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
def read_exactly(length):
    data = b""
    while len(data) < length:
        data += tls.recv(length - len(data))
    return data
"#;

#[track_caller]
fn python(server: &ServerProcess, script: &str) -> String {
    let mut command = Command::new("python3");
    command.args(["-c", &[PYTHON, script].concat()]);
    command.arg(file("authority.pem")).arg(&server.address);
    let ended = run(command, "");
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
    ended.text().to_owned()
}

/// One on each transport.
fn servers(mixin: &str) -> [ServerProcess; 2] {
    ["127.0.0.1:0".to_owned(), format!("unix:{}", abstract_name())]
        .map(|address| ServerProcess::start("tls", &format!("{mixin} {address}")))
}

fn python_sends_and_receives() {
    for server in NAMES.iter().flat_map(|mixin| servers(mixin)) {
        // Both ways at the same time, more than the kernel buffers. Two threads cannot share OpenSSL's state.
        let said = python(
            &server,
            r#"
data = b"".join(b"%d\n" % number for number in range(1_000_000))
received, sent = bytearray(), 0
tls.setblocking(False)
while len(received) < len(data):
    wants_room = sent < len(data)
    select.select([tls], [tls] if wants_room else [], [], 30)
    try:
        if wants_room:
            sent += tls.send(data[sent:sent + 100_000])
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    try:
        received += tls.recv(100_000)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
print("the same" if received == data else "something else", tls.version())
tls.setblocking(True)
tls.sendall(b"quit\n")
print(tls.recv(1))
"#,
        );
        assert_eq!(said, "the same TLSv1.3\nb''\n", "{}", server.address);
        let ended = server.stop();
        assert_eq!(ended.count("completed"), 1, "{ended:?}");
    }
}

fn python_ends_its_output_and_reads_on() {
    for server in NAMES.iter().flat_map(|mixin| servers(mixin)) {
        // `unwrap` sends `close_notify`, and waits for the server's.
        let said = python(
            &server,
            r#"
tls.sendall(b"the last words\n")
print(read_exactly(15))
plain = tls.unwrap()
print(plain.recv(1))
"#,
        );
        assert_eq!(said, "b'the last words\\n'\nb''\n", "{}", server.address);
        // Without it, the server knows that there may have been more.
        python(
            &server,
            "tls.sendall(b\"a line\\n\")\nprint(read_exactly(7))\nplain.close()\ntls.close()\n",
        );
        let ended = server.stop();
        assert_eq!((ended.count("eof"), ended.count("reset")), (1, 1), "{ended:?}");
        assert_eq!(ended.logged(""), 0, "{ended:?}");
    }
}

fn sslscan_finds_nothing_weak() {
    let server = start("threading", "");
    let mut command = Command::new("sslscan");
    command.args(["--no-colour", "--sni-name=localhost", &server.address]);
    let ended = run(command, "");
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let text = ended.text();
    for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"] {
        let line = format!("{version:<9} disabled");
        assert!(text.contains(&line), "{line}: {text}");
    }
    for line in ["TLSv1.2   enabled", "TLSv1.3   enabled"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("Session renegotiation not supported"), "{text}");
    assert!(
        !text.contains("vulnerable")
            || !text.lines().any(|line| {
                line.contains("vulnerable to heartbleed") && !line.contains("not vulnerable")
            }),
        "{text}"
    );
    let ciphers: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("Preferred") || line.starts_with("Accepted"))
        .collect();
    assert!(ciphers.len() >= 6, "{text}");
    for cipher in ciphers {
        // Authenticated ciphers, with keys that are made for each connection.
        let is_aead = cipher.contains("GCM") || cipher.contains("CHACHA20");
        let is_ephemeral = cipher.contains("ECDHE") || cipher.contains("TLSv1.3");
        assert!(is_aead && is_ephemeral, "{cipher}");
    }
    server.stop();
}

// Forking.

fn slow_handshakes_hold_up_children_only() {
    let server = start("forking", "");
    let silent: Vec<_> = (0..5).map(|_| server.client()).collect();
    let begin = Instant::now();
    let ended = run(s_client(&server, &["-ign_eof"]), "hello\nquit\n");
    assert_eq!(ended.text(), "hello\n");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for client in &silent {
        read_until_closed(client);
        assert!(begin.elapsed() >= Duration::from_secs(1));
    }
    drop(silent);
    let ended = server.stop();
    assert_eq!((ended.count("handshake_failed"), ended.count("completed")), (5, 1), "{ended:?}");
    assert_eq!(ended.count("failed"), 0, "{ended:?}");
}

fn a_stop_of_a_forking_server_answers_what_was_received() {
    let server = start("forking", "");
    let lines: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    let mut client = Process::spawn(s_client(&server, &["-ign_eof"]));
    client.send(&lines);
    // The first answer: the handshake is over.
    assert_eq!(client.line(), "0");
    let stopping = thread::spawn(move || server.stop());
    let answered = client.wait();
    let ended = stopping.join().unwrap();
    let numbers: Vec<_> = answered.lines().collect();
    let are_in_order = numbers.iter().zip(1..).all(|(line, number)| **line == number.to_string());
    assert!(are_in_order, "{numbers:?}");
    // The end is said, and no truncation for the child: it has ended because of the stop.
    assert_eq!(answered.status, Some(0), "{:?}", answered.stderr);
    assert_eq!((ended.count("stopped"), ended.count("reset")), (1, 0), "{ended:?}");
}

fn a_stop_does_not_change_why_a_handshake_failed() {
    for mixin in NAMES {
        let server = start(mixin, "");
        let mut client = server.client();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut alert = [0; 7];
        client.read_exact(&mut alert).unwrap();
        // The close waits for the client, which is connected still.
        let ended = server.stop();
        let counts = (ended.count("handshake_failed"), ended.count("stopped"));
        assert_eq!(counts, (1, 0), "{mixin}: {ended:?}");
    }
}

fn sessions_are_resumed_by_other_children() {
    let server = start("forking", "");
    let directory = crate::support::TempDir::new();
    let session = directory.join("session").display().to_string();
    let asks = |option: &str| {
        let ended = run(s_client(&server, &["-ign_eof", option, &session]), "tls?\nquit\n");
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.text().to_owned()
    };
    assert!(asks("-sess_out").contains("is_resumed: false"));
    for _ in 0..2 {
        assert!(asks("-sess_in").contains("is_resumed: true"));
    }
    let mut plain = server.client();
    plain.write_all(b"not TLS\n").unwrap();
    plain.shutdown(Shutdown::Write).unwrap();
    let mut alert = [0; 1];
    plain.read_exact(&mut alert).unwrap();
    assert_eq!(alert, [21]);
    assert_eq!(rest_of(plain).len(), 6);
    assert_eq!(server.stop().count("handshake_failed"), 1);
}
