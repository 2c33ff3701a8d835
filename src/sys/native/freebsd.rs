//! FreeBSD.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;
use std::time::Duration;

#[cfg(feature = "fibers")]
use rustix::event::PollFlags;
use rustix::net::SendFlags;
use socket2::{SockRef, Socket};

use super::bsd::{peer_user_and_group, set_seconds, sysctl};

/// With this flag a send to a broken connection raises no `SIGPIPE`.
pub(crate) const NO_SIGPIPE: SendFlags = SendFlags::NOSIGNAL;

pub(crate) fn prevent_sigpipe(_socket: BorrowedFd<'_>) {}

/// By which poll(2) says that both directions of a socket are closed.
#[cfg(feature = "fibers")]
pub(crate) const HUNG_UP: PollFlags = PollFlags::HUP;

/// How many of the bytes written to a socket the peer has not acknowledged (`FIONWRITE`).
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open, because it is borrowed. The request stores one `int` through the
    // pointer, which is to a local one.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONWRITE, &raw mut bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(bytes.try_into().unwrap_or(0)),
    }
}

/// The process id, user id and group id of the process at the other end of a Unix stream socket, when it
/// connected. The process id is not known.
pub(crate) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<[u32; 3]> {
    peer_user_and_group(socket).map(|(user, group)| [0, user, group])
}

/// Sets how long a TCP peer may leave output unacknowledged, in whole seconds; `None`: as the system does.
/// FreeBSD has the option since version 14, before which this does nothing.
pub(crate) fn set_user_timeout(socket: SockRef<'_>, timeout: Option<Duration>) -> io::Result<()> {
    match set_seconds(&socket, libc::TCP_MAXUNACKTIME, timeout) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        set => set,
    }
}

/// Whether a stream socket listens.
pub(crate) fn is_listening(socket: &Socket) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_acceptconn(socket)?)
}

/// The longest backlog that the system allows (`kern.ipc.soacceptqueue`, sysctl(3)).
pub(crate) fn max_backlog() -> Option<usize> {
    sysctl(c"kern.ipc.soacceptqueue")
}

/// How many threads this process has (`KERN_PROC_PID`, sysctl(3)).
pub(crate) fn threads() -> io::Result<usize> {
    // SAFETY: a `kinfo_proc` consists of integers, arrays and pointers, for which zeros are valid values.
    // The call reads as many numbers as it is told, and stores at most `size` bytes through the pointer
    // to a local structure, and their number.
    unsafe {
        let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, libc::getpid()];
        let mut info: libc::kinfo_proc = zeroed();
        let mut size = size_of::<libc::kinfo_proc>();
        let (name, length) = (name.as_ptr(), name.len() as libc::c_uint);
        let info_pointer = (&raw mut info).cast();
        match libc::sysctl(name, length, info_pointer, &mut size, std::ptr::null(), 0) {
            0 => Ok(info.ki_numthreads as usize),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
