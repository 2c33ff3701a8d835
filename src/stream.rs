//! What a stream transport delivers ([`Stream`]), and how a connection waits on it ([`Wait`]).

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::sockopt::Timeout;

use crate::address::{Address, UnixName};
use crate::sys::socket::{self, Mode};
pub use crate::sys::wait::Interest;

/// The two directions of bytes behind a [`Connection`](crate::Connection).
///
/// TCP and Unix sockets are streams ([`SocketStream`]); a transport of your own may wrap them, or
/// bring another. All methods take `&self`: a server shuts a stream down while a handler is
/// reading from it.
pub trait Stream: Send + Sync + 'static {
    /// Reads what there is, waiting for the first byte; 0 at the end. `WouldBlock` after the read
    /// timeout, or at once on a non-blocking stream.
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

    /// Whether [`read`](Stream::read) and [`write`](Stream::write) wait at all.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;

    /// This end's address.
    fn local_addr(&self) -> io::Result<Address>;

    /// How many bytes were written that the peer would lose if it sent more now and the stream
    /// were closed; 0 by default.
    fn unsent(&self) -> io::Result<usize> {
        Ok(0)
    }

    /// The descriptor to wait on; `None` for a stream that is always ready.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A connected TCP or Unix socket as a [`Stream`].
#[derive(Debug)]
pub struct SocketStream(OwnedFd);

impl From<TcpStream> for SocketStream {
    fn from(stream: TcpStream) -> SocketStream {
        SocketStream(stream.into())
    }
}

impl From<UnixStream> for SocketStream {
    fn from(stream: UnixStream) -> SocketStream {
        SocketStream(stream.into())
    }
}

impl Stream for SocketStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::receive(self.0.as_fd(), buffer, Mode::AsSet)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(self.0.as_fd(), pieces, Mode::AsSet)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::receive(self.0.as_fd(), buffer, Mode::Try)
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        socket::send(self.0.as_fd(), pieces, Mode::Try)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.0).shutdown(how)
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        socket::set_timeout(self.0.as_fd(), Timeout::Recv, timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        socket::set_timeout(self.0.as_fd(), Timeout::Send, timeout)
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        socket2::SockRef::from(&self.0).set_nonblocking(nonblocking)
    }

    fn local_addr(&self) -> io::Result<Address> {
        let address = socket2::SockRef::from(&self.0).local_addr()?;
        Ok(match address.as_socket() {
            Some(ip) => Address::tcp(ip),
            None => Address::Unix(match (address.as_pathname(), address.as_abstract_namespace()) {
                (Some(path), _) => UnixName::Path(path.to_owned()),
                (None, Some(name)) => UnixName::Abstract(name.to_owned()),
                (None, None) => UnixName::Unnamed,
            }),
        })
    }

    fn unsent(&self) -> io::Result<usize> {
        match self.local_addr()? {
            Address::Tcp(_) => socket::unsent(self.0.as_fd()),
            // What was written to a Unix socket is with the peer already.
            _ => Ok(0),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// What it means to wait for a stream: the one place where a connection blocks.
///
/// On a thread or process of its own a connection lets the system do it: its socket is a blocking
/// one, and no `Wait` is involved. A [`Mixin`](crate::Mixin) that wants to do something else
/// meanwhile (watch for a stop, run another connection) gives the request one of these with
/// [`Request::wait_with`](crate::Request::wait_with).
pub trait Wait: Send + Sync + 'static {
    /// Returns when the stream may be ready, `TimedOut` when it was not until `until`
    /// (`None`: for ever).
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        until: Option<Instant>,
    ) -> io::Result<()>;
}

/// A stream and who is at its other end: what a connection, the registry and a broadcast share.
pub(crate) struct Link {
    stream: Box<dyn Stream>,
    peer: Address,
    wait: OnceLock<Box<dyn Wait>>,
    timeouts: Mutex<Timeouts>,
    /// Whether end-of-file may be this side's doing, the peer having more to say.
    read_shut: AtomicBool,
    /// Held while writing, so that what a handler writes and what a broadcast delivers never tear
    /// each other. It holds the rest of a message that a broadcast could send only in part.
    output: Mutex<Vec<u8>>,
}

#[derive(Clone, Copy, Default)]
struct Timeouts {
    read: Option<Duration>,
    write: Option<Duration>,
}

/// How far a [`Link::try_send`] came.
pub(crate) struct Sent {
    /// So many messages need not be sent again.
    pub(crate) messages: usize,
    /// Whether there is more to send once the stream has room.
    pub(crate) blocked: bool,
}

impl Link {
    pub(crate) fn new(stream: Box<dyn Stream>, peer: Address) -> Link {
        Link {
            stream,
            peer,
            wait: OnceLock::new(),
            timeouts: Mutex::default(),
            read_shut: AtomicBool::new(false),
            output: Mutex::default(),
        }
    }

    pub(crate) fn peer(&self) -> &Address {
        &self.peer
    }

    pub(crate) fn stream(&self) -> &dyn Stream {
        &*self.stream
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.assume_read_shut();
        }
        self.stream.shutdown(how)
    }

    /// To be told of a shutdown that another process may do.
    pub(crate) fn assume_read_shut(&self) {
        self.read_shut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_read_shut(&self) -> bool {
        self.read_shut.load(Ordering::SeqCst)
    }

    /// Remembers the timeouts that the transport has already set on the stream.
    pub(crate) fn assume_timeouts(&self, read: Option<Duration>, write: Option<Duration>) {
        *self.timeouts.lock() = Timeouts { read, write };
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.lock().read = timeout;
        self.stream.set_read_timeout(timeout)
    }

    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.lock().write = timeout;
        self.stream.set_write_timeout(timeout)
    }

    pub(crate) fn wait_with(&self, wait: Box<dyn Wait>) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        // A second one is ignored: the first may be in use.
        let _ = self.wait.set(wait);
        Ok(())
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) => self.retry(error, Interest::Read)?,
                length => return length,
            }
        }
    }

    /// Writes all of the pieces, behind what a broadcast has left over.
    pub(crate) fn write_all(&self, pieces: [&[u8]; 2]) -> io::Result<()> {
        let mut output = self.output.lock();
        let left_over = std::mem::take(&mut *output);
        let mut slices = [&left_over, pieces[0], pieces[1]].map(IoSlice::new);
        let mut rest = &mut slices[..];
        // Most often there is one piece, for which there is a cheaper call.
        IoSlice::advance_slices(&mut rest, 0);
        let last = rest.iter().rposition(|piece| !piece.is_empty());
        rest = &mut rest[..last.map_or(0, |last| last + 1)];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => IoSlice::advance_slices(&mut rest, length),
                Err(error) => self.retry(error, Interest::Write)?,
            }
        }
        Ok(())
    }

    /// Sends as many of the messages as there is room for, without waiting.
    pub(crate) fn try_send(&self, messages: &[IoSlice<'_>]) -> io::Result<Sent> {
        let Some(mut output) = self.output.try_lock() else {
            // The handler is writing, which may take it a while.
            return Ok(Sent { messages: 0, blocked: true });
        };
        while !output.is_empty() {
            match self.stream.try_write(&[IoSlice::new(&output)]) {
                Ok(length) => drop(output.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Sent { messages: 0, blocked: true });
                }
                Err(error) => return Err(error),
            }
        }
        let mut sent = 0;
        while sent < messages.len() {
            let mut length = match self.stream.try_write(&messages[sent..]) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Sent { messages: sent, blocked: true });
                }
                Err(error) => return Err(error),
            };
            while sent < messages.len() && length >= messages[sent].len() {
                length -= messages[sent].len();
                sent += 1;
            }
            if length > 0 {
                output.extend_from_slice(&messages[sent][length..]);
                return Ok(Sent { messages: sent + 1, blocked: true });
            }
        }
        Ok(Sent { messages: sent, blocked: false })
    }

    fn retry(&self, error: io::Error, interest: Interest) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => match self.wait.get() {
                Some(wait) => {
                    let timeouts = *self.timeouts.lock();
                    let timeout = match interest {
                        Interest::Read => timeouts.read,
                        Interest::Write => timeouts.write,
                    };
                    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
                    wait.wait(&*self.stream, interest, until)
                }
                // The socket blocks: the system has waited, for as long as its timeout allows.
                None => Err(io::ErrorKind::TimedOut.into()),
            },
            _ => Err(error),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}
