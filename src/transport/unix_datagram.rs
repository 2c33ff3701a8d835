//! [`UnixDatagram`]: datagrams from a bound Unix socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net;
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::Type;

use super::socket_file::{self, SocketFile};
use super::{Transport, sysctl};
use crate::address::{Address, Endpoint, Scheme, UnixName};
use crate::config::TransportOptions;
use crate::datagram::DatagramSocket;
use crate::error::{Error, Result};
use crate::handler::DatagramRequestHandler;
use crate::request::IncomingDatagram;
use crate::sys::socket::{next_length, receive_from};
use crate::sys::unix_name::abstract_name_of;

/// Unix datagram sockets ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).
///
/// A client that expects a reply must bind its socket to a name. Socket files are replaced and
/// removed as by [`UnixStream`](super::UnixStream).
///
/// Linux counts replies that a client has not read against the send buffer of the server's socket
/// (`SO_SNDBUF`). So a client that reads none of its replies can make replies to other clients fail
/// with `WouldBlock`; it does not delay them.
#[derive(Debug)]
pub struct UnixDatagram {
    /// `None` for an abstract name, and for a socket that was bound elsewhere. Before the socket, so
    /// that it is dropped first.
    pub(super) file: Option<SocketFile>,
    socket: Arc<net::UnixDatagram>,
    /// For the datagram that is received.
    buffer: Mutex<Vec<u8>>,
    /// The longest that a sender without privileges can send.
    longest: usize,
}

impl From<net::UnixDatagram> for UnixDatagram {
    fn from(socket: net::UnixDatagram) -> UnixDatagram {
        // The system doubles what a program sets as its SO_SNDBUF.
        let longest = 2 * sysctl("net/core/wmem_max").unwrap_or(212_992);
        UnixDatagram { file: None, socket: Arc::new(socket), buffer: Mutex::default(), longest }
    }
}

impl AsFd for UnixDatagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Transport for UnixDatagram {
    type Handler = dyn DatagramRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<UnixDatagram> {
        let name = endpoint.unix_name(Scheme::UnixDatagram)?;
        let (socket, file) = socket_file::bind(name, Type::DGRAM, options)
            .map_err(|source| Error::Bind { address: endpoint.to_string(), source })?;
        let mut bound = UnixDatagram::from(net::UnixDatagram::from(socket));
        bound.file = file;
        Ok(bound)
    }

    /// Non-blocking, so that a reply never waits for a client whose queue is full.
    fn prepare(&self, _options: &TransportOptions) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::UnixDatagram(UnixName::from_std(&self.socket.local_addr()?)))
    }

    fn set_owner(&self, yes: bool) {
        self.file.iter().for_each(|file| file.set_own(yes));
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingDatagram> {
        // Another process may receive from the same socket, and take this one: then the next may be
        // longer.
        let room = next_length(self.as_fd())?.max(self.longest);
        let room = room.min(options.max_packet_size.unwrap_or(usize::MAX));
        let mut buffer = self.buffer.lock();
        if buffer.len() < room {
            // The system gives it memory where it is written to.
            *buffer = vec![0; room];
        }
        let (received, length, peer) = receive_from(self.as_fd(), &mut buffer)?;
        Ok(IncomingDatagram {
            data: buffer[..received].to_vec(),
            length,
            peer: Address::UnixDatagram(peer.map_or(UnixName::Unnamed, name_of)),
            local: None,
            socket: self.socket.clone(),
        })
    }

    /// The longest queue that the system allows. It does not limit the queue between sockets that are
    /// connected to each other.
    fn max_queued(&self) -> Option<usize> {
        match self.socket.peer_addr() {
            Ok(_) => None,
            Err(_) => sysctl("net/unix/max_dgram_qlen").map(|datagrams| datagrams + 1),
        }
    }
}

fn name_of(peer: rustix::net::SocketAddrAny) -> UnixName {
    use std::os::unix::ffi::OsStringExt;
    let Ok(peer) = rustix::net::SocketAddrUnix::try_from(peer) else { return UnixName::Unnamed };
    if let Some(path) = peer.path_bytes() {
        UnixName::Path(std::ffi::OsString::from_vec(path.to_vec()).into())
    } else if let Some(name) = abstract_name_of(&peer) {
        UnixName::Abstract(name.to_vec())
    } else {
        UnixName::Unnamed
    }
}

impl DatagramSocket for net::UnixDatagram {
    fn send_to(&self, data: &[u8], peer: &Address) -> io::Result<()> {
        let Address::UnixDatagram(peer) = peer else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a Unix datagram address"));
        };
        self.send_to_addr(data, &peer.socket_addr()?).map(drop)
    }
}
