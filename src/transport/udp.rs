//! [`Udp`]: datagrams from a bound IPv4 or IPv6 socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::{Protocol, Type};

use super::tcp::{bind_any, ip_socket};
use super::{IncomingDatagram, Transport};
use crate::address::{Address, Endpoint, Scheme, mapped};
use crate::config::TransportOptions;
use crate::datagram::DatagramSocket;
use crate::error::Result;
use crate::handler::DatagramRequestHandler;
use crate::sys::socket::{max_queued_datagrams, receive_from, retry_interrupted};

/// UDP over IPv4 and IPv6 ([udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)).
#[derive(Debug)]
pub struct Udp {
    socket: Arc<Socket>,
    /// For the datagram that is received; its size is `max_packet_size`.
    buffer: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Socket {
    socket: UdpSocket,
    is_ipv6: bool,
}

impl From<UdpSocket> for Udp {
    fn from(socket: UdpSocket) -> Udp {
        let is_ipv6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        Udp { socket: Arc::new(Socket { socket, is_ipv6 }), buffer: Mutex::default() }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.socket.as_fd()
    }
}

impl Transport for Udp {
    type Handler = dyn DatagramRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<Udp> {
        bind_any(endpoint, Scheme::Udp, |address| {
            let socket = ip_socket(address, Type::DGRAM, Protocol::UDP, options)?;
            Ok(UdpSocket::from(socket).into())
        })
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::udp(self.socket.socket.local_addr()?))
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingDatagram> {
        let mut buffer = self.buffer.lock();
        buffer.resize(options.max_packet_size, 0);
        let (received, length, peer) = receive_from(self.as_fd(), &mut buffer)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
        Ok(IncomingDatagram {
            data: buffer[..received].to_vec(),
            length,
            peer: Address::udp(peer),
            socket: self.socket.clone(),
        })
    }

    fn max_queued(&self) -> Option<usize> {
        max_queued_datagrams(self.as_fd()).ok()
    }
}

impl DatagramSocket for Socket {
    /// May block until the network device takes the datagram, never for the peer.
    fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()> {
        let Address::Udp(peer) = *peer else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a UDP address"));
        };
        let peer = if self.is_ipv6 { mapped(peer) } else { peer };
        retry_interrupted(|| self.socket.send_to(data, peer)).map(drop)
    }
}
