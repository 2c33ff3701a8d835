//! The mode and owner of a Unix socket's file.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use socket2::Socket;

/// Calls `bind`, which makes the file, with no more than this mode.
pub(crate) fn bind_with_mode(
    socket: &Socket,
    mode: u32,
    bind: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    // Linux gives the file the mode of the socket, less the umask.
    rustix::fs::fchmod(socket, Mode::from_raw_mode(mode))?;
    bind()
}

/// The file of a socket that was just bound.
pub(crate) struct SocketFile(OwnedFd);

impl SocketFile {
    /// # Errors
    /// If another file has taken its place.
    pub(crate) fn open(path: &Path) -> io::Result<SocketFile> {
        // Not by the path: a process that may write to the directory could replace the file by a link
        // to another one, of which a server of root would then change the owner.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
            return Err(io::Error::other("another file has taken its place"));
        }
        Ok(SocketFile(file))
    }

    pub(crate) fn set_owner(&self, owner: Option<Uid>, group: Option<Gid>) -> io::Result<()> {
        Ok(rustix::fs::chownat(&self.0, "", owner, group, AtFlags::EMPTY_PATH)?)
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        // The one way for a descriptor by `O_PATH` before Linux 6.6 (`fchmodat2`).
        let file = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        fs::set_permissions(file, fs::Permissions::from_mode(mode))
    }
}
