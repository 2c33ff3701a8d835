//! macOS.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::BorrowedFd;
use std::os::raw::{c_int, c_uint};
use std::time::Duration;

#[cfg(feature = "fibers")]
use rustix::event::PollFlags;
use rustix::net::SendFlags;
use socket2::{SockRef, Socket};

use super::bsd::{peer_user_and_group, set_seconds, sysctl};
use crate::sys::socket::option;

/// There is no such flag.
pub(crate) const NO_SIGPIPE: SendFlags = SendFlags::empty();

/// `SO_NOSIGPIPE`.
pub(crate) fn prevent_sigpipe(socket: BorrowedFd<'_>) {
    // Fails on a broken connection too, on which a send is `EPIPE`: Rust's `main` ignores `SIGPIPE`.
    let _ = SockRef::from(&socket).set_nosigpipe(true);
}

/// None: a half-close is `POLLHUP` too.
#[cfg(feature = "fibers")]
pub(crate) const HUNG_UP: PollFlags = PollFlags::empty();

/// How many of the bytes written to a socket the peer has not acknowledged (`SO_NWRITE`).
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let [bytes] = option(socket, libc::SOL_SOCKET, libc::SO_NWRITE)?;
    Ok(bytes as usize)
}

/// The process id, user id and group id of the process at the other end of a Unix stream socket, when it
/// connected.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<[u32; 3]> {
    let (user, group) = peer_user_and_group(socket)?;
    // 0 if the process has ended.
    let [pid] = option(socket, libc::SOL_LOCAL, libc::LOCAL_PEERPID).unwrap_or([0]);
    Ok([pid, user, group])
}

/// Sets how long a TCP peer may leave output unacknowledged, in whole seconds; `None`: as the system does.
pub(crate) fn set_user_timeout(socket: SockRef<'_>, timeout: Option<Duration>) -> io::Result<()> {
    set_seconds(&socket, TCP_RXT_CONNDROPTIME, timeout)
}

/// From `netinet/tcp.h`.
const TCP_RXT_CONNDROPTIME: c_int = 0x80;

/// Whether a stream socket listens: macOS does not tell. One that is not connected is taken to.
pub(crate) fn is_listening(socket: &Socket) -> io::Result<bool> {
    Ok(socket.peer_addr().is_err())
}

/// The longest backlog that the system allows (`kern.ipc.somaxconn`, sysctl(3)).
pub(crate) fn max_backlog() -> Option<usize> {
    sysctl(c"kern.ipc.somaxconn")
}

/// How many threads this process has (`proc_pidinfo`).
pub(crate) fn threads() -> io::Result<usize> {
    let size = size_of::<libc::proc_taskinfo>() as c_int;
    // SAFETY: a `proc_taskinfo` consists of integers, for which zeros are valid values. The call stores at
    // most `size` bytes through the pointer, which is to a local one.
    let (stored, info) = unsafe {
        let mut info: libc::proc_taskinfo = zeroed();
        let (pid, kind) = (libc::getpid(), libc::PROC_PIDTASKINFO);
        (libc::proc_pidinfo(pid, kind, 0, (&raw mut info).cast(), size), info)
    };
    if stored == size {
        Ok(info.pti_threadnum as c_uint as usize)
    } else {
        Err(io::Error::last_os_error())
    }
}
