//! The mode and owner of a Unix socket's file.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};
use rustix::process::umask;
use socket2::Socket;

/// One thread at a time changes the umask, which is the process's.
static UMASK: Mutex<()> = Mutex::new(());

/// Calls `bind`, which makes the file, with no more than this mode. A file that another thread makes
/// meanwhile gets no more either.
pub(crate) fn bind_with_mode(
    _socket: &Socket,
    mode: u32,
    bind: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let _lock = UMASK.lock();
    // Closed to others while the umask before is not known.
    let before = umask(Mode::from_raw_mode(0o777));
    umask(before | Mode::from_raw_mode(!(mode as rustix::fs::RawMode) & 0o777));
    let bound = bind();
    umask(before);
    bound
}

/// The file of a socket that was just bound.
pub(crate) struct SocketFile(PathBuf);

impl SocketFile {
    /// There is no descriptor of a socket's file. What follows no link concerns the file that is there
    /// at that moment, which a process that may write to the directory can replace after this look.
    ///
    /// # Errors
    /// If another file has taken its place.
    pub(crate) fn open(path: &Path) -> io::Result<SocketFile> {
        match path.symlink_metadata()?.file_type().is_socket() {
            true => Ok(SocketFile(path.to_owned())),
            false => Err(io::Error::other("another file has taken its place")),
        }
    }

    pub(crate) fn set_owner(&self, owner: Option<Uid>, group: Option<Gid>) -> io::Result<()> {
        Ok(rustix::fs::chownat(CWD, &self.0, owner, group, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let path = CString::new(self.0.as_os_str().as_bytes())?;
        let (mode, flags) = (mode as libc::mode_t, libc::AT_SYMLINK_NOFOLLOW);
        // SAFETY: the pointer is to a text that ends with NUL, and lives during the call.
        match unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
