//! One connection that another program has accepted: `Builder::serve_connection`.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use socketserver::*;

use crate::support::clients::{ask, rest_of};

fn serve(connection: impl Into<OwnedFd>) -> Result<CloseReason> {
    TcpServer::builder().serve_connection(connection, services::Echo)
}

#[test]
fn a_connection_is_served_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, peer) = listener.accept().unwrap();
    // As a super-server may have made it.
    accepted.set_nonblocking(true).unwrap();
    let handler = handler_fn(move |connection| {
        assert_eq!(connection.peer_addr().socket_addr(), Some(peer));
        let mut line = String::new();
        connection.read_line(&mut line)?;
        Ok(connection.write_all(line.to_uppercase().as_bytes())?)
    });
    let server =
        thread::spawn(move || ThreadingTcpServer::builder().serve_connection(accepted, handler));
    assert_eq!(ask(&client, "hello"), "HELLO");
    drop(client);
    assert_eq!(server.join().unwrap().unwrap(), CloseReason::Completed);

    let (client, accepted) = UnixStream::pair().unwrap();
    let server = thread::spawn(|| serve(accepted));
    assert_eq!(ask(&client, "hello"), "hello");
    drop(client);
    assert_eq!(server.join().unwrap().unwrap(), CloseReason::Eof);
}

#[test]
fn the_settings_of_a_server_hold() {
    let (client, accepted) = UnixStream::pair().unwrap();
    let builder = ThreadingUnixStreamServer::builder().idle_timeout(Duration::from_millis(50));
    let reason = builder.serve_connection(accepted, services::Echo).unwrap();
    assert_eq!(reason, CloseReason::IdleTimeout);
    assert_eq!(rest_of(client), b"");

    let (client, accepted) = UnixStream::pair().unwrap();
    let builder = UnixStreamServer::builder().access(Access::closed());
    let reason = builder.serve_connection(accepted, services::Echo).unwrap();
    assert_eq!(reason, CloseReason::Denied);
    assert_eq!(rest_of(client), b"");
}

#[test]
fn what_is_no_connection_is_an_error() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for descriptor in [OwnedFd::from(udp), listener.into(), file.into()] {
        let error = serve(descriptor).unwrap_err();
        assert!(error.to_string().starts_with("the connection to serve: "), "{error}");
    }
}
