//! macOS.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::{c_int, c_uint};
use std::time::Duration;

#[cfg(feature = "fibers")]
use rustix::event::PollFlags;
use rustix::net::SendFlags;
use socket2::{SockRef, Socket};

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
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open, because it is borrowed, and both pointers are to local variables.
    if unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // 0 if the process has ended.
    let [pid] = option(socket, libc::SOL_LOCAL, libc::LOCAL_PEERPID).unwrap_or([0]);
    Ok([pid, user, group])
}

/// Sets how long a TCP peer may leave output unacknowledged, in whole seconds; `None`: as the system does.
pub(crate) fn set_user_timeout(socket: SockRef<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let seconds = timeout.map_or(0, |timeout| timeout.as_nanos().div_ceil(1_000_000_000) as c_int);
    let length = size_of::<c_int>() as libc::socklen_t;
    let (level, value) = (libc::IPPROTO_TCP, (&raw const seconds).cast());
    // SAFETY: the descriptor is open, because `socket` borrows it. The kernel reads one `int` through the
    // pointer, which is to a local one.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, TCP_RXT_CONNDROPTIME, value, length) };
    if set == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// From `netinet/tcp.h`.
const TCP_RXT_CONNDROPTIME: c_int = 0x80;

/// Whether a stream socket listens: macOS does not tell. One that is not connected is taken to.
pub(crate) fn is_listening(socket: &Socket) -> io::Result<bool> {
    Ok(socket.peer_addr().is_err())
}

/// The longest backlog that the system allows (`kern.ipc.somaxconn`, sysctl(3)).
pub(crate) fn max_backlog() -> Option<usize> {
    let mut max: c_int = 0;
    let mut size = size_of::<c_int>();
    // SAFETY: the name ends with NUL. The call stores at most `size` bytes through the pointer to a local
    // variable, and their number.
    let read = unsafe {
        let value = (&raw mut max).cast();
        libc::sysctlbyname(
            c"kern.ipc.somaxconn".as_ptr(),
            value,
            &mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    usize::try_from(max).ok().filter(|_| read == 0)
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

/// The error number of the calling thread.
pub(crate) fn errno() -> *mut c_int {
    // SAFETY: the call has no preconditions.
    unsafe { libc::__error() }
}
