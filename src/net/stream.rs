//! [`Stream`], the interface of a connected socket, with its implementation for TCP and Unix
//! sockets ([`SocketStream`]); and [`Wait`], the way in which a connection waits for its stream.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::Timeout;

use super::PeerCredentials;
use crate::address::{Address, UnixName};
pub use crate::sys::poll::Interest;
use crate::sys::poll::{has_urgent_mark, poll_each};
use crate::sys::socket::{self, Mode, StreamSocket};

/// A bidirectional byte stream, on which a [`Connection`](crate::Connection) is built.
///
/// [`SocketStream`] implements it for TCP and Unix sockets; a transport of your own may wrap that,
/// or implement another. All methods take `&self`, because a server shuts a stream down while a
/// handler reads from it.
pub trait Stream: Any + Send + Sync {
    /// Reads some bytes, and blocks until there are any; 0 is EOF.
    ///
    /// # Errors
    /// `WouldBlock` after the [read timeout](Stream::set_read_timeout).
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes bytes of the slices, in order, and blocks until there is room for some; returns how
    /// many were written.
    ///
    /// # Errors
    /// `WouldBlock` after the [write timeout](Stream::set_write_timeout).
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// As [`read`](Stream::read), but without blocking.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to read.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// As [`write`](Stream::write), but without blocking.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Shuts one direction down, or both, also while another thread reads or writes: reads return
    /// what was received, and then EOF; writes fail.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// Sets how long [`read`](Stream::read) blocks; `None`: for ever, zero: the shortest time
    /// that the stream can.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Sets how long [`write`](Stream::write) blocks; `None`: for ever, zero: the shortest time
    /// that the stream can.
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// The address of this end.
    fn local_addr(&self) -> io::Result<Address>;

    /// The process on this machine that the peer is; `None`, the default, if it is not known.
    fn peer_credentials(&self) -> io::Result<Option<PeerCredentials>> {
        Ok(None)
    }

    /// How many bytes were received and not read yet, or the most that they can be; `usize::MAX`, the
    /// default, if that is not known. A stream that is closed with unread bytes may be reset. When a message timeout is over,
    /// so many bytes are read yet; none if it is not known.
    fn unread(&self) -> io::Result<usize> {
        Ok(usize::MAX)
    }

    /// How many of the written bytes the peer would lose if the stream were reset now; 0 by
    /// default.
    fn unsent(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// How many of the written bytes the peer has not taken yet: those that it has not acknowledged
    /// (TCP), or not read (a Unix socket, where the pieces count that the kernel queues, of up to
    /// 48 KiB). A write that finds no room goes on waiting as long as this falls. 0, the default, if
    /// it is not known: then only what can be written counts.
    fn unacknowledged(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// Whether a read that does not fill its buffer has read everything that was received, so that
    /// the next one would block. `false`, the default, if that is not sure.
    ///
    /// An exception is TCP's urgent mark, at which a read ends too: a [`Wait`] must return then. One
    /// by poll(2) does; one by edge-triggered events has to ask for `EPOLLPRI`.
    fn short_read_empties(&self) -> bool {
        false
    }

    /// Whether the bytes of this stream are those of its [descriptor](Stream::as_fd), a socket, so that
    /// splice(2) may carry them, and the stream holds none itself. `false`, the default, for a stream that
    /// changes them.
    fn can_splice(&self) -> bool {
        false
    }

    /// The stream that carries the bytes of this one, if this one changes them, as TLS does: the header of
    /// a [proxy](crate::Builder::proxy_protocol) is read from it. `None`, the default, for one that does
    /// not.
    fn carrier(&self) -> Option<&dyn Stream> {
        None
    }

    /// Whether a read would not block, for a stream of which its descriptor does not say that: because
    /// it holds input itself, or needs more than is there, as TLS does, which decrypts whole records. It
    /// does not block. `None`, the default: whether the descriptor is readable.
    fn has_input(&self) -> Option<bool> {
        None
    }

    /// Whether the stream holds bytes that a write has returned as written, and that the socket had no
    /// room for. Then the connection writes on, with empty slices if there is nothing else: such a write
    /// returns 0 when all is sent, and fails as others do. `false` by default.
    fn has_pending_output(&self) -> bool {
        false
    }

    /// Says to the peer that no output follows, if the protocol has a message for that. It neither blocks
    /// nor shuts the write side, and what there is no room for is [pending](Stream::has_pending_output).
    /// Does nothing by default.
    fn end_output(&self) -> io::Result<()> {
        Ok(())
    }

    /// Acknowledges what was received at once, if the protocol would otherwise delay that until
    /// there is something to send. Does nothing by default.
    fn acknowledge(&self) {}

    /// The descriptor to poll for readiness; `None` for a stream that is always ready.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A connected TCP or Unix socket as a [`Stream`].
#[derive(Debug)]
pub struct SocketStream {
    socket: StreamSocket,
    is_tcp: bool,
}

impl From<TcpStream> for SocketStream {
    fn from(stream: TcpStream) -> SocketStream {
        SocketStream { socket: StreamSocket::new(stream.into()), is_tcp: true }
    }
}

impl From<UnixStream> for SocketStream {
    fn from(stream: UnixStream) -> SocketStream {
        SocketStream { socket: StreamSocket::new(stream.into()), is_tcp: false }
    }
}

impl Stream for SocketStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer, Mode::AsSet)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(self.socket.as_fd(), slices, Mode::AsSet)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer, Mode::Try)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(self.socket.as_fd(), slices, Mode::Try)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
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

    fn peer_credentials(&self) -> io::Result<Option<PeerCredentials>> {
        if self.is_tcp { Ok(None) } else { PeerCredentials::of(self.socket.as_fd()).map(Some) }
    }

    fn unread(&self) -> io::Result<usize> {
        let fd = self.socket.as_fd();
        if self.is_tcp && has_urgent_mark(fd) {
            // `FIONREAD` stops at the mark.
            return socket::unread_past_mark(fd);
        }
        socket::unread(fd)
    }

    fn unsent(&self) -> io::Result<usize> {
        if !self.is_tcp {
            // Bytes that are written to a Unix socket are in the peer's receive queue at once.
            return Ok(0);
        }
        let unsent = socket::unacknowledged(self.socket.as_fd())?;
        // After an RST Linux still counts the bytes, though they will never be sent.
        let is_reset = unsent > 0 && socket2::SockRef::from(&self.socket).peer_addr().is_err();
        Ok(if is_reset { 0 } else { unsent })
    }

    fn unacknowledged(&self) -> io::Result<usize> {
        socket::unacknowledged(self.socket.as_fd())
    }

    /// Only for TCP: on a Unix socket a read also ends at bytes that carry a descriptor
    /// (`SCM_RIGHTS`).
    fn short_read_empties(&self) -> bool {
        self.is_tcp && !self.socket.input_has_ended()
    }

    fn has_input(&self) -> Option<bool> {
        self.socket.input_has_ended().then_some(true)
    }

    fn can_splice(&self) -> bool {
        true
    }

    /// `TCP_QUICKACK` ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)). A peer that
    /// sends small segments waits for the acknowledgement of one before it sends the next (Nagle's
    /// algorithm), and Linux delays the acknowledgement by 40 ms if there is no data to send.
    fn acknowledge(&self) {
        if self.is_tcp {
            socket::acknowledge(self.socket.as_fd());
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

/// How a connection waits for its stream: with it, this is the only place where the connection
/// blocks.
///
/// A connection that has a thread or process to itself needs no `Wait`: its reads and writes block.
/// A [`Mixin`](crate::extend::Mixin) that does something else meanwhile (watches for a stop, runs
/// another connection) gives the request one with
/// [`Request::wait_with`](crate::extend::Request::wait_with). Then the connection's reads and writes
/// never block; it calls [`wait`](Wait::wait) instead.
pub trait Wait: Send + Sync + 'static {
    /// Waits until the stream may be ready. It may return early.
    ///
    /// # Errors
    /// `TimedOut` if the stream is not ready by `deadline` (`None`: wait for ever).
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()>;

    /// Waits until one of several streams may be ready, and says so by
    /// [`set_ready`](WaitSource::set_ready). It may return early, with none. By default the thread
    /// blocks in [poll(2)].
    ///
    /// # Errors
    /// `TimedOut` if none is ready by `deadline` (`None`: wait for ever).
    ///
    /// [poll(2)]: https://man7.org/linux/man-pages/man2/poll.2.html
    fn wait_any(&self, sources: &[WaitSource<'_>], deadline: Option<Instant>) -> io::Result<()> {
        poll_any(sources, None, deadline).map(drop)
    }

    /// Called before each read and each write, so that another connection may run first. Does
    /// nothing by default.
    fn yield_now(&self) {}

    /// Waits for this long, where there is no event to wait for. By default the thread sleeps.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// How another stream waits that the same handler uses: an upstream that it connects to. `None`, the
    /// default: its reads and writes block.
    fn for_upstream(&self) -> Option<Box<dyn Wait>> {
        None
    }

    /// A number by which a mixin may know the stream of this `Wait`, when it is one of several in
    /// [`wait_any`](Wait::wait_any). `None` by default.
    fn number(&self) -> Option<u64> {
        None
    }
}

/// One of several streams that a connection waits for ([`Wait::wait_any`]).
pub struct WaitSource<'a> {
    stream: &'a dyn Stream,
    number: Option<u64>,
    interest: Interest,
    is_ready: Cell<bool>,
}

impl<'a> WaitSource<'a> {
    pub(crate) fn new(
        stream: &'a dyn Stream,
        number: Option<u64>,
        interest: Interest,
    ) -> WaitSource<'a> {
        WaitSource { stream, number, interest, is_ready: Cell::new(false) }
    }

    /// The stream.
    pub fn stream(&self) -> &'a dyn Stream {
        self.stream
    }

    /// The [number](Wait::number) of its own `Wait`.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// What it is to be ready for.
    pub fn interest(&self) -> Interest {
        self.interest
    }

    /// Says whether it may be ready.
    pub fn set_ready(&self, is_ready: bool) {
        self.is_ready.set(is_ready);
    }

    /// What [`set_ready`](WaitSource::set_ready) has said; at first it is not.
    pub fn is_ready(&self) -> bool {
        self.is_ready.get()
    }
}

impl fmt::Debug for WaitSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitSource")
            .field("interest", &self.interest)
            .field("is_ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

/// [`Wait::wait_any`] by poll(2). A readable `other` ends the wait too; returns whether it is.
pub(crate) fn poll_any(
    sources: &[WaitSource<'_>],
    other: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    for source in sources {
        // One that cannot be polled is always ready.
        source.set_ready(source.stream.as_fd().is_none());
    }
    let fd = |index: usize| sources.get(index).map_or(other, |source| source.stream.as_fd());
    let Some(first) = fd(0).filter(|_| !sources.iter().any(WaitSource::is_ready)) else {
        return Ok(false);
    };
    let interest =
        |index: usize| sources.get(index).map_or(Interest::Read, |source| source.interest);
    let (mut is_timeout, mut other_is_ready) = (true, false);
    poll_each(
        sources.len() + usize::from(other.is_some()),
        |index| (fd(index).unwrap_or(first), interest(index)),
        |index| {
            is_timeout = false;
            match sources.get(index) {
                Some(source) => source.set_ready(true),
                None => other_is_ready = true,
            }
        },
        deadline,
    )?;
    if is_timeout { Err(io::ErrorKind::TimedOut.into()) } else { Ok(other_is_ready) }
}

/// Other systems have no call for it.
#[cfg(all(test, target_os = "linux", not(socketserver_portable)))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn acknowledge_sends_the_acknowledgement_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = SocketStream::from(listener.accept().unwrap().0);
        let client = SocketStream::from(client);
        let pass = |from: &SocketStream, to: &SocketStream| {
            from.write(&[IoSlice::new(b"!")]).unwrap();
            to.read(&mut [0]).unwrap();
        };
        // The kernel may acknowledge by itself before the test looks, but not each time.
        let was_observed = (0..100).any(|_| {
            // Linux delays the acknowledgement on a connection that has always answered.
            pass(&client, &server);
            pass(&server, &client);
            pass(&client, &server);
            let before = client.unsent().unwrap();
            server.acknowledge();
            before > 0 && client.unsent().unwrap() == 0
        });
        assert!(was_observed);
    }
}
