//! Non-blocking connections, and an epoll set that they share.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::sockopt;

/// A non-blocking connection, with a buffer for what the socket does not take at once.
pub(crate) struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
}

impl Connection {
    /// Connects, and registers with the poller as `index`. (A client address has some 28,000 ports,
    /// more than any case needs.)
    pub(crate) fn open(
        address: SocketAddr,
        index: usize,
        poller: &Poller,
    ) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        poller.add(&stream, index)?;
        Ok(Connection { stream, unsent: Vec::new() })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Reads what has arrived: `None` if nothing has, 0 bytes at EOF.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        none_if_blocked(self.stream.read(buffer))
    }

    pub(crate) fn send(&mut self, bytes: &[u8], index: usize, poller: &Poller) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = none_if_blocked(self.stream.write(bytes))?.unwrap_or(0);
        if sent < bytes.len() {
            self.unsent.extend_from_slice(&bytes[sent..]);
            poller.set_writable_interest(&self.stream, index, true)?;
        }
        Ok(())
    }

    /// Sends buffered bytes, when the poller reports the socket as writable.
    pub(crate) fn flush(&mut self, index: usize, poller: &Poller) -> io::Result<()> {
        let sent = none_if_blocked(self.stream.write(&self.unsent))?.unwrap_or(0);
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            poller.set_writable_interest(&self.stream, index, false)?;
        }
        Ok(())
    }

    pub(crate) fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Closes with an RST: neither side stays in `TIME_WAIT`, and the port is free at once.
    pub(crate) fn reset(self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))?)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// `None` for `WouldBlock` and for `Interrupted`.
pub(crate) fn none_if_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An epoll set.
pub(crate) struct Poller(OwnedFd);

/// The buffer of [`Poller::wait`], used again for each wait.
pub(crate) struct Events(Vec<Event>);

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn add(&self, socket: impl AsFd, index: usize) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, EventData::new_u64(index as u64), EventFlags::IN)?)
    }

    pub(crate) fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, socket)?)
    }

    fn set_writable_interest(&self, socket: impl AsFd, index: usize, on: bool) -> io::Result<()> {
        let flags = if on { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.0, socket, EventData::new_u64(index as u64), flags)?)
    }

    /// Waits for events. After the timeout there are none, which is not an error.
    pub(crate) fn wait(&self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        events.0.clear();
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        match epoll::wait(&self.0, spare_capacity(&mut events.0), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Events {
    pub(crate) fn new() -> Events {
        Events(Vec::with_capacity(1024))
    }

    /// A placeholder that allocates nothing.
    pub(crate) fn placeholder() -> Events {
        Events(Vec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each ready socket by its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Ready> {
        self.0.iter().map(|event| {
            let (index, flags) = (event.data.u64() as usize, event.flags);
            Ready {
                index,
                writable: flags.contains(EventFlags::OUT),
                readable: flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP),
            }
        })
    }
}

pub(crate) struct Ready {
    pub(crate) index: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}
