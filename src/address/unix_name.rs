//! Names of Unix sockets.

use std::fmt::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The name of a Unix socket ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixName {
    /// A file.
    Path(PathBuf),
    /// A name in Linux's abstract namespace, without the leading NUL; written `@name`.
    Abstract(Vec<u8>),
    /// No name: a socket that was never bound.
    Unnamed,
}

impl UnixName {
    /// The longest path, in bytes: what `sockaddr_un` holds, less the final NUL.
    pub const MAX_LENGTH: usize = 107;

    /// The name as std's sockets take it.
    ///
    /// # Errors
    /// `AddrNotAvailable` for no name, `InvalidInput` for one that no socket can have.
    pub fn socket_addr(&self) -> std::io::Result<unix::net::SocketAddr> {
        match self {
            UnixName::Path(path) => unix::net::SocketAddr::from_pathname(path),
            UnixName::Abstract(name) => unix::net::SocketAddr::from_abstract_name(name),
            UnixName::Unnamed => Err(std::io::Error::new(
                std::io::ErrorKind::AddrNotAvailable,
                "the Unix socket has no name",
            )),
        }
    }

    pub(crate) fn from_std(address: &unix::net::SocketAddr) -> UnixName {
        if let Some(path) = address.as_pathname() {
            UnixName::Path(path.to_owned())
        } else if let Some(name) = address.as_abstract_name() {
            UnixName::Abstract(name.to_owned())
        } else {
            UnixName::Unnamed
        }
    }
}

/// Paths and names are bytes of the peer's choice: what would drive a terminal, end a line or is
/// not UTF-8 is shown as `\xNN`, and a backslash as two. [`Endpoint`](super::Endpoint) reads that.
impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixName::Path(path) => match path.as_os_str().as_bytes() {
                // Not the abstract name that it looks like.
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

/// The inverse of [`escape`]. A backslash that begins no escape is one.
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
