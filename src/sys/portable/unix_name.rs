//! There are no names of Unix sockets besides paths.

use std::io;
use std::os::unix::net::SocketAddr;

use rustix::net::SocketAddrUnix;
use socket2::SockAddr;

pub(crate) const HAS_ABSTRACT: bool = false;

/// # Errors
/// `Unsupported`.
pub(crate) fn from_abstract(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(unsupported())
}

/// # Errors
/// `Unsupported`.
pub(crate) fn sockaddr_from_abstract(_name: &[u8]) -> io::Result<SockAddr> {
    Err(unsupported())
}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract names of Unix sockets")
}

pub(crate) fn abstract_name(_address: &SocketAddr) -> Option<&[u8]> {
    None
}

pub(crate) fn abstract_name_of(_address: &SocketAddrUnix) -> Option<&[u8]> {
    None
}
