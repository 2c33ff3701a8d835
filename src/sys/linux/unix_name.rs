//! Names in the abstract namespace of Unix sockets
//! ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;

use rustix::net::SocketAddrUnix;
use socket2::SockAddr;

/// Whether there are such names.
pub(crate) const HAS_ABSTRACT: bool = true;

/// An abstract name as an address of std.
pub(crate) fn from_abstract(name: &[u8]) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// An abstract name as an address of `socket2`.
pub(crate) fn sockaddr_from_abstract(name: &[u8]) -> io::Result<SockAddr> {
    SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat()))
}

/// The abstract name that an address has.
pub(crate) fn abstract_name(address: &SocketAddr) -> Option<&[u8]> {
    address.as_abstract_name()
}

/// The same of an address of `rustix`.
pub(crate) fn abstract_name_of(address: &SocketAddrUnix) -> Option<&[u8]> {
    address.abstract_name()
}
