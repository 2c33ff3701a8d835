//! The calls for sockets that have flags, options or semantics of Linux.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::Timeout;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Domain, SockRef, Socket, Type};

use crate::sys::native::NO_SIGPIPE;
use crate::sys::socket::{IOV_MAX, Mode, option};

/// Whether what is set on a listening TCP socket is set on the connections that it accepts.
pub(crate) const INHERITS_OPTIONS: bool = true;

/// Whether the descriptor of a socket whose read side was shut down may not say that reads do not
/// block: see [`StreamSocket::input_has_ended`].
pub(crate) const HIDES_END: bool = false;

/// With this flag, a receiving call returns the length of a datagram that is longer than the buffer.
pub(in crate::sys) const REPORTS_LENGTH: libc::c_int = libc::MSG_TRUNC;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct StreamSocket(OwnedFd);

impl StreamSocket {
    pub(crate) fn new(socket: OwnedFd) -> StreamSocket {
        StreamSocket(socket)
    }

    /// Reads some bytes; 0 is EOF.
    #[inline(always)]
    pub(crate) fn receive(&self, buffer: &mut [u8], mode: Mode) -> io::Result<usize> {
        let flags = match mode {
            Mode::AsSet => RecvFlags::empty(),
            Mode::Try => RecvFlags::DONTWAIT,
        };
        // recv(2): https://man7.org/linux/man-pages/man2/recv.2.html
        Ok(rustix::net::recv(&self.0, buffer, flags)?.1)
    }

    /// Shuts one direction down, or both. Reads return what was received, and then EOF.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        SockRef::from(&self.0).shutdown(how)
    }

    /// Whether reads do not block any more, although the descriptor may not say so.
    pub(crate) fn input_has_ended(&self) -> bool {
        false
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A call that blocks in this mode by itself.
#[inline(always)]
pub(in crate::sys) fn blocking<T>(
    _fd: BorrowedFd<'_>,
    _which: Timeout,
    _mode: Mode,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    call()
}

/// A non-blocking stream socket.
pub(crate) fn new_stream(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking(), None)
}

/// Whether reads and writes fail instead of blocking (`O_NONBLOCK`).
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, yes: bool) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, yes)?)
}

/// Sends some of the bytes, from the first on, and returns how many
/// ([sendmsg(2)](https://man7.org/linux/man-pages/man2/send.2.html)). A broken connection is
/// `EPIPE`, without `SIGPIPE`.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[IoSlice<'_>], mode: Mode) -> io::Result<usize> {
    let flags = match mode {
        Mode::AsSet => NO_SIGPIPE,
        Mode::Try => NO_SIGPIPE | SendFlags::DONTWAIT,
    };
    match bytes {
        [one] => Ok(rustix::net::send(fd, one, flags)?),
        many => {
            let many = &many[..many.len().min(IOV_MAX)];
            let mut no_ancillary = SendAncillaryBuffer::new(&mut [] as &mut [MaybeUninit<u8>]);
            Ok(rustix::net::sendmsg(fd, many, &mut no_ancillary, flags)?)
        }
    }
}

/// Receives one datagram without blocking. Returns how many bytes of it are in the buffer, its
/// length ([recv(2)], `MSG_TRUNC`), and the sender's address (`None`: a sender without one).
///
/// [recv(2)]: https://man7.org/linux/man-pages/man2/recv.2.html
pub(crate) fn receive_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, usize, Option<rustix::net::SocketAddrAny>)> {
    let room = buffer.len();
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let (_, length, peer) = rustix::net::recvfrom(fd, buffer, flags)?;
    Ok((length.min(room), length, peer))
}

/// The length of the datagram that is received next, without blocking. It stays where it is
/// ([recv(2)](https://man7.org/linux/man-pages/man2/recv.2.html), `MSG_PEEK`).
pub(crate) fn next_length(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC;
    let mut nothing = [0; 0];
    Ok(rustix::net::recv(fd, &mut nothing[..], flags)?.1)
}

/// Acknowledges what was received at once (`TCP_QUICKACK`,
/// [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)).
pub(crate) fn acknowledge(fd: BorrowedFd<'_>) {
    // Fails only on a broken connection, where there is nothing to acknowledge.
    let _ = rustix::net::sockopt::set_tcp_quickack(fd, true);
}

/// How many connections wait in the queue of a listening TCP socket (`TCP_INFO`, whose
/// `tcpi_unacked` is that number for a listener).
pub(crate) fn accept_queue_length(listener: BorrowedFd<'_>) -> io::Result<usize> {
    // `struct tcp_info`: eight fields of a byte, and fields of four bytes. This is the fifth of those.
    let [.., unacked] = option::<7>(listener, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(unacked as usize)
}

/// At most how many datagrams wait in the receive buffer of a UDP socket: as many as fit into the
/// memory that it takes (`SO_MEMINFO`, [socket(7)]), each with its `struct sk_buff`.
///
/// [socket(7)]: https://man7.org/linux/man-pages/man7/socket.7.html
pub(crate) fn max_queued_datagrams(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let [rmem_alloc] = option::<1>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(rmem_alloc as usize / MIN_TRUESIZE)
}

/// Less memory than Linux counts for any datagram, on any processor.
const MIN_TRUESIZE: usize = 256;
