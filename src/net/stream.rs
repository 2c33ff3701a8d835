//! What a stream transport delivers ([`Stream`]), and how a connection waits on it ([`Wait`]).

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::Timeout;

use crate::address::{Address, UnixName};
pub use crate::sys::poll::Interest;
use crate::sys::socket::{self, Mode};

/// The two directions of bytes behind a [`Connection`](crate::Connection).
///
/// TCP and Unix sockets are streams ([`SocketStream`]); a transport of your own may wrap them, or
/// bring another. All methods take `&self`: a server shuts a stream down while a handler is
/// reading from it.
pub trait Stream: Send + Sync + 'static {
    /// Reads what there is, waiting for the first byte; 0 at the end. `WouldBlock` after the read
    /// timeout.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some of the pieces, in order, waiting for room; returns how many bytes were taken.
    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// As [`read`](Stream::read), but never waits: `WouldBlock` when there is nothing.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// As [`write`](Stream::write), but never waits: `WouldBlock` when there is no room.
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends one or both directions. A reader that waits gets what was received, and then the end.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// How long a read waits; `None`: for ever.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// How long a write waits for room; `None`: for ever.
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// This end's address.
    fn local_addr(&self) -> io::Result<Address>;

    /// The user that the peer runs as, on this machine; `None`, the default, where it is not known.
    fn peer_uid(&self) -> io::Result<Option<u32>> {
        Ok(None)
    }

    /// How many bytes were received and not read yet; `usize::MAX`, the default, where that is not
    /// known.
    fn unread(&self) -> io::Result<usize> {
        Ok(usize::MAX)
    }

    /// How many bytes were written that the peer would lose if it sent more now and the stream
    /// were closed; 0 by default.
    fn unsent(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// Whether a read that returns less than there was room for has left nothing behind; `false`,
    /// the default, where it may have. Then it need not be tried again to know that.
    fn short_read_empties(&self) -> bool {
        false
    }

    /// Tells the peer at once what has been received, where that would otherwise wait for
    /// something to send. Nothing by default.
    fn acknowledge(&self) {}

    /// The descriptor to wait on; `None` for a stream that is always ready.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A connected TCP or Unix socket as a [`Stream`].
#[derive(Debug)]
pub struct SocketStream {
    socket: OwnedFd,
    is_tcp: bool,
}

impl From<TcpStream> for SocketStream {
    fn from(stream: TcpStream) -> SocketStream {
        SocketStream { socket: stream.into(), is_tcp: true }
    }
}

impl From<UnixStream> for SocketStream {
    fn from(stream: UnixStream) -> SocketStream {
        SocketStream { socket: stream.into(), is_tcp: false }
    }
}

impl Stream for SocketStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::receive(self.socket.as_fd(), buffer, Mode::AsSet)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(self.socket.as_fd(), pieces, Mode::AsSet)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::receive(self.socket.as_fd(), buffer, Mode::Try)
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(self.socket.as_fd(), pieces, Mode::Try)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).shutdown(how)
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        socket::set_timeout(self.socket.as_fd(), Timeout::Recv, timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        socket::set_timeout(self.socket.as_fd(), Timeout::Send, timeout)
    }

    fn local_addr(&self) -> io::Result<Address> {
        let address = socket2::SockRef::from(&self.socket).local_addr()?;
        Ok(match address.as_socket() {
            Some(ip) => Address::tcp(ip),
            None => Address::Unix(match (address.as_pathname(), address.as_abstract_namespace()) {
                (Some(path), _) => UnixName::Path(path.to_owned()),
                (None, Some(name)) => UnixName::Abstract(name.to_owned()),
                (None, None) => UnixName::Unnamed,
            }),
        })
    }

    /// By `SO_PEERCRED` ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)): who it was
    /// when it connected.
    fn peer_uid(&self) -> io::Result<Option<u32>> {
        if self.is_tcp { Ok(None) } else { socket::peer_uid(self.socket.as_fd()).map(Some) }
    }

    fn unread(&self) -> io::Result<usize> {
        Ok(rustix::io::ioctl_fionread(&self.socket)?.try_into().unwrap_or(usize::MAX))
    }

    fn unsent(&self) -> io::Result<usize> {
        if !self.is_tcp {
            // What was written to a Unix socket is with the peer already.
            return Ok(0);
        }
        let unsent = socket::unsent(self.socket.as_fd())?;
        // Of a connection that was reset Linux goes on counting what nobody will take.
        let is_lost = unsent > 0 && socket2::SockRef::from(&self.socket).peer_addr().is_err();
        Ok(if is_lost { 0 } else { unsent })
    }

    /// On a Unix socket a read may also end where a descriptor was sent along.
    fn short_read_empties(&self) -> bool {
        self.is_tcp
    }

    /// By `TCP_QUICKACK` ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)). What a peer
    /// sends in small pieces waits at its side until the one before is acknowledged (Nagle's
    /// algorithm), which a system that has nothing to send puts off for 40 ms.
    fn acknowledge(&self) {
        if self.is_tcp {
            // Of one that is broken, there is nothing to acknowledge.
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.socket, true);
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

/// What it means to wait for a stream: the one place where a connection blocks.
///
/// On a thread or process of its own a connection lets the system do it, and no `Wait` is involved.
/// A [`Mixin`](crate::Mixin) that wants to do something else meanwhile (watch for a stop, run
/// another connection) gives the request one of these with
/// [`Request::wait_with`](crate::Request::wait_with); then the connection reads and writes without
/// ever waiting itself.
pub trait Wait: Send + Sync + 'static {
    /// Returns when the stream may be ready, `TimedOut` when it was not until `deadline`
    /// (`None`: for ever).
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()>;

    /// Called before each read and each write: here others may get their turn. By default they do
    /// not.
    fn yield_now(&self) {}

    /// Lets some time pass, for what nothing tells the end of; by default the thread sleeps.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_was_received_is_acknowledged_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let here = SocketStream::from(listener.accept().unwrap().0);
        let peer = SocketStream::from(peer);
        let pass = |from: &SocketStream, to: &SocketStream| {
            from.write(&[IoSlice::new(b"!")]).unwrap();
            to.read(&mut [0]).unwrap();
        };
        // The system may have acknowledged it before this is asked, but not each time.
        let was_seen = (0..100).any(|_| {
            // Who always answers is expected to, and need not acknowledge before.
            pass(&peer, &here);
            pass(&here, &peer);
            pass(&peer, &here);
            let before = peer.unsent().unwrap();
            here.acknowledge();
            before > 0 && peer.unsent().unwrap() == 0
        });
        assert!(was_seen);
    }
}
