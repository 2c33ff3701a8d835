//! Socket calls that std lacks: reads and writes with flags (without blocking, without `SIGPIPE`),
//! timeouts, and what the kernel knows about a peer.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

/// What a call does if the socket is not ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It blocks, unless the socket is non-blocking (`O_NONBLOCK`).
    AsSet,
    /// It fails with `WouldBlock` (`MSG_DONTWAIT`).
    Try,
}

/// Receives bytes ([recv(2)](https://man7.org/linux/man-pages/man2/recv.2.html)); 0 is EOF.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], mode: Mode) -> io::Result<usize> {
    let flags = match mode {
        Mode::AsSet => RecvFlags::empty(),
        Mode::Try => RecvFlags::DONTWAIT,
    };
    Ok(rustix::net::recv(fd, buffer, flags)?.1)
}

/// Sends some of the bytes, from the first on, and returns how many
/// ([sendmsg(2)](https://man7.org/linux/man-pages/man2/send.2.html)). A broken connection is
/// `EPIPE`, without `SIGPIPE`.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[IoSlice<'_>], mode: Mode) -> io::Result<usize> {
    let flags = match mode {
        Mode::AsSet => SendFlags::NOSIGNAL,
        Mode::Try => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
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

/// The most slices that one `sendmsg` takes on Linux (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

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

/// Repeats a call as long as a signal interrupts it (`EINTR`).
pub(crate) fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sets how long a blocking read (`SO_RCVTIMEO`) or write (`SO_SNDTIMEO`) waits; `None`: for ever
/// ([socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html)). Zero counts as 1 ms, about
/// the resolution of these timeouts, because to the kernel it is no timeout.
pub(crate) fn set_timeout(
    fd: BorrowedFd<'_>,
    which: Timeout,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
    Ok(sockopt::set_socket_timeout(fd, which, timeout)?)
}

/// The process id, effective user id and effective group id of the process at the other end of a Unix
/// stream socket, when it connected (`SO_PEERCRED`,
/// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)). The process id is 0, which rustix does
/// not expect, for a process that is in another PID namespace.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<[u32; 3]> {
    // `struct ucred`.
    option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED)
}

/// How many bytes were received and not read (`FIONREAD`), up to the urgent mark if there is one
/// ([tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)).
pub(crate) fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(rustix::io::ioctl_fionread(fd)?.try_into().unwrap_or(usize::MAX))
}

/// The same of a TCP socket without regard to the mark: with `SO_OOBINLINE` the urgent byte is one
/// of the others.
pub(crate) fn unread_past_mark(fd: BorrowedFd<'_>) -> io::Result<usize> {
    if sockopt::socket_oobinline(fd)? {
        return unread(fd);
    }
    sockopt::set_socket_oobinline(fd, true)?;
    let all = unread(fd);
    sockopt::set_socket_oobinline(fd, false)?;
    all
}

/// How many of the bytes written to a socket the peer has not acknowledged (`SIOCOUTQ`,
/// [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)), or the memory of those that it has not
/// read from a Unix socket.
pub(crate) fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, because it is borrowed. The request (`SIOCOUTQ` and
    // `TIOCOUTQ` are one number on Linux) stores one `int` through the pointer, which is to a
    // local `int`.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(bytes.try_into().unwrap_or(0)),
    }
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

/// The first `N` words of a socket option
/// ([getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html)).
fn option<const N: usize>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<[u32; N]> {
    let mut words = [0; N];
    let mut length = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the descriptor is open, because it is borrowed. The kernel stores at most `length`
    // bytes through the first pointer, which is to as many bytes of a local array, and their number
    // through the second, which is to a local variable.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, words.as_mut_ptr().cast(), &raw mut length)
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(words),
    }
}
