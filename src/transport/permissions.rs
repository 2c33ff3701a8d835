//! The owner, group and mode of a Unix socket's file, which decide who may connect.

use std::io;
use std::path::Path;

use rustix::fs::{Gid, Uid};
use socket2::Socket;

use crate::address::UnixName;
use crate::config::TransportOptions;
use crate::sys::socket_file;

/// What is to be set; `None` for what the system chooses.
pub(super) struct Permissions {
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
}

impl Permissions {
    /// # Errors
    /// `InvalidInput` for what is no mode, and for a name without a file.
    pub(super) fn new(name: &UnixName, options: &TransportOptions) -> io::Result<Permissions> {
        let TransportOptions {
            socket_mode: mode, socket_owner: owner, socket_group: group, ..
        } = *options;
        let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if let Some(mode @ 0o1000..) = mode {
            return invalid(format!("{mode:#o} is not a mode of a socket, such as 0o660"));
        }
        let is_set = mode.or(owner).or(group).is_some();
        if is_set && !matches!(name, UnixName::Path(_)) {
            return invalid("an abstract name has no mode, owner and group".to_owned());
        }
        Ok(Permissions { mode, owner, group })
    }

    /// Calls `bind`, after which, until [`set`](Permissions::set), only its own user may connect, or send
    /// datagrams.
    pub(super) fn restrict(
        &self,
        socket: &Socket,
        bind: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        match self.mode {
            Some(mode) => socket_file::bind_with_mode(socket, mode & 0o700, bind),
            None => bind(),
        }
    }

    /// To be called when it is bound to this path, and before it listens.
    pub(super) fn set(&self, path: &Path) -> io::Result<()> {
        if self.mode.or(self.owner).or(self.group).is_none() {
            return Ok(());
        }
        let file = socket_file::SocketFile::open(path)?;
        let (owner, group) = (self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw));
        if owner.is_some() || group.is_some() {
            file.set_owner(owner, group).map_err(|error| cannot("owner or group", error))?;
        }
        let Some(mode) = self.mode else { return Ok(()) };
        file.set_mode(mode).map_err(|error| cannot("mode", error))
    }
}

fn cannot(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot set its {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use socket2::{Domain, Type};

    use super::*;

    /// A directory, removed on drop.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> TempDir {
            let name = format!("socketserver-test-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            TempDir(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn permissions(path: &Path, mode: u32) -> Permissions {
        let options = TransportOptions { socket_mode: Some(mode), ..TransportOptions::default() };
        Permissions::new(&UnixName::Path(path.to_owned()), &options).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_can_connect_before_the_mode_is_set() {
        let directory = TempDir::new("restricted");
        for (number, kind) in [Type::STREAM, Type::DGRAM].into_iter().enumerate() {
            let path = directory.0.join(number.to_string());
            let permissions = permissions(&path, 0o666);
            let socket = Socket::new(Domain::UNIX, kind, None).unwrap();
            let address = socket2::SockAddr::unix(&path).unwrap();
            permissions.restrict(&socket, || socket.bind(&address)).unwrap();
            // Whatever the umask is; the default one would leave 0o755.
            assert_eq!(mode(&path) & 0o177, 0, "{:o}", mode(&path));
            permissions.set(&path).unwrap();
            assert_eq!(mode(&path), 0o666);
        }
    }

    #[test]
    fn a_file_that_has_taken_the_place_of_the_socket_is_left_alone() {
        let directory = TempDir::new("replaced");
        let [file, link, socket] = ["file", "link", "socket"].map(|name| directory.0.join(name));
        fs::write(&file, "secret").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&file, &link).unwrap();
        std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for replaced in [&file, &link] {
            assert!(permissions(replaced, 0o666).set(replaced).is_err());
            assert_eq!(mode(&file), 0o600);
        }
        // Nor is a socket that a link leads to.
        let other = directory.0.join("other");
        symlink(&socket, &other).unwrap();
        let before = mode(&socket);
        assert!(permissions(&other, 0o777).set(&other).is_err());
        assert_eq!(mode(&socket), before);
    }
}
