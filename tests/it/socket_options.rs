//! What a program sets on a server's sockets before they listen, and what the system says of a peer.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{getgid, getpid, getuid};
use socketserver::extend::Transport;
use socketserver::services::Echo;
use socketserver::socket2::{Domain, Socket, Type};
use socketserver::*;

use crate::support::clients::{ask, echoes, tcp, unix};
use crate::support::servers::{answers, both_mixins, serve, serve_at, serve_with};
use crate::support::{TempDir, abstract_name};

#[test]
fn the_file_of_a_unix_socket_has_the_mode_that_is_asked_for() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    for scheme in ["unix", "unixgram"] {
        for mode in [0o660, 0o600, 0o777, 0o222] {
            let address = format!("{scheme}:{}", path.display());
            let server = match scheme {
                "unix" => serve_at(&address, UnixStreamServer::builder().socket_mode(mode), Echo),
                _ => serve_at(&address, UnixDatagramServer::builder().socket_mode(mode), Echo),
            };
            let file = path.metadata().unwrap();
            assert!(file.file_type().is_socket());
            assert_eq!(file.permissions().mode() & 0o777, mode, "{address} {mode:o}");
            if mode & 0o200 != 0 {
                echoes(address.parse::<Endpoint>().unwrap(), "hello\n");
            }
            drop(server);
            assert!(!path.exists());
        }
    }
}

#[test]
fn owner_and_group_may_be_the_processes_own() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let builder = UnixStreamServer::builder().socket_owner(uid).socket_group(gid);
    let server = serve_at(path.to_str().unwrap(), builder, Echo);
    let file = path.metadata().unwrap();
    assert_eq!((file.uid(), file.gid()), (uid, gid));
    // What is not asked for is as without this.
    let other = directory.join("other");
    let _plain = UnixListener::bind(&other).unwrap();
    assert_eq!(file.mode(), other.metadata().unwrap().mode());
    drop(server);
}

/// Binding fails with an error of this kind that says this, and leaves no file.
#[track_caller]
fn fails<T: Transport, M: socketserver::extend::Mixin>(
    bound: Result<Server<T, M>>,
    kind: ErrorKind,
    says: &str,
) {
    let Err(Error::Bind { address, source, .. }) = bound else { panic!("it is bound") };
    assert_eq!(source.kind(), kind, "{source}");
    assert!(source.to_string().contains(says), "{address}: {source}");
}

#[test]
fn what_cannot_be_set_is_an_error_of_bind_and_leaves_no_file() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let builder = || UnixStreamServer::builder();
    // 0o660 without its prefix.
    let decimal = builder().socket_mode(660).bind(&*path, Echo);
    fails(decimal, ErrorKind::InvalidInput, "0o1224 is not a mode");
    if cfg!(all(target_os = "linux", not(socketserver_portable))) {
        let name = format!("unix:{}", abstract_name());
        let no_file = "an abstract name has no mode";
        fails(builder().socket_mode(0o600).bind(&*name, Echo), ErrorKind::InvalidInput, no_file);
        fails(builder().socket_owner(0).bind(&*name, Echo), ErrorKind::InvalidInput, no_file);
        let datagrams = UnixDatagramServer::builder().socket_group(0);
        let name = format!("unixgram:{}", abstract_name());
        fails(datagrams.bind(&*name, Echo), ErrorKind::InvalidInput, no_file);
    }
    if !getuid().is_root() {
        let other = builder().socket_owner(0).bind(&*path, Echo);
        fails(other, ErrorKind::PermissionDenied, "cannot set its owner");
    }
    assert!(!path.exists());
}

#[test]
fn a_further_unix_socket_of_a_tcp_server_has_the_mode_too() {
    let directory = TempDir::new();
    let [first, second] = ["first", "second"].map(|name| directory.join(name));
    let builder = ThreadingTcpServer::builder().socket_mode(0o620);
    let server = serve_with(builder.also(&*first), Echo);
    server.handle().listen(&*second).unwrap();
    for path in [&first, &second] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o620);
    }
}

#[test]
fn the_socket_hook_is_called_with_each_socket_before_it_is_bound() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_hook = seen.clone();
    let hook = move |socket: &Socket| {
        let address = socket.local_addr()?;
        let is_bound = address.as_socket().map_or(!address.is_unnamed(), |ip| ip.port() != 0);
        assert!(!is_bound);
        seen_by_hook.lock().push((socket.local_addr()?.domain(), socket.r#type()?));
        Ok(())
    };
    let unix_name = || format!("unix:{}", abstract_name());
    let builder = ThreadingTcpServer::builder().socket(hook.clone());
    let server = serve_with(builder.also("[::1]:0").also(&*unix_name()), Echo);
    server.handle().listen(&*unix_name()).unwrap();
    let stream = [Domain::IPV4, Domain::IPV6, Domain::UNIX, Domain::UNIX];
    assert_eq!(std::mem::take(&mut *seen.lock()), stream.map(|domain| (domain, Type::STREAM)));
    echoes(server.local_addr(), "hello\n");
    let builder = ThreadingUdpServer::builder().socket(hook);
    let server = serve_with(builder.also(&*format!("unixgram:{}", abstract_name())), Echo);
    let datagram = [Domain::IPV4, Domain::UNIX].map(|domain| (domain, Type::DGRAM));
    assert_eq!(std::mem::take(&mut *seen.lock()), datagram);
    drop(server);
}

#[test]
fn the_socket_hook_fails_the_bind() {
    let failing = |_: &Socket| Err(std::io::Error::new(ErrorKind::PermissionDenied, "not today"));
    let directory = TempDir::new();
    let path = directory.join("socket");
    let builder = || ThreadingTcpServer::builder().socket(failing);
    fails(builder().bind("127.0.0.1:0", Echo), ErrorKind::PermissionDenied, "not today");
    let unix = UnixStreamServer::builder().socket(failing);
    fails(unix.bind(&*path, Echo), ErrorKind::PermissionDenied, "not today");
    assert!(!path.exists());
}

/// The options that the documentation names, as far as this process may set them. They are Linux's.
#[cfg(target_os = "linux")]
#[test]
fn the_options_of_the_documentation_can_be_set() {
    // RFC 5737 keeps this address for documentation; the machine has no such.
    let free = ThreadingTcpServer::builder().socket(|socket| socket.set_freebind_v4(true));
    assert_eq!(serve_at("192.0.2.1:0", free, Echo).local_addr().ip(), "192.0.2.1".parse().ok());
    assert!(ThreadingTcpServer::bind("192.0.2.1:0", Echo).is_err());

    let on_loopback =
        ThreadingTcpServer::builder().socket(|socket| socket.bind_device(Some(b"lo")));
    let server = serve_at("127.0.0.1:0", on_loopback, Echo);
    echoes(server.local_addr(), "hello\n");

    let transparent =
        ThreadingTcpServer::builder().socket(|socket| socket.set_ip_transparent_v4(true));
    match transparent.bind("192.0.2.1:0", Echo) {
        Ok(server) => {
            assert_eq!(server.local_addr().ip(), "192.0.2.1".parse().ok());
        }
        // It takes `CAP_NET_ADMIN`.
        refused => fails(refused, ErrorKind::PermissionDenied, "permitted"),
    }

    let shared = || ThreadingTcpServer::builder().reuse_port(true);
    let first = serve_with(shared(), Echo);
    let again = ThreadingTcpServer::builder().socket(|socket| socket.set_reuse_port(true));
    let _second = serve_at(&first.local_addr().to_string(), again, Echo);
}

#[test]
fn the_credentials_of_a_peer_are_those_of_its_process() {
    let credentials = || {
        answers(|_, connection| {
            let peer = connection.peer_credentials()?;
            let numbers = peer.map(|peer| (peer.pid, peer.uid, peer.gid));
            Ok(writeln!(connection, "{numbers:?}")?)
        })
    };
    let own = (Some(getpid().as_raw_pid() as u32), getuid().as_raw(), getgid().as_raw());
    for mixin in both_mixins() {
        let address = format!("unix:{}", abstract_name());
        let server = serve_at(&address, UnixStreamServer::builder().mixin(mixin), credentials());
        let client: UnixStream = unix(server.local_addr());
        assert_eq!(ask(&client, "who?"), format!("{:?}", Some(own)));
    }
    let server = serve(credentials());
    assert_eq!(ask(&tcp(server.local_addr()), "who?"), "None");
}
