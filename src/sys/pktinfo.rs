//! Which of the machine's addresses a datagram was sent to, and sending from that one: `IP_PKTINFO`
//! ([ip(7)]) and `IPV6_RECVPKTINFO` ([ipv6(7)]). A socket that is bound to one address needs none of
//! this.
//!
//! [ip(7)]: https://man7.org/linux/man-pages/man7/ip.7.html
//! [ipv6(7)]: https://man7.org/linux/man-pages/man7/ipv6.7.html
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::SockAddr;

use super::platform::socket::REPORTS_LENGTH;

/// A datagram that was received into a buffer.
pub(crate) struct Received {
    /// Its length, which may be more than the buffer's: then it is the true one only on Linux.
    pub(crate) length: usize,
    /// The sender's address.
    pub(crate) peer: Option<SocketAddr>,
    /// The address that it was sent to, with port 0. `None` for a multicast address, which nothing can
    /// be sent from. For a broadcast it is the address of the interface.
    pub(crate) local: Option<SocketAddr>,
}

/// Has [`receive`] tell the local address. An IPv6 socket that receives IPv4 datagrams too needs both
/// options.
pub(crate) fn enable(socket: BorrowedFd<'_>, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?;
    }
    match set(socket, libc::IPPROTO_IP, ipv4::RECEIVE) {
        // Elsewhere an IPv6 socket may refuse this one. It then replies to IPv4 as the system chooses.
        Err(_) if is_ipv6 && !cfg!(target_os = "linux") => Ok(()),
        set => set,
    }
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let yes: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, because it is borrowed. The kernel reads one `int` through the
    // pointer, which is to a local one.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const yes).cast(), length)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one datagram without blocking
/// ([recvmsg(2)](https://man7.org/linux/man-pages/man2/recv.2.html)).
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control::default();
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = message(&mut slice, &mut control);
    // SAFETY: the descriptor is open, because it is borrowed. All pointers of the message are to
    // memory that lives until the end of this function, and that the kernel may write as much of as
    // the message says: the buffer, the control buffer, and the address, which `try_init` passes with
    // its size. The closure stores the size of the address that the kernel has written.
    let received = unsafe {
        SockAddr::try_init(|address, size| {
            message.msg_name = address.cast();
            message.msg_namelen = *size;
            let flags = libc::MSG_DONTWAIT | REPORTS_LENGTH;
            let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags);
            *size = message.msg_namelen;
            usize::try_from(length).map_err(|_| io::Error::last_os_error())
        })
    };
    let (length, peer) = received?;
    let is_longer = message.msg_flags & libc::MSG_TRUNC != 0;
    let length = if is_longer { length.max(buffer.len() + 1) } else { length };
    Ok(Received { length, peer: peer.as_socket(), local: local(&message) })
}

/// The address that a received message was sent to.
fn local(message: &libc::msghdr) -> Option<SocketAddr> {
    let mut local = None;
    // SAFETY: the kernel has filled in the control buffer of the message, which still lives, and its
    // length. `CMSG_FIRSTHDR` and `CMSG_NXTHDR` return pointers to whole headers in it, or null; a
    // header of these types is followed by such a structure.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, ipv4::KIND) => {
                    return of_ipv4(ipv4::address(data.cast::<ipv4::Info>().read_unaligned()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    local = of_ipv6(data.cast::<libc::in6_pktinfo>().read_unaligned());
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    local
}

fn of_ipv4(address: libc::in_addr) -> Option<SocketAddr> {
    let address = Ipv4Addr::from(address.s_addr.to_ne_bytes());
    let is_ours = !(address.is_unspecified() || address.is_multicast() || address.is_broadcast());
    is_ours.then(|| (address, 0).into())
}

/// How the system tells, and is told, an IPv4 address.
#[cfg(not(target_os = "freebsd"))]
mod ipv4 {
    pub(super) use libc::{IP_PKTINFO as KIND, IP_PKTINFO as RECEIVE, in_pktinfo as Info};

    /// On Linux `ipi_spec_dst` is the address to reply from, also to a broadcast or multicast datagram.
    /// macOS leaves it empty.
    pub(super) fn address(info: Info) -> libc::in_addr {
        if cfg!(target_os = "linux") { info.ipi_spec_dst } else { info.ipi_addr }
    }

    pub(super) fn info(address: libc::in_addr) -> Info {
        Info { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } }
    }
}

#[cfg(target_os = "freebsd")]
mod ipv4 {
    pub(super) use libc::{IP_RECVDSTADDR as KIND, IP_RECVDSTADDR as RECEIVE, in_addr as Info};

    pub(super) fn address(info: Info) -> libc::in_addr {
        info
    }

    pub(super) fn info(address: libc::in_addr) -> Info {
        address
    }
}

/// With the interface as its scope, which a link-local address needs.
fn of_ipv6(info: libc::in6_pktinfo) -> Option<SocketAddr> {
    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
    let scope = if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
    (!address.is_multicast()).then(|| SocketAddrV6::new(address, 0, 0, scope).into())
}

/// Sends one datagram from a local address, whose port does not matter
/// ([sendmsg(2)](https://man7.org/linux/man-pages/man2/send.2.html)). An IPv6 socket takes the
/// IPv4-mapped address of an IPv4 peer, and a local address of either form.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    data: &[u8],
    peer: SocketAddr,
    local: SocketAddr,
) -> io::Result<()> {
    let peer = SockAddr::from(peer);
    let mut control = Control::default();
    // The kernel only reads the data.
    let mut slice = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut message = message(&mut slice, &mut control);
    message.msg_name = peer.as_ptr().cast_mut().cast();
    message.msg_namelen = peer.len();
    match local {
        SocketAddr::V4(local) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(local.ip().octets()) };
            put(&mut message, libc::IPPROTO_IP, ipv4::KIND, ipv4::info(address));
        }
        SocketAddr::V6(local) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: local.ip().octets() },
                ipi6_ifindex: local.scope_id(),
            };
            put(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    // SAFETY: the descriptor is open, because it is borrowed. All pointers of the message are to
    // memory that lives until the end of this function, and the sizes are theirs.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for both kinds of `pktinfo`, and for what else a program has asked for on its socket; with the
/// alignment of a `cmsghdr`.
type Control = [u64; 16];

/// A message without a name.
fn message(slice: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a `msghdr` consists of pointers, which may be null, and integers.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

/// Makes this the only control message of a [`message`].
fn put<T: Copy>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, info: T) {
    let size = size_of::<T>() as libc::c_uint;
    // SAFETY: the message has a control buffer of the size and alignment of `Control`, so that the
    // first header is in it, and there is room for either structure behind that.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
    }
}
