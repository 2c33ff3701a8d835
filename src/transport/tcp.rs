//! [`Tcp`]: connections from a listening IPv4 or IPv6 socket.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::Timeout;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::{IncomingStream, Transport};
use crate::address::{Address, Endpoint, Scheme};
use crate::config::TransportOptions;
use crate::error::{Error, Result};
use crate::handler::StreamRequestHandler;
use crate::net::SocketStream;
use crate::sys::socket::set_timeout;

/// TCP over IPv4 and IPv6 ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)).
#[derive(Debug)]
pub struct Tcp(TcpListener);

impl From<TcpListener> for Tcp {
    fn from(listener: TcpListener) -> Tcp {
        Tcp(listener)
    }
}

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for Tcp {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<Tcp> {
        bind_any(endpoint, Scheme::Tcp, |address| {
            let socket = ip_socket(address, Type::STREAM, Protocol::TCP, options)?;
            // Also done by `prepare`, which a transport that wraps this one may not call.
            socket.set_nonblocking(true)?;
            socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
            Ok(Tcp(socket.into()))
        })
    }

    /// On Linux an accepted connection inherits all of these options from its listener, so that they
    /// cost no system call for each connection.
    fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
        self.0.set_nonblocking(true)?;
        let socket = SockRef::from(&self.0);
        socket.set_tcp_nodelay(options.nodelay)?;
        socket.set_keepalive(options.keepalive.is_some())?;
        if let Some(keepalive) = options.keepalive {
            let times = TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.probes);
            socket.set_tcp_keepalive(&times)?;
        }
        socket.set_tcp_user_timeout(options.user_timeout)?;
        set_timeout(self.as_fd(), Timeout::Recv, options.read_timeout)?;
        set_timeout(self.as_fd(), Timeout::Send, options.write_timeout)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::tcp(self.0.local_addr()?))
    }

    fn accept(&self, _options: &TransportOptions) -> io::Result<IncomingStream> {
        let (stream, peer) = self.0.accept()?;
        Ok(IncomingStream {
            stream: Box::new(SocketStream::from(stream)),
            peer: Address::tcp(peer),
        })
    }
}

/// Binds to the first address of the endpoint for which that succeeds. If all fail, the error is
/// that of the last.
pub(super) fn bind_any<T>(
    endpoint: &Endpoint,
    scheme: Scheme,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in endpoint.resolve(scheme)? {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => failure = error,
        }
    }
    Err(Error::Bind { address: endpoint.to_string(), source: failure })
}

/// A socket that is bound to the address.
pub(super) fn ip_socket(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    options: &TransportOptions,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!options.dual_stack)?;
    }
    // For UDP it would let two servers bind to one port, of which one would get no datagrams.
    if kind == Type::STREAM {
        socket.set_reuse_address(options.reuse_address)?;
    }
    socket.set_reuse_port(options.reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
