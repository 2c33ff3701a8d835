//! The calls for sockets, by what POSIX has.
//!
//! `MSG_DONTWAIT` has no effect on the sends of macOS. So a stream socket is non-blocking, and a call
//! that is to block waits by poll(2), with the socket's own timeout.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::net::sockopt::{Timeout, socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, SocketAddrAny,
};
use socket2::{Domain, SockRef, Socket, Type};

use super::exec::make_descriptor;
use super::process::is_drained;
use crate::sys::native::{self, NO_SIGPIPE, prevent_sigpipe};
use crate::sys::poll::{Interest, poll};
use crate::sys::socket::{IOV_MAX, Mode, unread};

pub(crate) const INHERITS_OPTIONS: bool = false;

pub(crate) const HIDES_END: bool = true;

/// No flag: `MSG_TRUNC` in the answer says that the datagram was longer.
pub(in crate::sys) const REPORTS_LENGTH: libc::c_int = 0;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct StreamSocket {
    socket: OwnedFd,
    /// A read that would block is EOF.
    input_has_ended: AtomicBool,
}

impl StreamSocket {
    pub(crate) fn new(socket: OwnedFd) -> StreamSocket {
        // Both fail for what is no open socket only.
        let _ = rustix::io::ioctl_fionbio(&socket, true);
        prevent_sigpipe(socket.as_fd());
        StreamSocket { socket, input_has_ended: AtomicBool::new(false) }
    }

    /// Reads some bytes; 0 is EOF.
    pub(crate) fn receive(&self, buffer: &mut [u8], mode: Mode) -> io::Result<usize> {
        blocking(self.as_fd(), Timeout::Recv, mode, || {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) if self.input_has_ended() => Ok(0),
                received => Ok(received?.1),
            }
        })
    }

    /// Shuts one direction down, or both. Reads return what was received, and then EOF.
    ///
    /// `SHUT_RD` discards what was received. It is needed for a reader that waits, which it wakes; and
    /// that does so only while nothing is there. Otherwise the flag is enough: the reader finds it after
    /// what is there.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how == Shutdown::Read {
            self.input_has_ended.store(true, Ordering::SeqCst);
            if unread(self.as_fd())? > 0 {
                return Ok(());
            }
        }
        SockRef::from(&self.socket).shutdown(how)
    }

    /// Whether reads do not block any more, although the descriptor may not say so.
    pub(crate) fn input_has_ended(&self) -> bool {
        self.input_has_ended.load(Ordering::SeqCst) || is_drained(self.socket.as_raw_fd())
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A call to a non-blocking socket, which blocks in this mode until the socket is ready, or its timeout
/// is over.
pub(in crate::sys) fn blocking<T>(
    fd: BorrowedFd<'_>,
    which: Timeout,
    mode: Mode,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut deadline = None;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && mode == Mode::AsSet => {
                let timeout = || {
                    Ok(socket_timeout(fd, which)?.and_then(|time| Instant::now().checked_add(time)))
                };
                let until = deadline.map_or_else(timeout, io::Result::Ok)?;
                deadline = Some(until);
                let interest =
                    if which == Timeout::Recv { Interest::Read } else { Interest::Write };
                if poll([Some((fd, interest))], [], until)? == [false] {
                    return Err(error);
                }
            }
            result => return result,
        }
    }
}

/// A non-blocking stream socket.
pub(crate) fn new_stream(domain: Domain) -> io::Result<Socket> {
    let socket = make_descriptor(|| Socket::new(domain, Type::STREAM, None))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Stream sockets stay non-blocking.
pub(crate) fn set_nonblocking(_fd: BorrowedFd<'_>, _yes: bool) -> io::Result<()> {
    Ok(())
}

/// Sends some of the bytes, from the first on, and returns how many. A broken connection is
/// `EPIPE`, without `SIGPIPE`.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[IoSlice<'_>], mode: Mode) -> io::Result<usize> {
    let flags = NO_SIGPIPE | SendFlags::DONTWAIT;
    let many = &bytes[..bytes.len().min(IOV_MAX)];
    blocking(fd, Timeout::Send, mode, || match bytes {
        [one] => Ok(rustix::net::send(fd, one, flags)?),
        _ => {
            let mut no_ancillary = SendAncillaryBuffer::new(&mut [] as &mut [MaybeUninit<u8>]);
            Ok(rustix::net::sendmsg(fd, many, &mut no_ancillary, flags)?)
        }
    })
}

/// Receives one datagram without blocking. Returns how many bytes of it are in the buffer, its
/// length, of which one byte more than the buffer is known if it is longer, and the sender's address
/// (`None`: a sender without one).
pub(crate) fn receive_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, usize, Option<SocketAddrAny>)> {
    let room = buffer.len();
    let mut no_ancillary = RecvAncillaryBuffer::new(&mut [] as &mut [MaybeUninit<u8>]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::DONTWAIT;
    let message = rustix::net::recvmsg(fd, &mut slices, &mut no_ancillary, flags)?;
    let is_longer = message.flags.contains(ReturnFlags::TRUNC);
    let length = if is_longer { room + 1 } else { message.bytes };
    Ok((message.bytes, length, message.address))
}

/// The length of the datagram that is received next, without blocking. It stays where it is
/// (`MSG_PEEK`).
pub(crate) fn next_length(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut buffer = vec![0; 4096];
    loop {
        let mut no_ancillary = RecvAncillaryBuffer::new(&mut [] as &mut [MaybeUninit<u8>]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        let message = rustix::net::recvmsg(fd, &mut slices, &mut no_ancillary, flags)?;
        if !message.flags.contains(ReturnFlags::TRUNC) {
            return Ok(message.bytes);
        }
        buffer.resize(4 * buffer.len(), 0);
    }
}

/// The system decides when it acknowledges.
pub(crate) fn acknowledge(_fd: BorrowedFd<'_>) {}

/// At most how many connections wait in the queue of a listening socket: BSD has half as many again as the
/// backlog.
pub(crate) fn accept_queue_length(_listener: BorrowedFd<'_>) -> io::Result<usize> {
    let max = native::max_backlog().ok_or(io::ErrorKind::Unsupported)?;
    Ok(max.saturating_add(max / 2 + 1))
}

/// At most how many datagrams wait in the receive buffer of a UDP socket: as many as fit, each with what
/// the system counts besides its bytes.
pub(crate) fn max_queued_datagrams(socket: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(rustix::net::sockopt::socket_recv_buffer_size(socket)? / MIN_DATAGRAM)
}

/// The size of an mbuf of BSD, and less than Linux counts for any datagram.
const MIN_DATAGRAM: usize = 256;
