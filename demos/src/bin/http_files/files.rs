//! Files and folders beneath one folder, and nothing else.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

/// The folder that is served.
pub(crate) struct Root(OwnedFd);

/// What a path leads to.
pub(crate) enum Found {
    File(File),
    Folder(OwnedFd),
}

/// A regular file as it was when it was opened.
pub(crate) struct File {
    file: std::fs::File,
    pub(crate) length: u64,
    /// `None` if an HTTP date cannot express it: before 1970, or after 9999.
    pub(crate) modified: Option<SystemTime>,
}

impl Root {
    pub(crate) fn open(folder: &str) -> io::Result<Root> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{folder}: {error}"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty());
        Ok(Root(folder.map_err(|errno| named(errno.into()))?))
    }

    /// Opens a path beneath the root; the empty path is the root itself.
    ///
    /// The kernel resolves the path beneath the root
    /// ([openat2](https://man7.org/linux/man-pages/man2/openat2.2.html), Linux 5.6 or newer), so
    /// neither a symbolic link nor a rename during the call leads out of it. A link that stays
    /// inside is followed.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Found, StatusCode> {
        let path = OsStr::from_bytes(if path.is_empty() { b"." } else { path });
        // Without O_NONBLOCK, opening a FIFO blocks until a writer opens it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, path, flags, Mode::empty(), beneath)
            .and_then(Found::of)
            .map_err(|errno| refusal(errno, path))
    }
}

impl Found {
    fn of(descriptor: OwnedFd) -> Result<Found, Errno> {
        let stat = fstat(&descriptor)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Found::Folder(descriptor)),
            FileType::RegularFile => Ok(Found::File(File {
                file: descriptor.into(),
                length: stat.st_size as u64,
                modified: http_time(stat.st_mtime),
            })),
            _ => Err(Errno::NODEV),
        }
    }
}

/// The status for a path that cannot be opened. A path out of the root is reported as missing.
fn refusal(errno: Errno, path: &OsStr) -> StatusCode {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => StatusCode::NOT_FOUND,
        // A path out of the root; too many links; a socket, or another type of file.
        Errno::XDEV | Errno::LOOP | Errno::NXIO | Errno::NODEV => StatusCode::NOT_FOUND,
        Errno::ACCESS | Errno::PERM => StatusCode::FORBIDDEN,
        // A rename during the lookup; no descriptors or memory left.
        Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        other => {
            log::warn!("{path:?}: {other}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn http_time(seconds: i64) -> Option<SystemTime> {
    const YEAR_10000: u64 = 253_402_300_800;
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds < YEAR_10000)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

impl File {
    /// Reads bytes at this offset; 0 at the end of the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}
