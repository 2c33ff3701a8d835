//! Socket calls that std lacks: reads and writes with flags (without blocking, without `SIGPIPE`),
//! timeouts, and what the kernel knows about a peer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};

pub(crate) use super::native::{
    is_listening, max_backlog, peer_credentials, set_user_timeout, unacknowledged,
};
pub(crate) use super::platform::socket::*;

/// What a call does if the socket is not ready.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It blocks, unless the socket is non-blocking (`O_NONBLOCK`).
    AsSet,
    /// It fails with `WouldBlock` (`MSG_DONTWAIT`).
    Try,
}

/// The most slices that one `sendmsg` takes: `UIO_MAXIOV` of Linux, macOS and FreeBSD.
pub(super) const IOV_MAX: usize = 1024;

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

/// The first `N` words of a socket option
/// ([getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html)).
#[cfg_attr(target_os = "freebsd", allow(dead_code))]
pub(super) fn option<const N: usize>(
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
