//! [`Connected`]: one connection, which another program has accepted.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};

use super::Transport;
use crate::address::{Address, Endpoint, UnixName};
use crate::config::TransportOptions;
use crate::error::{Error, Result};
use crate::handler::StreamRequestHandler;
use crate::net::{SocketStream, set_tcp_options};
use crate::request::IncomingStream;
use crate::sys::waker::Waker;

/// A transport that delivers one connection.
pub(crate) struct Connected {
    connection: Mutex<Option<IncomingStream>>,
    local: Address,
    /// Readable as long as the connection is not taken.
    pending: Waker,
}

impl Connected {
    pub(crate) fn new(descriptor: OwnedFd) -> Result<Connected> {
        let connection = incoming(descriptor.into()).map_err(|reason| Error::Inherited {
            socket: "the connection to serve".to_owned(),
            reason,
        })?;
        let local = connection.stream.local_addr().map_err(Error::system("read the address"))?;
        let pending = Waker::new().map_err(Error::system("make an eventfd"))?;
        pending.wake();
        Ok(Connected { connection: Mutex::new(Some(connection)), local, pending })
    }
}

/// The stream and its peer, or why it is none.
fn incoming(socket: Socket) -> std::result::Result<IncomingStream, String> {
    // Fails for what is not a socket.
    let kind = socket.r#type().map_err(|error| error.to_string())?;
    let domain = socket.local_addr().map_err(|error| error.to_string())?.domain();
    if kind != Type::STREAM {
        return Err(format!("it is a socket of {kind:?}"));
    }
    // Fails for one that is not connected.
    let peer = socket.peer_addr().map_err(|error| error.to_string())?;
    // The other program may have made it non-blocking.
    socket.set_nonblocking(false).map_err(|error| error.to_string())?;
    let (stream, peer) = match peer.as_socket() {
        Some(ip) => (SocketStream::from(TcpStream::from(socket)), Address::tcp(ip)),
        None if domain == Domain::UNIX => {
            let stream = UnixStream::from(socket);
            let peer = stream.peer_addr().map_err(|error| error.to_string())?;
            (SocketStream::from(stream), Address::Unix(UnixName::from_std(&peer)))
        }
        None => return Err(format!("it is a {domain:?} socket")),
    };
    Ok(IncomingStream { stream: Box::new(stream), peer })
}

impl AsFd for Connected {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pending.as_fd()
    }
}

impl Transport for Connected {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, _options: &TransportOptions) -> Result<Connected> {
        let reason = "a connection is accepted elsewhere".to_owned();
        Err(Error::Address { text: endpoint.to_string(), reason })
    }

    fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
        let connection = self.connection.lock();
        let Some(IncomingStream { stream, peer }) = &*connection else { return Ok(()) };
        if let (Some(fd), Address::Tcp(_)) = (stream.as_fd(), peer) {
            set_tcp_options(fd, options)?;
        }
        stream.set_read_timeout(options.read_timeout)?;
        stream.set_write_timeout(options.write_timeout)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.local.clone())
    }

    fn accept(&self, _options: &TransportOptions) -> io::Result<IncomingStream> {
        self.pending.clear();
        self.connection.lock().take().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn max_queued(&self) -> Option<usize> {
        Some(usize::from(self.connection.lock().is_some()))
    }
}
