//! Non-blocking connections, and waiting for all of them at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::sockopt;

/// A connection that never waits: what the system does not take at once is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
}

impl Connection {
    /// Connects, and is `index` to the poller. (An address has some 28,000 ports to connect from, more
    /// than any case needs.)
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

    /// Reads what there is: `None` if nothing, 0 bytes at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        no_wait(self.stream.read(buffer))
    }

    pub(crate) fn send(&mut self, bytes: &[u8], index: usize, poller: &Poller) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return Ok(());
        }
        let sent = no_wait(self.stream.write(bytes))?.unwrap_or(0);
        if sent < bytes.len() {
            self.unsent.extend_from_slice(&bytes[sent..]);
            poller.want_to_write(&self.stream, index, true)?;
        }
        Ok(())
    }

    /// Sends more of what was kept, when the poller says that it can.
    pub(crate) fn flush(&mut self, index: usize, poller: &Poller) -> io::Result<()> {
        let sent = no_wait(self.stream.write(&self.unsent))?.unwrap_or(0);
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            poller.want_to_write(&self.stream, index, false)?;
        }
        Ok(())
    }

    pub(crate) fn finish_sending(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Closes by a reset: so neither side is left in `TIME_WAIT`, and a port is free for the next
    /// connection at once.
    pub(crate) fn close(self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))?)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// `None` where it would have had to wait.
pub(crate) fn no_wait(result: io::Result<usize>) -> io::Result<Option<usize>> {
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

/// Which of many sockets can be read, or written to.
pub(crate) struct Poller(OwnedFd);

/// What [`Poller::wait`] found, to be used again for the next wait.
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

    fn want_to_write(&self, socket: impl AsFd, index: usize, yes: bool) -> io::Result<()> {
        let flags = if yes { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        Ok(epoll::modify(&self.0, socket, EventData::new_u64(index as u64), flags)?)
    }

    /// Waits until something can be done, or for a while. None is not an error.
    pub(crate) fn wait(&self, events: &mut Events, limit: Duration) -> io::Result<()> {
        events.0.clear();
        let timeout = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
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

    /// To hold the place of others, without memory of its own.
    pub(crate) fn none() -> Events {
        Events(Vec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The index of each socket that is ready, and for what.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Ready> {
        self.0.iter().map(|event| {
            let (index, flags) = (event.data.u64() as usize, event.flags);
            Ready {
                index,
                to_write: flags.contains(EventFlags::OUT),
                to_read: flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP),
            }
        })
    }
}

pub(crate) struct Ready {
    pub(crate) index: usize,
    pub(crate) to_read: bool,
    pub(crate) to_write: bool,
}
