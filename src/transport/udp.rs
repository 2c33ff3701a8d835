//! [`Udp`]: datagrams from a bound IPv4 or IPv6 socket.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::{Protocol, Type};

use super::Transport;
use super::each_address::bind_each;
use super::tcp::{bind_any, ip_socket};
use crate::address::{Address, Endpoint, Scheme, mapped};
use crate::config::TransportOptions;
use crate::datagram::DatagramSocket;
use crate::error::Result;
use crate::handler::DatagramRequestHandler;
use crate::request::IncomingDatagram;
use crate::sys::pktinfo::{self, Received};
use crate::sys::socket::{max_queued_datagrams, receive_from, retry_interrupted};

/// UDP over IPv4 and IPv6 ([udp(7)](https://man7.org/linux/man-pages/man7/udp.7.html)).
///
/// A socket that is bound to all addresses (`0.0.0.0`, `[::]`) replies from the one that a datagram
/// was sent to. It takes the system about half a microsecond more for each datagram than a socket
/// that is bound to one address.
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
    /// The port of a socket that is bound to all addresses of the machine, which tells for each
    /// datagram the one that it was sent to. `None`: the socket is bound to one address.
    wildcard_port: Option<u16>,
}

impl From<UdpSocket> for Udp {
    fn from(socket: UdpSocket) -> Udp {
        let local = socket.local_addr().ok();
        let is_ipv6 = local.is_some_and(|local| local.is_ipv6());
        let is_wildcard = |local: &SocketAddr| local.ip().to_canonical().is_unspecified();
        let wildcard_port = local.filter(is_wildcard).map(|local| local.port());
        // Without these options, replies are sent from the address that the system chooses.
        let has_pktinfo = || pktinfo::enable(socket.as_fd(), is_ipv6).is_ok();
        let wildcard_port = wildcard_port.filter(|_| has_pktinfo());
        let socket = Arc::new(Socket { socket, is_ipv6, wildcard_port });
        Udp { socket, buffer: Mutex::default() }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.socket.as_fd()
    }
}

/// More than any UDP datagram has: its header counts its bytes, and its own eight, in 16 bits.
const MAX_LENGTH: usize = 65_535;

impl Transport for Udp {
    type Handler = dyn DatagramRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<Udp> {
        bind_any(endpoint, Scheme::Udp, |address| bind(address, options))
    }

    fn bind_each(endpoint: &Endpoint, options: &TransportOptions) -> Result<Vec<Udp>> {
        bind_each(endpoint, Scheme::Udp, |address| bind(address, options))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::udp(self.socket.socket.local_addr()?))
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingDatagram> {
        let mut buffer = self.buffer.lock();
        buffer.resize(options.max_packet_size.unwrap_or(MAX_LENGTH).min(MAX_LENGTH), 0);
        let (length, peer, local) = match self.socket.wildcard_port {
            None => {
                let (_, length, peer) = receive_from(self.as_fd(), &mut buffer)?;
                (length, peer.and_then(|peer| SocketAddr::try_from(peer).ok()), None)
            }
            Some(port) => {
                let Received { length, peer, mut local } =
                    pktinfo::receive(self.as_fd(), &mut buffer)?;
                local.iter_mut().for_each(|local| local.set_port(port));
                (length, peer, local)
            }
        };
        let peer = peer.ok_or(io::ErrorKind::InvalidData)?;
        Ok(IncomingDatagram {
            data: buffer[..length.min(buffer.len())].to_vec(),
            length,
            peer: Address::udp(peer),
            local: local.map(Address::udp),
            socket: self.socket.clone(),
        })
    }

    fn max_queued(&self) -> Option<usize> {
        max_queued_datagrams(self.as_fd()).ok()
    }
}

fn bind(address: SocketAddr, options: &TransportOptions) -> io::Result<Udp> {
    let socket = ip_socket(address, Type::DGRAM, Protocol::UDP, options)?;
    Ok(UdpSocket::from(socket).into())
}

impl DatagramSocket for Socket {
    /// May block until the network device takes the datagram, never for the peer.
    fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()> {
        let peer = self.peer(peer)?;
        retry_interrupted(|| self.socket.send_to(data, peer)).map(drop)
    }

    fn send_from(&self, local: &Address, data: &[u8], peer: &Address) -> io::Result<()> {
        let Some(local) = local.socket_addr() else { return self.send_to(data, peer) };
        let peer = self.peer(peer)?;
        retry_interrupted(|| pktinfo::send(self.socket.as_fd(), data, peer, local))
    }
}

impl Socket {
    /// A peer's address in the form that the socket takes.
    fn peer(&self, peer: &Address) -> io::Result<SocketAddr> {
        match *peer {
            Address::Udp(peer) => Ok(if self.is_ipv6 { mapped(peer) } else { peer }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a UDP address")),
        }
    }
}
