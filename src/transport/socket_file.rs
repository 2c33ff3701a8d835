//! Binding a Unix socket to a name, and letting go of it.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::address::UnixName;

/// The file of a bound socket, removed in the end if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        // The program may change its directory before it ends.
        let path = std::path::absolute(path)?;
        let metadata = std::fs::symlink_metadata(&path)?;
        Ok(SocketFile { path, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server may have put its own socket there since.
        if let Ok(metadata) = std::fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == (self.device, self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Binds to a name. A socket file that nobody listens on, left behind by a server that was killed,
/// is replaced.
pub(super) fn bind<S>(
    name: &UnixName,
    bind: impl Fn(&UnixName) -> io::Result<S>,
) -> io::Result<(S, Option<SocketFile>)> {
    let bound = match (bind(name), name) {
        (Err(error), UnixName::Path(path)) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            if !is_socket || is_alive(name)? {
                return Err(error);
            }
            log::info!("replacing the stale socket {}", path.display());
            std::fs::remove_file(path)?;
            bind(name)?
        }
        (bound, _) => bound?,
    };
    let file = match name {
        UnixName::Path(path) => Some(SocketFile::at(path)?),
        _ => None,
    };
    Ok((bound, file))
}

/// Whether a socket of either kind is behind the name. A datagram socket does the asking: it
/// neither waits for room in the backlog of a stream socket nor becomes a connection in it, but is
/// told at once that it is of the wrong type.
fn is_alive(name: &UnixName) -> io::Result<bool> {
    let probe = UnixDatagram::unbound()?;
    match probe.connect_addr(&name.socket_addr()?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        // A socket of the other type, or one that does not want to talk: somebody is there.
        Ok(()) | Err(_) => Ok(true),
    }
}
