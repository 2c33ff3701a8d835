//! Descriptors that travel with the bytes of a Unix stream socket (`SCM_RIGHTS`, [unix(7)]).
//!
//! [unix(7)]: https://man7.org/linux/man-pages/man7/unix.7.html

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::Timeout;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::native::NO_SIGPIPE;
use super::platform::process::RECEIVE_CLOEXEC;
use super::platform::socket::blocking;
use super::socket::Mode;

/// The most that one message carries (`SCM_MAX_FD` of Linux).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// Room for the control message of so many.
const SPACE: usize = cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Sends some of the bytes, which are one at least, and returns how many: the descriptors, at most
/// [`MAX_DESCRIPTORS`], go with the first of them.
// Not inlined: the control buffer need not be on the stack of every write.
#[inline(never)]
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
    mode: Mode,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = match mode {
        Mode::AsSet => NO_SIGPIPE,
        Mode::Try => NO_SIGPIPE | SendFlags::DONTWAIT,
    };
    blocking(socket, Timeout::Send, mode, || Ok(sendmsg(socket, bytes, &mut control, flags)?))
}

/// Bytes, and the descriptors that came with them.
pub(crate) struct Received {
    pub(crate) length: usize,
    /// They are closed in programs that this process starts (`MSG_CMSG_CLOEXEC`).
    pub(crate) descriptors: Vec<OwnedFd>,
    /// There were more, which the kernel has closed.
    pub(crate) had_more: bool,
}

/// Receives bytes with about `max` descriptors at most: it may be one or two more. Where there are
/// some, no bytes that were sent after them.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    max: usize,
    mode: Mode,
) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space[..cmsg_space!(ScmRights(max))]);
    let flags = match mode {
        Mode::AsSet => RECEIVE_CLOEXEC,
        Mode::Try => RECEIVE_CLOEXEC | RecvFlags::DONTWAIT,
    };
    let message = blocking(socket, Timeout::Recv, mode, || {
        Ok(recvmsg(socket, &mut [IoSliceMut::new(&mut *buffer)], &mut control, flags)?)
    })?;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = descriptors.flatten().collect();
    if RECEIVE_CLOEXEC.is_empty() {
        // Where there is no such flag.
        descriptors.iter().try_for_each(|fd| fcntl_setfd(fd, FdFlags::CLOEXEC))?;
    }
    let had_more = message.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received { length: message.bytes, descriptors, had_more })
}
