//! Linux.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;
use std::time::Duration;

use rustix::net::SendFlags;
use socket2::{SockRef, Socket};

#[cfg(socketserver_portable)]
pub(crate) use portable::*;

use crate::sys::socket::option;

/// With this flag a send to a broken connection raises no `SIGPIPE`.
pub(crate) const NO_SIGPIPE: SendFlags = SendFlags::NOSIGNAL;

/// How many of the bytes written to a socket the peer has not acknowledged (`SIOCOUTQ`,
/// [tcp(7)](https://man7.org/linux/man-pages/man7/tcp.7.html)), or the memory of those that it has not
/// read from a Unix socket.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open, because it is borrowed. The request (`SIOCOUTQ` and
    // `TIOCOUTQ` are one number on Linux) stores one `int` through the pointer, which is to a
    // local `int`.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(bytes.try_into().unwrap_or(0)),
    }
}

/// The process id, effective user id and effective group id of the process at the other end of a Unix
/// stream socket, when it connected (`SO_PEERCRED`,
/// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)). The process id is 0, which rustix does
/// not expect, for a process that is in another PID namespace.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<[u32; 3]> {
    // `struct ucred`.
    option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED)
}

/// Sets how long a TCP peer may leave output unacknowledged (`TCP_USER_TIMEOUT`); `None`: as the system
/// does.
pub(crate) fn set_user_timeout(socket: SockRef<'_>, timeout: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_user_timeout(timeout)
}

/// Whether a stream socket listens.
pub(crate) fn is_listening(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// The longest backlog that the system allows.
pub(crate) fn max_backlog() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?.trim().parse().ok()
}

/// How many threads this process has. The link count of `/proc/self/task` is two more than its entries,
/// one for each thread ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).
pub(crate) fn threads() -> io::Result<usize> {
    Ok((rustix::fs::stat("/proc/self/task")?.st_nlink as usize).saturating_sub(2))
}

/// What only the code for other systems needs.
#[cfg(socketserver_portable)]
mod portable {
    use std::os::fd::BorrowedFd;
    use std::os::raw::c_int;

    #[cfg(feature = "fibers")]
    use rustix::event::PollFlags;

    pub(crate) fn prevent_sigpipe(_socket: BorrowedFd<'_>) {}

    /// By which poll(2) says that both directions of a socket are closed.
    #[cfg(feature = "fibers")]
    pub(crate) const HUNG_UP: PollFlags = PollFlags::HUP;

    /// The error number of the calling thread.
    pub(crate) fn errno() -> *mut c_int {
        // SAFETY: the call has no preconditions.
        unsafe { libc::__errno_location() }
    }
}
