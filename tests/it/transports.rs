//! Four transports by two mixins (the third is in `forking.rs`), and every way to name the place
//! where a server listens.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net;
use std::time::Duration;

use common::{
    Bystanders, PATIENCE, TempDir, abstract_name, bounded, echoes, lines, tcp, udp, unix,
};
use socketserver::services::Echo;
use socketserver::transport::Transport;
use socketserver::{
    Address, Connection, DatagramRequest, Endpoint, Error, HandlerResult, IntoHandler, Server,
    Spawnable, TcpServer, ThreadingTcpServer, ThreadingUdpServer, ThreadingUnixDatagramServer,
    ThreadingUnixStreamServer, UdpServer, UnixDatagramServer, UnixStreamServer,
};

/// Three clients in a row, beside other children of this process.
fn serves_three<T, M>(address: &str)
where
    T: Transport,
    M: Spawnable + Default,
    Echo: IntoHandler<T::Handler>,
{
    let _bound = bounded();
    let bystanders = Bystanders::start();
    let server = Server::<T, M>::bind(address, Echo).unwrap().spawn().unwrap();
    for text in ["first", "second\nand more\n", "third \u{1F980}\n"] {
        echoes(server.local_addr(), text);
    }
    let handle = server.handle();
    let report = server.stop(PATIENCE);
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
            let _directory = TempDir::new();
            let address: &dyn Fn(&TempDir) -> String = &$address;
            Row::<$server>::serves_three(&address(&_directory));
        }
    )*};
}

/// Takes a server's alias apart.
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
    tcp_by_name: TcpServer, |_| "localhost:0".into();
    udp_sequential: UdpServer, |_| "udp://127.0.0.1:0".into();
    udp_threading: ThreadingUdpServer, |_| "127.0.0.1:0".into();
    udp_over_ipv6: UdpServer, |_| "[::1]:0".into();
    unix_stream_sequential: UnixStreamServer, in_directory;
    unix_stream_threading: ThreadingUnixStreamServer, |d| format!("unix:{}", in_directory(d));
    unix_stream_by_abstract_name: ThreadingUnixStreamServer, |_| abstract_name();
    unix_datagram_sequential: UnixDatagramServer, in_directory;
    unix_datagram_threading: ThreadingUnixDatagramServer,
        |d| format!("unixgram:{}", in_directory(d));
    unix_datagram_by_abstract_name: UnixDatagramServer, |_| abstract_name();
}

#[test]
fn a_dual_stack_server_takes_both_families_and_shows_ipv4_as_ipv4() {
    let _bound = bounded();
    let who = |connection: &mut Connection| -> HandlerResult {
        let (peer, here) = (connection.peer_addr().clone(), connection.local_addr()?);
        writeln!(connection, "{peer}\n{here}")?;
        Ok(())
    };
    let server = ThreadingTcpServer::builder().dual_stack(true).bind("[::]:0", who).unwrap();
    let server = server.spawn().unwrap();
    let port = server.local_addr().port().unwrap();
    for host in ["127.0.0.1", "::1"] {
        let client = TcpStream::connect((host, port)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let seen: Vec<_> = lines(&client).collect();
        let own = client.local_addr().unwrap().to_string();
        assert_eq!(seen, [own, SocketAddr::new(host.parse().unwrap(), port).to_string()]);
    }
}

#[test]
fn a_dual_stack_udp_server_answers_both_families() {
    let _bound = bounded();
    let who = |request: &mut DatagramRequest| -> HandlerResult {
        let peer = request.peer_addr().to_string();
        Ok(request.write_all(peer.as_bytes())?)
    };
    let server = UdpServer::builder().dual_stack(true).bind("[::]:0", who).unwrap();
    let server = server.spawn().unwrap();
    let port = server.local_addr().port().unwrap();
    for host in ["127.0.0.1", "::1"] {
        let client = udp(Endpoint::from((host, port)));
        client.send(b"?").unwrap();
        let mut answer = [0; 100];
        let length = client.recv(&mut answer).unwrap();
        let own = format!("udp://{}", client.local_addr().unwrap());
        assert_eq!(str::from_utf8(&answer[..length]).unwrap(), own);
    }
}

#[test]
fn an_ipv6_server_is_not_dual_stack_unless_asked() {
    let _bound = bounded();
    let server = TcpServer::bind("[::]:0", Echo).unwrap();
    let port = server.local_addr().port().unwrap();
    let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn sockets_that_were_bound_elsewhere_are_served() {
    let _bound = bounded();
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
    assert!(path.exists(), "the file belongs to whoever bound the socket");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = ThreadingUdpServer::from_socket(socket, Echo).unwrap().spawn().unwrap();
    echoes(server.local_addr(), "udp");
    drop(server);

    let socket = net::UnixDatagram::bind(directory.join("datagram")).unwrap();
    let server = UnixDatagramServer::from_socket(socket, Echo).unwrap().spawn().unwrap();
    echoes(server.local_addr(), "unixgram");
}

#[test]
fn clients_that_connected_before_the_listener_was_handed_over_are_served() {
    let _bound = bounded();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = tcp(listener.local_addr().unwrap());
    let _server = ThreadingTcpServer::from_listener(listener, Echo).unwrap().spawn().unwrap();
    assert_eq!(common::ask(&client, "early"), "early");
}

#[test]
fn a_socket_file_is_removed_in_the_end_and_a_stale_one_replaced() {
    let _bound = bounded();
    let directory = TempDir::new();
    for name in ["unix", "unixgram"] {
        let path = directory.join(name);
        let address = format!("{name}:{}", path.display());
        // What a server that was killed leaves behind.
        if name == "unix" {
            drop(net::UnixListener::bind(&path).unwrap());
        } else {
            drop(net::UnixDatagram::bind(&path).unwrap());
        }
        assert!(path.exists());
        if name == "unix" {
            let server = ThreadingUnixStreamServer::bind(&*address, Echo).unwrap().spawn().unwrap();
            echoes(server.local_addr(), "replaced\n");
            assert_eq!(server.local_addr().to_string(), address);
            assert!(server.stop(PATIENCE).is_clean());
        } else {
            let server = UnixDatagramServer::bind(&*address, Echo).unwrap().spawn().unwrap();
            echoes(server.local_addr(), "replaced");
            assert_eq!(server.local_addr().to_string(), address);
            assert!(server.stop(PATIENCE).is_clean());
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
    let _bound = bounded();
    let directory = TempDir::new();
    let path = directory.join("socket");
    let first = ThreadingUnixStreamServer::bind(path.as_path(), Echo).unwrap().spawn().unwrap();
    let error = UnixStreamServer::bind(path.as_path(), Echo).unwrap_err();
    assert!(matches!(&error, Error::Bind { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    // A server of the other kind does not take it away either.
    UnixDatagramServer::bind(path.as_path(), Echo).unwrap_err();
    echoes(first.local_addr(), "still here\n");
    drop(first);

    let datagrams = UnixDatagramServer::bind(path.as_path(), Echo).unwrap().spawn().unwrap();
    UnixDatagramServer::bind(path.as_path(), Echo).unwrap_err();
    UnixStreamServer::bind(path.as_path(), Echo).unwrap_err();
    echoes(datagrams.local_addr(), "still here");
}

#[test]
fn a_full_backlog_is_no_stale_socket() {
    let _bound = bounded();
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = UnixStreamServer::builder().backlog(0).bind(path.as_path(), Echo).unwrap();
    let _waiting = unix(server.local_addr());
    let (sender, result) = std::sync::mpsc::channel();
    let second = path.clone();
    std::thread::spawn(move || {
        let bound = UnixStreamServer::bind(second.as_path(), Echo);
        let _ = sender.send(bound.map(drop).map_err(|error| error.to_string()));
    });
    let second = result.recv_timeout(Duration::from_secs(20));
    assert!(matches!(second, Ok(Err(_))), "{second:?}");
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_never_replaced() {
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
fn a_socket_that_took_the_place_of_the_servers_file_is_left_alone() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let server = UnixStreamServer::bind(path.as_path(), Echo).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _successor = net::UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}
