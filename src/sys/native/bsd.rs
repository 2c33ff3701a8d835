//! What macOS and FreeBSD have in common.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;
use std::ptr;
use std::time::Duration;

use socket2::SockRef;

/// The user id and group id of the process at the other end of a Unix stream socket, when it connected.
pub(super) fn peer_user_and_group(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open, because it is borrowed, and both pointers are to local variables.
    match unsafe { libc::getpeereid(socket.as_raw_fd(), &mut user, &mut group) } {
        0 => Ok((user, group)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option of TCP to a time in whole seconds, rounded up; `None`: as the system does.
pub(super) fn set_seconds(
    socket: &SockRef<'_>,
    option: c_int,
    time: Option<Duration>,
) -> io::Result<()> {
    let seconds = time.map_or(0, |time| time.as_nanos().div_ceil(1_000_000_000) as c_int);
    let length = size_of::<c_int>() as libc::socklen_t;
    let (level, value) = (libc::IPPROTO_TCP, (&raw const seconds).cast());
    // SAFETY: the descriptor is open, because `socket` borrows it. The kernel reads one `int` through the
    // pointer, which is to a local one.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A number that the system is set to (sysctl(3)).
pub(super) fn sysctl(name: &CStr) -> Option<usize> {
    let mut number: c_int = 0;
    let mut size = size_of::<c_int>();
    let value = (&raw mut number).cast();
    // SAFETY: the name ends with NUL. The call stores at most `size` bytes through the pointer to a local
    // variable, and their number.
    let read = unsafe { libc::sysctlbyname(name.as_ptr(), value, &mut size, ptr::null_mut(), 0) };
    usize::try_from(number).ok().filter(|_| read == 0)
}

/// The error number of the calling thread.
pub(crate) fn errno() -> *mut c_int {
    // SAFETY: the call has no preconditions.
    unsafe { libc::__error() }
}
