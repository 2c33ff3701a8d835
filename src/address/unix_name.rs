//! [`UnixName`]: the name of a Unix socket, with the escapes by which it is shown and parsed.

use std::fmt::{self, Write};
use std::os::unix;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use socket2::SockAddr;

use crate::sys::unix_name;

/// The name of a Unix socket: one of the three kinds of address of
/// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), which has no others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixName {
    /// The path of a socket file.
    Path(PathBuf),
    /// A name in Linux's abstract namespace, without the leading NUL; shown as `@name`. Other systems have
    /// no such names.
    Abstract(Vec<u8>),
    /// No name: the socket was not bound. Shown as nothing.
    Unnamed,
}

impl UnixName {
    /// The longest path or abstract name, in bytes: `sockaddr_un` of Linux has room for 108, of which a
    /// NUL takes one, and that of other systems for 104.
    pub const MAX_LENGTH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

    /// The name in the form that std's sockets take.
    ///
    /// # Errors
    /// `AddrNotAvailable` for [`Unnamed`](UnixName::Unnamed); `InvalidInput` for a name that is too
    /// long, or a path with a NUL in it.
    pub fn socket_addr(&self) -> std::io::Result<unix::net::SocketAddr> {
        match self {
            UnixName::Path(path) => unix::net::SocketAddr::from_pathname(path),
            UnixName::Abstract(name) => unix_name::from_abstract(name),
            UnixName::Unnamed => Err(no_name()),
        }
    }

    /// The same for `socket2`.
    pub(crate) fn to_sockaddr(&self) -> std::io::Result<SockAddr> {
        match self {
            UnixName::Path(path) => SockAddr::unix(path),
            UnixName::Abstract(name) => unix_name::sockaddr_from_abstract(name),
            UnixName::Unnamed => Err(no_name()),
        }
    }

    pub(crate) fn from_std(address: &unix::net::SocketAddr) -> UnixName {
        if let Some(path) = address.as_pathname() {
            UnixName::Path(path.to_owned())
        } else if let Some(name) = unix_name::abstract_name(address) {
            UnixName::Abstract(name.to_owned())
        } else {
            UnixName::Unnamed
        }
    }
}

fn no_name() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "the Unix socket has no name")
}

/// The peer chooses the bytes of its name. Control characters, which could drive a terminal or
/// break a line of a log, and bytes that are not UTF-8 are shown as `\xNN`, a backslash as two.
/// [`Endpoint`](super::Endpoint) parses that.
impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixName::Path(path) => match path.as_os_str().as_bytes() {
                // A path that begins with `@` would look like an abstract name.
                [b'@', rest @ ..] => {
                    f.write_str("\\x40")?;
                    escape(rest, f)
                }
                path => escape(path, f),
            },
            UnixName::Abstract(name) => {
                f.write_str("@")?;
                escape(name, f)
            }
            UnixName::Unnamed => Ok(()),
        }
    }
}

fn escape(name: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                c if c.is_control() => escape_bytes(c.encode_utf8(&mut [0; 4]).as_bytes(), f)?,
                c => f.write_char(c)?,
            }
        }
        escape_bytes(chunk.invalid(), f)?;
    }
    Ok(())
}

fn escape_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// The inverse of [`escape`]. A backslash that begins no escape stands for itself.
pub(super) fn unescape(shown: &str) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = shown.as_bytes();
    while let [byte, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', b'\\', after @ ..] => (b'\\', after),
            [b'\\', b'x', high, low, after @ ..] => match hexadecimal([*high, *low]) {
                Some(byte) => (byte, after),
                None => (b'\\', &rest[1..]),
            },
            _ => (*byte, after),
        };
        name.push(byte);
        rest = after;
    }
    name
}

fn hexadecimal(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    Some((high? * 16 + low?) as u8)
}
