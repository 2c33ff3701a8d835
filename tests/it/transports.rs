//! Four transports by two mixins (`Forking` is in `alone/forking.rs`), and every way to name the
//! address of a server.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net;
use std::sync::mpsc;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{ask, datagram_of, echoes, lines, tcp, udp, unix};
use crate::support::servers::serve_at;
use crate::support::system::Bystanders;
use crate::support::{TIMEOUT, TempDir, abstract_name, next};

/// Serves three clients one after the other, beside other children of this process.
fn serves_three<T, M>(address: &str)
where
    T: Transport,
    M: Spawnable + Default,
    Echo: IntoHandler<T::Handler>,
{
    let bystanders = Bystanders::start();
    let server = serve_at(address, Server::<T, M>::builder(), Echo);
    for text in ["first", "second\nand more\n", "third \u{1F980}\n"] {
        echoes(server.local_addr(), text);
    }
    let handle = server.handle();
    let report = server.stop(TIMEOUT);
    assert!(report.is_clean(), "{report:?}");
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.finished, stats.active), (3, 3, 0));
    assert_eq!((stats.failed, stats.panicked, stats.accept_errors), (0, 0, 0));
    bystanders.are_unharmed();
}

macro_rules! matrix {
    ($($name:ident: $server:ty, $address:expr;)*) => {$(
        #[test]
        fn $name() {
            let directory = TempDir::new();
            let address: &dyn Fn(&TempDir) -> String = &$address;
            Row::<$server>::serves_three(&address(&directory));
        }
    )*};
}

/// Names the parameters of the alias of a server.
struct Row<S>(std::marker::PhantomData<S>);

impl<T: Transport, M: Spawnable + Default> Row<Server<T, M>>
where
    Echo: IntoHandler<T::Handler>,
{
    fn serves_three(address: &str) {
        serves_three::<T, M>(address);
    }
}

fn in_directory(directory: &TempDir) -> String {
    directory.join("socket").display().to_string()
}

matrix! {
    tcp_sequential: TcpServer, |_| "127.0.0.1:0".into();
    tcp_threading: ThreadingTcpServer, |_| "127.0.0.1:0".into();
    tcp_over_ipv6: ThreadingTcpServer, |_| "tcp://[::1]:0".into();
    tcp_at_an_ipv4_mapped_address: TcpServer, |_| "[::ffff:127.0.0.1]:0".into();
    tcp_by_name: TcpServer, |_| "localhost:0".into();
    udp_sequential: UdpServer, |_| "udp://127.0.0.1:0".into();
    udp_threading: ThreadingUdpServer, |_| "127.0.0.1:0".into();
    udp_over_ipv6: UdpServer, |_| "[::1]:0".into();
    udp_at_an_ipv4_mapped_address: UdpServer, |_| "[::ffff:127.0.0.1]:0".into();
    unix_stream_sequential: UnixStreamServer, in_directory;
    unix_stream_threading: ThreadingUnixStreamServer, |d| format!("unix:{}", in_directory(d));
    unix_stream_by_abstract_name: ThreadingUnixStreamServer, |_| abstract_name();
    unix_datagram_sequential: UnixDatagramServer, in_directory;
    unix_datagram_threading: ThreadingUnixDatagramServer,
        |d| format!("unixgram:{}", in_directory(d));
    unix_datagram_by_abstract_name: UnixDatagramServer, |_| abstract_name();
}

#[test]
fn a_dual_stack_server_serves_both_families_and_shows_ipv4_addresses_as_such() {
    let addresses = |connection: &mut Connection| -> HandlerResult {
        let (peer, local) = (connection.peer_addr().clone(), connection.local_addr()?);
        writeln!(connection, "{peer}\n{local}")?;
        Ok(())
    };
    let server = serve_at("[::]:0", ThreadingTcpServer::builder().dual_stack(true), addresses);
    let port = server.local_addr().port().unwrap();
    for host in ["127.0.0.1", "::1"] {
        let client = tcp((host, port));
        let seen: Vec<_> = lines(&client).collect();
        let own = client.local_addr().unwrap().to_string();
        assert_eq!(seen, [own, SocketAddr::new(host.parse().unwrap(), port).to_string()]);
    }
}

#[test]
fn a_dual_stack_udp_server_answers_both_families() {
    let address = |request: &mut DatagramRequest| -> HandlerResult {
        let peer = request.peer_addr().to_string();
        Ok(request.write_all(peer.as_bytes())?)
    };
    let server = serve_at("[::]:0", UdpServer::builder().dual_stack(true), address);
    let port = server.local_addr().port().unwrap();
    for host in ["127.0.0.1", "::1"] {
        let client = udp((host, port));
        client.send(b"?").unwrap();
        let own = format!("udp://{}", client.local_addr().unwrap());
        assert_eq!(datagram_of(|buffer| client.recv(buffer)), own.as_bytes());
    }
}

#[test]
fn an_ipv6_server_is_not_dual_stack_unless_asked() {
    let server = TcpServer::bind("[::]:0", Echo).unwrap();
    let port = server.local_addr().port().unwrap();
    let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn sockets_that_the_program_has_bound_are_served() {
    let directory = TempDir::new();
    let path = directory.join("stream");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = ThreadingTcpServer::from_listener(listener, Echo).unwrap().spawn().unwrap();
    assert_eq!(*server.local_addr(), Address::Tcp(address));
    echoes(server.local_addr(), "tcp\n");
    drop(server);

    let listener = net::UnixListener::bind(&path).unwrap();
    let server = UnixStreamServer::from_listener(listener, Echo).unwrap().spawn().unwrap();
    echoes(server.local_addr(), "unix\n");
    drop(server);
    assert!(path.exists(), "the server has removed a file that it has not made");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = ThreadingUdpServer::from_socket(socket, Echo).unwrap().spawn().unwrap();
    echoes(server.local_addr(), "udp");
    drop(server);

    let socket = net::UnixDatagram::bind(directory.join("datagram")).unwrap();
    let server = UnixDatagramServer::from_socket(socket, Echo).unwrap().spawn().unwrap();
    echoes(server.local_addr(), "unixgram");
}

#[test]
fn a_child_process_does_not_inherit_a_socket_that_the_program_has_bound() {
    fn inheritable<S: AsFd>(socket: S) -> S {
        fcntl_setfd(&socket, FdFlags::empty()).unwrap();
        socket
    }
    fn is_inherited(server: impl AsFd) -> bool {
        !fcntl_getfd(server).unwrap().contains(FdFlags::CLOEXEC)
    }
    let directory = TempDir::new();
    let listener = inheritable(TcpListener::bind("127.0.0.1:0").unwrap());
    assert!(!is_inherited(TcpServer::from_listener(listener, Echo).unwrap()));
    let listener = inheritable(net::UnixListener::bind(directory.join("stream")).unwrap());
    assert!(!is_inherited(UnixStreamServer::from_listener(listener, Echo).unwrap()));
    let socket = inheritable(UdpSocket::bind("127.0.0.1:0").unwrap());
    assert!(!is_inherited(UdpServer::from_socket(socket, Echo).unwrap()));
    let socket = inheritable(net::UnixDatagram::bind(directory.join("datagram")).unwrap());
    assert!(!is_inherited(UnixDatagramServer::from_socket(socket, Echo).unwrap()));
}

#[test]
fn clients_that_connected_before_the_listener_was_handed_over_are_served() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = tcp(listener.local_addr().unwrap());
    let _server = ThreadingTcpServer::from_listener(listener, Echo).unwrap().spawn().unwrap();
    assert_eq!(ask(&client, "early"), "early");
}

#[test]
fn a_stale_socket_file_is_replaced_and_removed_by_the_stop() {
    let directory = TempDir::new();
    for name in ["unix", "unixgram"] {
        let path = directory.join(name);
        let address = format!("{name}:{}", path.display());
        // Such a file is left by a server that was killed.
        if name == "unix" {
            drop(net::UnixListener::bind(&path).unwrap());
        } else {
            drop(net::UnixDatagram::bind(&path).unwrap());
        }
        assert!(path.exists());
        if name == "unix" {
            let server = serve_at(&address, ThreadingUnixStreamServer::builder(), Echo);
            echoes(server.local_addr(), "replaced\n");
            assert_eq!(server.local_addr().to_string(), address);
            assert!(server.stop(TIMEOUT).is_clean());
        } else {
            let server = serve_at(&address, UnixDatagramServer::builder(), Echo);
            echoes(server.local_addr(), "replaced");
            assert_eq!(server.local_addr().to_string(), address);
            assert!(server.stop(TIMEOUT).is_clean());
        }
        assert!(!path.exists(), "{name} left its file behind");
    }
}

#[test]
fn a_server_that_never_served_removes_its_socket_file() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = UnixStreamServer::bind(path.as_path(), Echo).unwrap();
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_socket_file_in_use_is_an_error_and_stays() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let first = ThreadingUnixStreamServer::bind(path.as_path(), Echo).unwrap().spawn().unwrap();
    let error = UnixStreamServer::bind(path.as_path(), Echo).unwrap_err();
    assert!(matches!(&error, Error::Bind { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    // Neither does a server of the other kind replace it.
    UnixDatagramServer::bind(path.as_path(), Echo).unwrap_err();
    echoes(first.local_addr(), "still here\n");
    drop(first);

    let datagrams = UnixDatagramServer::bind(path.as_path(), Echo).unwrap().spawn().unwrap();
    UnixDatagramServer::bind(path.as_path(), Echo).unwrap_err();
    UnixStreamServer::bind(path.as_path(), Echo).unwrap_err();
    echoes(datagrams.local_addr(), "still here");
}

#[test]
fn a_socket_with_a_full_backlog_is_not_replaced() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = UnixStreamServer::builder().backlog(0).bind(path.as_path(), Echo).unwrap();
    let _waiting = unix(server.local_addr());
    let (sender, result) = mpsc::channel();
    let second = path.clone();
    std::thread::spawn(move || {
        let bound = UnixStreamServer::bind(second.as_path(), Echo);
        let _ = sender.send(bound.map(drop).map_err(|error| error.to_string()));
    });
    next(&result).unwrap_err();
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let directory = TempDir::new();
    let path = directory.join("precious");
    std::fs::write(&path, "data").unwrap();
    for error in [
        UnixStreamServer::bind(path.as_path(), Echo).map(drop).unwrap_err(),
        UnixDatagramServer::bind(path.as_path(), Echo).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("precious"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn a_socket_that_has_replaced_the_servers_file_is_not_removed() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = UnixStreamServer::bind(path.as_path(), Echo).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = net::UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}
