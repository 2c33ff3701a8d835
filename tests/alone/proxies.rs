//! Servers behind proxies that are not of this package: HAProxy, nginx, and curl, which plays one.

use std::fs::Permissions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;

use parking_lot::Mutex;
use socketserver::proxy_protocol::Tlv;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::spawnable_mixins;
use crate::support::clients::{ask, lines};
use crate::support::process::{Process, run};
use crate::support::proxies::Proxy;
use crate::support::server_process::{self, Part, ServerProcess};
use crate::support::servers::{answers, serve_at, serve_with};
use crate::support::{TempDir, next, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_server_behind_haproxy_sees_the_client: ["haproxy"],
    a_forking_server_behind_haproxy_sees_the_client: ["haproxy"],
    haproxys_health_checks_are_its_own: ["haproxy"],
    haproxy_says_what_the_client_used_of_tls: ["haproxy", "openssl"],
    a_server_behind_nginx_sees_the_client: ["nginx", "/usr/lib/nginx/modules/ngx_stream_module.so"],
    curl_plays_a_proxy: ["curl"],
];

pub(crate) const PARTS: &[Part] = &[("proxied", serve_proxied)];

fn proxies() -> ProxyProtocol {
    let me = rustix::process::getuid().as_raw();
    Access::closed().allow(IpAddr::from([127, 0, 0, 1])).allow(Peers::Uid(me)).into()
}

/// Answers each line with its client and the proxy's name for the connection.
fn who() -> impl StreamRequestHandler {
    answers(|line, connection| {
        let header = connection.proxy_header();
        let id = header.and_then(ProxyHeader::unique_id).unwrap_or_default().escape_ascii();
        let (id, client) = (id.to_string(), connection.peer_addr().clone());
        let is_proxied = connection.proxied_by().is_some();
        Ok(writeln!(connection, "{line}: {client} {is_proxied} {id}")?)
    })
}

/// A client of this proxy is shown with its own address.
#[track_caller]
fn passes_on_who_the_client_is(proxy: &Proxy, names_it: bool) {
    for _ in 0..3 {
        let client = proxy.client();
        let own = client.local_addr().unwrap();
        let id = if names_it { own.port().to_string() } else { String::new() };
        assert_eq!(ask(&client, "hello"), format!("hello: {own} true {id}"));
        assert_eq!(ask(&client, "again"), format!("again: {own} true {id}"));
    }
}

/// What `server` is told to send, and whether it has a unique id.
const HAPROXY_OPTIONS: [(&str, bool); 3] = [
    ("send-proxy", false),
    ("send-proxy-v2", false),
    ("send-proxy-v2 proxy-v2-options unique-id,crc32c", true),
];

fn a_server_behind_haproxy_sees_the_client() {
    let directory = TempDir::new();
    let path = format!("unix:{}", directory.join("socket").display());
    let passes_on = |server: RunningServer, options, names_it| {
        let proxy = Proxy::haproxy(&server.local_addr().to_string(), "", options);
        passes_on_who_the_client_is(&proxy, names_it);
        proxy.stop();
        assert_eq!(server.stats().bad_proxy_header, 0);
    };
    for (options, names_it) in HAPROXY_OPTIONS {
        for mixin in spawnable_mixins() {
            let builder = TcpServer::builder().mixin(mixin).proxy_protocol(proxies());
            passes_on(serve_with(builder, who()), options, names_it);
        }
        for mixin in spawnable_mixins() {
            let builder = UnixStreamServer::builder().mixin(mixin).proxy_protocol(proxies());
            passes_on(serve_at(&path, builder, who()), options, names_it);
        }
    }
}

fn serve_proxied(address: &str) {
    let access = Access::open().deny(IpAddr::from([192, 0, 2, 1]));
    let builder = ForkingTcpServer::builder().access(access).proxy_protocol(proxies());
    server_process::serve(builder.bind(address, who()).unwrap());
}

fn a_forking_server_behind_haproxy_sees_the_client() {
    let server = ServerProcess::start("proxied", "127.0.0.1:0");
    for (options, names_it) in HAPROXY_OPTIONS {
        let proxy = Proxy::haproxy(&server.address, "", options);
        passes_on_who_the_client_is(&proxy, names_it);
        proxy.stop();
    }
    // A client that the access list denies, one that sends no header, and one that sends nothing yet.
    for beginning in ["PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "hello\n"] {
        let mut client = server.client();
        client.write_all(beginning.as_bytes()).unwrap();
        assert_eq!(lines(&client).count(), 0);
    }
    wait_until("the children of before have ended", || server.children().is_empty());
    let silent = server.client();
    wait_until("a child waits for its header", || !server.children().is_empty());
    let ended = server.stop();
    let counts = ["denied", "bad_proxy_header", "stopped"].map(|name| ended.count(name));
    assert_eq!(counts, [1, 1, 1], "{ended:?}");
    assert!(ended.says("drained 1, forced 0"), "{ended:?}");
    assert_eq!(lines(&silent).count(), 0);
}

fn haproxys_health_checks_are_its_own() {
    let (sender, seen) = channel();
    let sender = Mutex::new(sender);
    let tells = handler_fn(move |connection| {
        let header = connection.proxy_header().cloned();
        let _ = sender.lock().send((header, connection.proxied_by().cloned()));
        Ok(())
    });
    let server = serve_with(ThreadingTcpServer::builder().proxy_protocol(proxies()), tells);
    let address = server.local_addr().to_string();
    let proxy = Proxy::haproxy(&address, "", "send-proxy-v2 check check-send-proxy inter 100ms");
    for _ in 0..3 {
        let (header, proxied_by) = next(&seen);
        assert_eq!((header, proxied_by), (Some(ProxyHeader::local()), None));
    }
    proxy.stop();
    assert_eq!(server.stats().bad_proxy_header, 0);
}

/// Makes a certificate of this name and its key, which signs it, and returns the paths of both files.
fn certificate(directory: &TempDir, name: &str) -> [String; 2] {
    let path = |end: &str| directory.join(&format!("{name}.{end}")).display().to_string();
    let [certificate, key] = [path("pem"), path("pem.key")];
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]);
    command.args(["-subj", &format!("/CN={name}"), "-out", &certificate, "-keyout", &key]);
    let ended = run(command, "");
    assert_eq!(ended.status, Some(0), "{ended:?}");
    [certificate, key]
}

/// Answers a line with what the proxy says of the client's TLS.
fn tls() -> impl StreamRequestHandler {
    answers(|_, connection| {
        let header = connection.proxy_header().expect("a header");
        let shown = |bytes: Option<&[u8]>| bytes.unwrap_or(b"-").escape_ascii().to_string();
        let authority = header.authority().unwrap_or("-");
        let mut answer = format!("{} {authority}", shown(header.alpn()));
        match header.ssl() {
            None => answer.push_str(" no tls"),
            Some(ssl) => {
                let texts = [
                    ssl.version(),
                    ssl.cipher(),
                    ssl.key_algorithm(),
                    ssl.signature_algorithm(),
                    ssl.common_name(),
                ];
                for text in texts {
                    answer.push(' ');
                    answer.push_str(text.unwrap_or("-"));
                }
                let has = [ssl.has_certificate(), ssl.is_verified()];
                answer.push_str(&format!(" {has:?}"));
            }
        }
        assert!(header.tlvs().all(|tlv| tlv.kind != Tlv::CRC32C));
        Ok(writeln!(connection, "{answer}")?)
    })
}

fn haproxy_says_what_the_client_used_of_tls() {
    let directory = TempDir::new();
    let [own, _] = certificate(&directory, "proxy.example");
    let [client, client_key] = certificate(&directory, "client.example");
    let server = serve_with(ThreadingTcpServer::builder().proxy_protocol(proxies()), tls());
    let options = "send-proxy-v2 proxy-v2-options \
                   ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id";
    let bind = format!("ssl crt {own} ca-file {client} verify optional alpn h2,echo/1");
    let proxy = Proxy::haproxy(&server.local_addr().to_string(), &bind, options);
    let address = proxy.listener.local_addr().unwrap().to_string();
    let answer = |flags: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-connect", &address]).args(flags);
        let mut process = Process::spawn(command);
        process.send("hello\n");
        let line = process.line();
        process.end_of_input();
        line
    };
    assert_eq!(
        answer(&["-servername", "a.example", "-alpn", "echo/1", "-tls1_3"]),
        "echo/1 a.example TLSv1.3 TLS_AES_256_GCM_SHA384 RSA2048 RSA-SHA256 - [false, false]"
    );
    let with_certificate = ["-noservername", "-tls1_2", "-cert", &client, "-key", &client_key];
    assert_eq!(
        answer(&with_certificate),
        "- - TLSv1.2 ECDHE-RSA-AES256-GCM-SHA384 RSA2048 RSA-SHA256 client.example [true, true]"
    );
    proxy.stop();
    // Without TLS.
    let proxy = Proxy::haproxy(&server.local_addr().to_string(), "", options);
    assert_eq!(ask(&proxy.client(), "hello"), "- - no tls");
    proxy.stop();
}

fn a_server_behind_nginx_sees_the_client() {
    let directory = TempDir::new();
    let path = format!("unix:{}", directory.join("socket").display());
    for mixin in spawnable_mixins() {
        let builder = TcpServer::builder().mixin(mixin).proxy_protocol(proxies());
        let server = serve_with(builder, who());
        let proxy = Proxy::nginx(&server.local_addr().to_string());
        passes_on_who_the_client_is(&proxy, false);
        proxy.stop();
        assert_eq!(server.stats().bad_proxy_header, 0);
    }
    // Its worker may be another user.
    let builder = ThreadingUnixStreamServer::builder();
    let builder = builder.proxy_protocol(ProxyProtocol::from(Access::open()));
    let server = serve_at(&path, builder, who());
    let proxy = Proxy::nginx(&path);
    for (path, mode) in [(directory.path(), 0o755), (Path::new(&path[5..]), 0o777)] {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    passes_on_who_the_client_is(&proxy, false);
    proxy.stop();
    drop(server);
}

fn curl_plays_a_proxy() {
    let answers_http = handler_fn(|connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 2 {
            line.clear();
        }
        let header = connection.proxy_header().expect("a header");
        let [source, destination] = [header.source(), header.destination()].map(|a| a.unwrap());
        let body = format!("{source} to {destination}");
        write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        Ok(())
    });
    let builder = ThreadingTcpServer::builder().proxy_protocol(proxies());
    let server = serve_with(builder, answers_http);
    let address = server.local_addr().to_string();
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "--haproxy-protocol", &format!("http://{address}/")]);
    command.args(["-w", "\n%{local_ip}:%{local_port} to %{remote_ip}:%{remote_port}"]);
    let ended = run(command, "");
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    let [said, own] = &ended.lines().collect::<Vec<_>>()[..] else { panic!("{ended:?}") };
    assert_eq!(said, own);
    // Without the flag it is no proxy.
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", "*", &format!("http://{address}/")]);
    assert_ne!(run(command, "").status, Some(0));
    wait_until("it is counted", || server.stats().bad_proxy_header == 1);
}
