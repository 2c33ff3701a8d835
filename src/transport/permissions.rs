//! The owner, group and mode of a Unix socket's file, which decide who may connect.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use socket2::Socket;

use crate::address::UnixName;
use crate::config::TransportOptions;

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

    /// To be called before the socket is bound: until [`set`](Permissions::set) only its own user may
    /// connect, or send datagrams. Linux makes the file with the mode of the socket itself, less the
    /// umask.
    pub(super) fn restrict(&self, socket: &Socket) -> io::Result<()> {
        let mode = self.mode.map(|mode| Mode::from_raw_mode(mode & 0o700));
        mode.map_or(Ok(()), |mode| Ok(rustix::fs::fchmod(socket, mode)?))
    }

    /// To be called when it is bound to this path, and before it listens.
    pub(super) fn set(&self, path: &Path) -> io::Result<()> {
        if self.mode.or(self.owner).or(self.group).is_none() {
            return Ok(());
        }
        // Not by the path: a process that may write to the directory could replace the file by a link
        // to another one, of which a server of root would then change the owner.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
            return Err(io::Error::other("another file has taken its place"));
        }
        let (owner, group) = (self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw));
        if owner.is_some() || group.is_some() {
            rustix::fs::chownat(&file, "", owner, group, AtFlags::EMPTY_PATH)
                .map_err(|error| cannot("owner or group", error.into()))?;
        }
        let Some(mode) = self.mode else { return Ok(()) };
        // The one way for a descriptor by `O_PATH` before Linux 6.6 (`fchmodat2`).
        let file = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(file, fs::Permissions::from_mode(mode))
            .map_err(|error| cannot("mode", error))
    }
}

fn cannot(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot set its {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
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
            permissions.restrict(&socket).unwrap();
            socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
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
