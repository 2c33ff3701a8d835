//! Binding a Unix socket to its name: a stale socket file is replaced, and the file is removed at
//! the end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::permissions::Permissions;
use crate::address::UnixName;
use crate::config::TransportOptions;
use crate::sys::fork::generation;

/// The file of a bound socket. When this is dropped the file is removed, unless another one has
/// taken its place.
///
/// It has to be dropped before the socket is closed. The file of a closed socket is stale: another
/// server may replace it at any moment, and the system may give the new file the old one's inode.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The file is this process's to remove, and not that of one that was handed the socket.
    is_own: AtomicBool,
    /// Of the process that has bound it. A child that serves beside its parent has a copy of this, and
    /// must leave the file alone.
    generation: u32,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        // The program may change its working directory before the file is removed.
        let path = std::path::absolute(path)?;
        let metadata = std::fs::symlink_metadata(&path)?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        let is_own = AtomicBool::new(true);
        Ok(SocketFile { path, device, inode, is_own, generation: generation() })
    }

    /// That of a socket which another process has bound, and which is still its own.
    pub(super) fn of_other(path: &Path) -> io::Result<SocketFile> {
        let file = SocketFile::at(path)?;
        file.set_own(false);
        Ok(file)
    }

    pub(super) fn set_own(&self, yes: bool) {
        self.is_own.store(yes, Ordering::SeqCst);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server may have replaced the file by its own.
        if self.is_own.load(Ordering::SeqCst)
            && self.generation == generation()
            && let Ok(metadata) = std::fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == (self.device, self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Binds a socket of this type to a name. A stale socket file, which a killed server has left behind, is
/// replaced: of several servers that find it, by one.
pub(super) fn bind(
    name: &UnixName,
    kind: Type,
    options: &TransportOptions,
) -> io::Result<(Socket, Option<SocketFile>)> {
    let permissions = Permissions::new(name, options)?;
    let bind = |name: &UnixName| {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        options.prepare_socket(&socket)?;
        let address = name.to_sockaddr()?;
        permissions.restrict(&socket, || socket.bind(&address))?;
        Ok(socket)
    };
    let (socket, file) = bind_with(name, bind, |path| std::fs::remove_file(path))?;
    if let Some(file) = &file {
        permissions.set(&file.path)?;
    }
    Ok((socket, file))
}

fn bind_with<S>(
    name: &UnixName,
    bind: impl Fn(&UnixName) -> io::Result<S>,
    remove: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<(S, Option<SocketFile>)> {
    let UnixName::Path(path) = name else { return Ok((bind(name)?, None)) };
    let _lock = DirectoryLock::take(path);
    let bound = match bind(name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match std::fs::symlink_metadata(path) {
                Ok(file) if !file.file_type().is_socket() || is_alive(name)? => return Err(error),
                Ok(_) => {
                    log::info!("replacing the stale socket {}", path.display());
                    // A server that ended during the connect has removed its file itself.
                    remove(path).or_else(|error| match error.kind() {
                        io::ErrorKind::NotFound => Ok(()),
                        _ => Err(error),
                    })?;
                }
                // A server has ended meanwhile, and removed its file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            bind(name)?
        }
        bound => bound?,
    };
    Ok((bound, Some(SocketFile::at(path)?)))
}

/// The lock of the directory that a socket file is in
/// ([flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html)), which a server holds while it
/// binds. Without it two servers that find a stale file could both remove it, the second one the file
/// that the first one has just made.
struct DirectoryLock(OwnedFd);

impl DirectoryLock {
    /// `None` if this process may not read the directory, or another one keeps it locked. A name that
    /// is free, or in use, needs no lock.
    fn take(path: &Path) -> Option<DirectoryLock> {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = directory.unwrap_or(Path::new("."));
        let directory = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
        let deadline = Instant::now() + MAX_LOCK_WAIT;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(DirectoryLock(directory)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return None,
            }
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing does not unlock if a child that was forked meanwhile has the descriptor too.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// A server holds the lock for well under a millisecond. Any process that can read the directory may
/// lock it, and shall not keep a server from starting.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(5);

/// Whether a socket, stream or datagram, is bound to the name, going by the error of a connect. The
/// probe is a datagram socket: to a stream socket its connect fails at once (`EPROTOTYPE`), where a
/// stream probe would block on a full backlog, or be accepted as a connection.
fn is_alive(name: &UnixName) -> io::Result<bool> {
    let probe = UnixDatagram::unbound()?;
    match probe.connect_addr(&name.socket_addr()?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        // Connected, or an error other than `ECONNREFUSED`: assume a live socket.
        Ok(()) | Err(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;

    use super::*;
    use crate::address::Endpoint;
    use crate::transport::{self, Transport};

    /// An unused path for a socket, removed on drop.
    struct TempPath(PathBuf);

    impl TempPath {
        fn new(name: &str) -> TempPath {
            let name = format!("socketserver-test-{}-{name}", std::process::id());
            TempPath(std::env::temp_dir().join(name))
        }
    }

    impl Drop for TempPath {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn one_of_several_servers_that_start_at_once_replaces_a_stale_socket() {
        let path = TempPath::new("stale");
        drop(UnixListener::bind(&path.0).unwrap());
        let name = UnixName::Path(path.0.clone());
        let barrier = Barrier::new(4);
        let listen = |name: &UnixName| UnixListener::bind_addr(&name.socket_addr()?);
        let remove = |path: &Path| {
            // Long enough for the others to find the stale socket.
            thread::sleep(Duration::from_millis(200));
            std::fs::remove_file(path)
        };
        let start = || {
            barrier.wait();
            bind_with(&name, listen, remove)
        };
        let bound: Vec<_> = thread::scope(|scope| {
            let servers = [(); 4].map(|()| scope.spawn(start));
            servers.map(|server| server.join().unwrap()).into()
        });
        let (won, lost): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{won:?}");
        for error in lost.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        }
        UnixStream::connect(&path.0).unwrap();
        drop(won);
        assert!(!path.0.exists());
    }

    /// A server ends while the next one waits to start.
    fn succeeds<T: Transport>(path: &Path) {
        let endpoint = Endpoint::try_from(path).unwrap();
        let name = UnixName::Path(path.to_owned());
        let bind = || T::bind(&endpoint, &TransportOptions::default()).unwrap();
        let mut server = bind();
        for _ in 0..200 {
            server = thread::scope(|scope| {
                let next = scope.spawn(|| {
                    while path.exists() {
                        // A file of a closed socket would be replaced, and might then be removed.
                        // A connect that found the file just before it was removed is refused too.
                        assert!(is_alive(&name).unwrap() || !path.exists());
                    }
                    bind()
                });
                thread::sleep(Duration::from_micros(100));
                drop(server);
                next.join().unwrap()
            });
            assert!(path.exists() && is_alive(&name).unwrap());
        }
    }

    #[test]
    fn a_server_removes_its_file_before_it_closes_its_socket() {
        succeeds::<transport::UnixStream>(&TempPath::new("stream").0);
        succeeds::<transport::UnixDatagram>(&TempPath::new("datagram").0);
    }
}
