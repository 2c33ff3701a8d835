//! [`Tcp`]: connections from a listening IPv4 or IPv6 socket.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::Timeout;
use socket2::{Domain, Protocol, Socket, Type};

use super::Transport;
use super::each_address::bind_each;
use crate::address::{Address, Endpoint, Scheme};
use crate::config::TransportOptions;
use crate::error::{Error, Result};
use crate::handler::StreamRequestHandler;
use crate::net::{SocketStream, set_tcp_options};
use crate::request::IncomingStream;
use crate::sys::exec::make_descriptor;
use crate::sys::socket::{INHERITS_OPTIONS, accept_queue_length, set_timeout};

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
        bind_any(endpoint, Scheme::Tcp, |address| listen(address, options))
    }

    fn bind_each(endpoint: &Endpoint, options: &TransportOptions) -> Result<Vec<Tcp>> {
        bind_each(endpoint, Scheme::Tcp, |address| listen(address, options))
    }

    /// On Linux an accepted connection inherits all of these options from its listener, so that
    /// they cost no system call for each connection.
    fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
        self.0.set_nonblocking(true)?;
        set_connection_options(self.as_fd(), options)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::tcp(self.0.local_addr()?))
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingStream> {
        let (stream, peer) = make_descriptor(|| self.0.accept())?;
        if !INHERITS_OPTIONS {
            set_connection_options(stream.as_fd(), options)?;
        }
        Ok(IncomingStream {
            stream: Box::new(SocketStream::from(stream)),
            peer: Address::tcp(peer),
        })
    }

    fn max_queued(&self) -> Option<usize> {
        accept_queue_length(self.as_fd()).ok()
    }
}

/// Sets the options of a connection: on it, or on its listener.
fn set_connection_options(socket: BorrowedFd<'_>, options: &TransportOptions) -> io::Result<()> {
    set_tcp_options(socket, options)?;
    set_timeout(socket, Timeout::Recv, options.read_timeout)?;
    set_timeout(socket, Timeout::Send, options.write_timeout)
}

fn listen(address: SocketAddr, options: &TransportOptions) -> io::Result<Tcp> {
    let socket = ip_socket(address, Type::STREAM, Protocol::TCP, options)?;
    // Also done by `prepare`, which a transport that wraps this one may not call.
    socket.set_nonblocking(true)?;
    socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(Tcp(socket.into()))
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
    options.prepare_socket(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Other systems have other limits.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::config::Keepalive;

    /// The options of a socket that is prepared with these: keepalive's, and the user timeout.
    fn prepared(time: Duration, probes: u32) -> (Duration, Duration, u32, Option<Duration>) {
        let options = TransportOptions {
            keepalive: Some(Keepalive { idle: time, interval: time, probes }),
            user_timeout: Some(time),
            read_timeout: Some(time),
            write_timeout: Some(time),
            ..TransportOptions::default()
        };
        let tcp = Tcp::bind(&"127.0.0.1:0".parse().unwrap(), &options).unwrap();
        tcp.prepare(&options).unwrap();
        let socket = SockRef::from(&tcp.0);
        // `None` is a time that the kernel does not count. It rounds up to its clock.
        for timeout in [socket.read_timeout().unwrap(), socket.write_timeout().unwrap()] {
            let timeout = timeout.unwrap_or(Duration::MAX);
            assert!(timeout >= time && timeout - time < Duration::from_millis(100), "{timeout:?}");
        }
        (
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
            socket.tcp_user_timeout().unwrap(),
        )
    }

    #[test]
    fn options_are_rounded_up_and_become_the_least_or_the_largest_that_linux_allows() {
        let (second, longest) = (Duration::from_secs(1), Duration::from_secs(32_767));
        let days_24 = Duration::from_millis(2_147_483_647);
        for (time, probes, expected) in [
            (Duration::ZERO, 0, (second, second, 1, Duration::from_millis(1))),
            (Duration::from_micros(500_500), 1, (second, second, 1, Duration::from_millis(501))),
            (
                Duration::from_millis(1500),
                127,
                (2 * second, 2 * second, 127, Duration::from_millis(1500)),
            ),
            (12 * 3600 * second, 200, (longest, longest, 127, 12 * 3600 * second)),
            (30 * 24 * 3600 * second, 128, (longest, longest, 127, days_24)),
            (Duration::MAX, u32::MAX, (longest, longest, 127, days_24)),
        ] {
            let (idle, interval, retries, user_timeout) = prepared(time, probes);
            assert_eq!((idle, interval, retries, user_timeout.unwrap()), expected, "{time:?}");
        }
    }
}
