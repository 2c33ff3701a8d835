//! [`UnixStream`]: connections from a listening Unix socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

use socket2::Type;

use super::Transport;
use super::socket_file::{self, SocketFile};
use crate::address::{Address, Endpoint, Scheme, UnixName};
use crate::config::TransportOptions;
use crate::error::{Error, Result};
use crate::handler::StreamRequestHandler;
use crate::net::{SocketStream, Stream};
use crate::request::IncomingStream;
use crate::sys::exec::make_descriptor;
use crate::sys::socket::max_backlog;

/// Unix stream sockets ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).
///
/// A stale socket file, on which no process listens, is replaced. The file is removed when the
/// server is dropped. The file of a listener that was bound elsewhere is left alone.
#[derive(Debug)]
pub struct UnixStream {
    /// `None` for an abstract name, and for a listener that was bound elsewhere. Before the listener,
    /// so that it is dropped first.
    pub(super) file: Option<SocketFile>,
    listener: UnixListener,
    /// The length of its queue, as it was asked for. `u32::MAX` for a listener that was bound
    /// elsewhere.
    backlog: u32,
}

impl From<UnixListener> for UnixStream {
    fn from(listener: UnixListener) -> UnixStream {
        UnixStream { file: None, listener, backlog: u32::MAX }
    }
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Transport for UnixStream {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<UnixStream> {
        let name = endpoint.unix_name(Scheme::Unix)?;
        let (socket, file) = socket_file::bind(name, Type::STREAM, options)
            .and_then(|(socket, file)| {
                // Also done by `prepare`, which a transport that wraps this one may not call.
                socket.set_nonblocking(true)?;
                // Now that the file has its permissions.
                socket.listen(options.backlog.try_into().unwrap_or(i32::MAX))?;
                Ok((socket, file))
            })
            .map_err(|source| Error::Bind { address: endpoint.to_string(), source })?;
        Ok(UnixStream { file, listener: socket.into(), backlog: options.backlog })
    }

    fn prepare(&self, _options: &TransportOptions) -> io::Result<()> {
        self.listener.set_nonblocking(true)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unix(UnixName::from_std(&self.listener.local_addr()?)))
    }

    fn set_owner(&self, yes: bool) {
        self.file.iter().for_each(|file| file.set_own(yes));
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingStream> {
        let (stream, peer) = make_descriptor(|| self.listener.accept())?;
        let stream = SocketStream::from(stream);
        // Unlike TCP, a Unix connection does not inherit the timeouts of its listener.
        if options.read_timeout.is_some() {
            stream.set_read_timeout(options.read_timeout)?;
        }
        if options.write_timeout.is_some() {
            stream.set_write_timeout(options.write_timeout)?;
        }
        Ok(IncomingStream {
            stream: Box::new(stream),
            peer: Address::Unix(UnixName::from_std(&peer)),
        })
    }

    /// The longest that the queue can be, which is one more than the backlog. Only a netlink socket
    /// tells how long it is.
    fn max_queued(&self) -> Option<usize> {
        Some(max_backlog()?.min(self.backlog as usize) + 1)
    }
}
