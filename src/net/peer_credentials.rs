//! [`PeerCredentials`]: which process is at the other end of a Unix socket.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::socket;

/// The process at the other end of a Unix stream socket, as it was when it connected
/// (`SO_PEERCRED`, [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)): see
/// [`Connection::peer_credentials`](crate::Connection::peer_credentials).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process's number; `None` if it is not visible from here, as one outside of the container.
    /// It may have ended meanwhile, or have passed its socket on, and the number may be another
    /// process's: not for deciding what the peer may do.
    pub pid: Option<u32>,
    /// Its effective user. A user that does not exist in the container is 65534.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl PeerCredentials {
    /// Of a connected Unix stream socket.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
        let [pid, uid, gid] = socket::peer_credentials(fd)?;
        Ok(PeerCredentials { pid: (pid != 0).then_some(pid), uid, gid })
    }
}
