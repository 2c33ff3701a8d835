//! Files and folders beneath one folder, and nothing else.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat,
};
use rustix::io::{Errno, pread, retry_on_intr};

/// The size of the buffer that a file is sent through.
pub(crate) const PIECE: usize = 64 * 1024;

/// The most symbolic links in a path, as many as Linux itself follows.
const MAX_LINKS: usize = 40;

/// For a file that is read. Without `O_NONBLOCK`, opening a FIFO blocks until a writer opens it.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// For a folder on the way to a file, which needs to be searchable only.
const SEARCH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The folder that is served.
pub(crate) struct Root {
    folder: OwnedFd,
    /// Absolute, and without symbolic links.
    path: PathBuf,
    /// Whether [openat2](https://man7.org/linux/man-pages/man2/openat2.2.html) can be used.
    has_openat2: bool,
}

/// What a path leads to.
pub(crate) enum Found {
    File(File),
    Folder(OwnedFd),
}

/// A regular file as it was when it was opened.
pub(crate) struct File {
    descriptor: OwnedFd,
    /// The content of a small file, nothing of a large one, and the first bytes of one whose
    /// length is not known.
    begin: Vec<u8>,
    /// `None` if only its end tells: a file of `/proc` has the size 0.
    pub(crate) length: Option<u64>,
    /// `None` if the size is not what the system says, since neither is the time; or if an HTTP
    /// date cannot express it: before 1970, or after 9999.
    pub(crate) modified: Option<SystemTime>,
}

impl Root {
    pub(crate) fn open(folder: &str) -> io::Result<Root> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{folder}: {error}"));
        let path = std::fs::canonicalize(folder).map_err(named)?;
        let folder = rustix::fs::open(&path, READ | OFlags::DIRECTORY, Mode::empty());
        let folder = folder.map_err(|errno| named(errno.into()))?;
        let mut root = Root { folder, path, has_openat2: true };
        // Linux before 5.6 does not have it, and a container may forbid it.
        root.has_openat2 = match root.open_beneath(Path::new(".")) {
            Err(Errno::NOSYS | Errno::PERM) => false,
            opened => opened.map(|_| true).map_err(|errno| named(errno.into()))?,
        };
        Ok(root)
    }

    /// Opens a path beneath the root; the empty path is the root itself.
    ///
    /// A symbolic link is followed if its target is inside the root. Neither another link nor a
    /// rename during the call leads out of the root.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Found, StatusCode> {
        let path = Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }));
        let opened = match self.has_openat2 {
            true => match self.open_beneath(path) {
                // A link that is absolute, or leads outside; or one with `..`, and a rename anywhere
                // in the system meanwhile.
                Err(Errno::XDEV | Errno::AGAIN) => self.walk(path),
                opened => opened,
            },
            false => self.walk(path),
        };
        opened.and_then(Found::of).map_err(|errno| refusal(errno, path))
    }

    /// The kernel resolves the path, and fails with `EXDEV` where it leaves the root even for a
    /// part of the way.
    fn open_beneath(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.folder, path, READ, Mode::empty(), beneath)
    }

    /// Opens one name after the other, without following links. At a link, the path of its target
    /// takes its place, and the walk starts again.
    fn walk(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut path = Path::new(".").join(path);
        'links: for _ in 0..=MAX_LINKS {
            let mut opened = None;
            let mut walked = PathBuf::new();
            let mut names = path.iter();
            while let Some(name) = names.next() {
                let (folder, rest) = (opened.as_ref().unwrap_or(&self.folder), names.as_path());
                let flags = if rest.as_os_str().is_empty() { READ } else { SEARCH };
                walked.push(name);
                match openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
                    Err(Errno::LOOP | Errno::NOTDIR) if is_link(folder, name)? => {
                        path = [Path::new("."), &self.target(&walked)?, rest].iter().collect();
                        continue 'links;
                    }
                    next => opened = Some(next?),
                }
            }
            return opened.ok_or(Errno::NOENT);
        }
        Err(Errno::LOOP)
    }

    /// The path of a link's target beneath the root, without links. The result is no proof, since
    /// a rename may follow: it is only where the walk continues.
    fn target(&self, link: &Path) -> Result<PathBuf, Errno> {
        let target = std::fs::canonicalize(self.path.join(link));
        let target = target.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        target.strip_prefix(&self.path).map(Path::to_owned).map_err(|_| Errno::XDEV)
    }
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> Result<bool, Errno> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

impl Found {
    fn of(descriptor: OwnedFd) -> Result<Found, Errno> {
        let stat = fstat(&descriptor)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Found::Folder(descriptor)),
            FileType::RegularFile => Ok(Found::File(File::read(descriptor, &stat)?)),
            _ => Err(Errno::NODEV),
        }
    }
}

/// The status for a path that cannot be opened or read. A path out of the root is reported as
/// missing.
pub(crate) fn refusal(errno: Errno, path: &Path) -> StatusCode {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::NAMETOOLONG => StatusCode::NOT_FOUND,
        // A path out of the root; too many links; a socket, or another type of file.
        Errno::XDEV | Errno::LOOP | Errno::NXIO | Errno::NODEV => StatusCode::NOT_FOUND,
        Errno::ACCESS | Errno::PERM => StatusCode::FORBIDDEN,
        // Nothing to read now; no descriptors or memory left.
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
    /// Reads what seems to be a small file, to see whether it is: a file of `/proc` has the size 0,
    /// and a file of `/sys` that of a page.
    fn read(descriptor: OwnedFd, stat: &Stat) -> Result<File, Errno> {
        let (size, modified) = (stat.st_size as u64, http_time(stat.st_mtime));
        if size > PIECE as u64 {
            return Ok(File { descriptor, begin: Vec::new(), length: Some(size), modified });
        }
        // Some files of `/proc/sys` can only be read at once.
        let mut begin = Vec::with_capacity(PIECE);
        while begin.len() < PIECE {
            let at = begin.len() as u64;
            if retry_on_intr(|| pread(&descriptor, spare_capacity(&mut begin), at))? == 0 {
                break;
            }
        }
        let read = begin.len() as u64;
        let is_known = begin.len() < PIECE || read == size;
        let length = is_known.then_some(read);
        Ok(File { descriptor, begin, length, modified: modified.filter(|_| length == Some(size)) })
    }

    /// The content, if it is in memory.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        (self.length == Some(self.begin.len() as u64)).then_some(&self.begin)
    }

    /// Reads bytes at this offset; 0 at the end of the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match usize::try_from(at).ok().and_then(|at| self.begin.get(at..)) {
            Some(mut rest @ [_, ..]) => rest.read(buffer),
            _ => Ok(retry_on_intr(|| pread(&self.descriptor, &mut *buffer, at))?),
        }
    }
}
