//! Linux.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;
use std::time::Duration;

#[cfg(feature = "fibers")]
use rustix::event::PollFlags;
use rustix::net::SendFlags;
use socket2::{SockRef, Socket};

use crate::sys::socket::option;

/// With this flag a send to a broken connection raises no `SIGPIPE`.
pub(crate) const NO_SIGPIPE: SendFlags = SendFlags::NOSIGNAL;

/// The same for all sends of a socket.
pub(crate) fn prevent_sigpipe(_socket: BorrowedFd<'_>) {}

/// By which poll(2) says that both directions of a socket are closed.
#[cfg(feature = "fibers")]
pub(crate) const HUNG_UP: PollFlags = PollFlags::HUP;

/// How many of the bytes written to a socket the peer has not acknowledged.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open, because it is borrowed. The request stores one `int` through the
    // pointer, which is to a local one.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(bytes.try_into().unwrap_or(0)),
    }
}

/// The process id, user id and group id of the process at the other end of a Unix stream socket, when it
/// connected. The process id is 0 if it is not known.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<[u32; 3]> {
    // `struct ucred`.
    option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED)
}

/// Sets how long a TCP peer may leave output unacknowledged; `None`: as the system does.
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

/// How many threads this process has.
pub(crate) fn threads() -> io::Result<usize> {
    // The link count is two more than the entries, one for each thread.
    Ok((rustix::fs::stat("/proc/self/task")?.st_nlink as usize).saturating_sub(2))
}

/// The error number of the calling thread.
pub(crate) fn errno() -> *mut c_int {
    // SAFETY: the call has no preconditions.
    unsafe { libc::__errno_location() }
}
