//! Clients of all four transports.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{self, UnixDatagram, UnixStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use socketserver::*;

use super::{TIMEOUT, abstract_name, bound_test};

/// A client of a TCP server.
pub(crate) fn tcp(address: impl Into<Endpoint>) -> TcpStream {
    bound_test();
    let addresses = address.into().resolve(Scheme::Tcp).unwrap();
    let stream = TcpStream::connect(&addresses[..]).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// A client of a TCP server, connected from this local address. All of 127.0.0.0/8 is local.
pub(crate) fn tcp_from(local: &str, server: impl Into<Endpoint>) -> TcpStream {
    bound_test();
    let server = server.into().resolve(Scheme::Tcp).unwrap()[0];
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(local.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.into()
}

/// A Unix socket's name as std has it.
pub(crate) fn unix_address(name: &UnixName) -> net::SocketAddr {
    name.socket_addr().unwrap()
}

/// A client of a Unix stream server.
pub(crate) fn unix(address: impl Into<Endpoint>) -> UnixStream {
    bound_test();
    let name = unix_address(address.into().unix_name(Scheme::Unix).unwrap());
    let stream = UnixStream::connect_addr(&name).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// A client of a UDP server.
pub(crate) fn udp(address: impl Into<Endpoint>) -> UdpSocket {
    bound_test();
    let server = address.into().resolve(Scheme::Udp).unwrap()[0];
    let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// A client of a Unix datagram server, bound to a name, so that the server can reply.
pub(crate) fn unixgram(address: impl Into<Endpoint>) -> UnixDatagram {
    bound_test();
    let name: Endpoint = format!("unixgram:{}", abstract_name()).parse().unwrap();
    let name = unix_address(name.unix_name(Scheme::UnixDatagram).unwrap());
    let socket = UnixDatagram::bind_addr(&name).unwrap();
    let server = unix_address(address.into().unix_name(Scheme::UnixDatagram).unwrap());
    socket.connect_addr(&server).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// Sends a line and returns the answer, both without line endings.
#[track_caller]
pub(crate) fn ask<S>(mut stream: &S, line: &str) -> String
where
    for<'a> &'a S: Read + Write,
{
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    line_of(stream)
}

/// Reads one line, and no byte more.
#[track_caller]
pub(crate) fn line_of(mut stream: impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while uninterrupted(|| stream.read(&mut byte)) == 1 {
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Reads to end-of-file.
#[track_caller]
pub(crate) fn rest_of(mut stream: impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

/// Reads to end-of-file or to a reset.
#[track_caller]
pub(crate) fn read_until_closed(mut stream: impl Read) {
    match io::copy(&mut stream, &mut io::sink()) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
}

/// All lines of a stream, buffered, without their ends.
pub(crate) fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stream).lines().map(Result::unwrap)
}

/// Closes a connection by a reset (RST).
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends one request to an echo server of any transport, and checks the answer.
#[track_caller]
pub(crate) fn echoes(address: impl Into<Endpoint>, text: &str) {
    assert_eq!(round_trip(address, text.as_bytes()), text.as_bytes());
}

/// The answer to one request to a server of any transport. A stream client shuts down its writing
/// side and reads to end-of-file.
#[track_caller]
pub(crate) fn round_trip(address: impl Into<Endpoint>, data: &[u8]) -> Vec<u8> {
    let endpoint = address.into();
    match endpoint.scheme() {
        None | Some(Scheme::Tcp) => {
            let mut stream = tcp(endpoint);
            stream.write_all(data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            rest_of(stream)
        }
        Some(Scheme::Unix) => {
            let mut stream = unix(endpoint);
            stream.write_all(data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            rest_of(stream)
        }
        Some(Scheme::Udp) => {
            let socket = udp(endpoint);
            socket.send(data).unwrap();
            datagram_of(|buffer| socket.recv(buffer))
        }
        Some(Scheme::UnixDatagram) => {
            let socket = unixgram(endpoint);
            socket.send(data).unwrap();
            datagram_of(|buffer| socket.recv(buffer))
        }
        Some(scheme) => unreachable!("{scheme:?}"),
    }
}

/// The next datagram, by this call of `recv`.
#[track_caller]
pub(crate) fn datagram_of(mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = uninterrupted(|| receive(&mut buffer));
    buffer.truncate(length);
    buffer
}

/// Repeats a call after EINTR, for those that std does not repeat.
#[track_caller]
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> T {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result.unwrap(),
        }
    }
}

/// A client of a stream server, TCP or Unix.
pub(crate) enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    pub(crate) fn of(server: &RunningServer) -> Client {
        Client::at(server.local_addr())
    }

    /// Of the server at this address.
    pub(crate) fn at(address: impl Into<Endpoint>) -> Client {
        let endpoint = address.into();
        match endpoint.is_unix() {
            true => Client::Unix(unix(endpoint)),
            false => Client::Tcp(tcp(endpoint)),
        }
    }

    #[track_caller]
    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            Client::Tcp(stream) => stream.shutdown(how).unwrap(),
            Client::Unix(stream) => stream.shutdown(how).unwrap(),
        }
    }

    /// Another handle of its socket, for a thread.
    pub(crate) fn file(&self) -> std::fs::File {
        let socket = match self {
            Client::Tcp(stream) => OwnedFd::from(stream.try_clone().unwrap()),
            Client::Unix(stream) => OwnedFd::from(stream.try_clone().unwrap()),
        };
        socket.into()
    }

    /// Sends all of this.
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        (&mut &*self).write_all(bytes.as_ref()).unwrap();
    }
}

impl Read for &Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => (&*stream).read(buffer),
            Client::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => (&*stream).write(bytes),
            Client::Unix(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
