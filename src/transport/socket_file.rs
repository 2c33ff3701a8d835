//! Binding a Unix socket to its name: a stale socket file is replaced, and the file is removed at
//! the end.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::address::UnixName;

/// The file of a bound socket. When this is dropped the file is removed, unless another one has
/// taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        // The program may change its working directory before the file is removed.
        let path = std::path::absolute(path)?;
        let metadata = std::fs::symlink_metadata(&path)?;
        Ok(SocketFile { path, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server may have replaced the file by its own.
        if let Ok(metadata) = std::fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == (self.device, self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Binds to a name. A stale socket file, which a killed server has left behind, is replaced.
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
