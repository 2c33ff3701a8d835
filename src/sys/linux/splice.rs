//! [splice(2)]: bytes go from one socket to another through a pipe, and are not copied into this process.
//!
//! [splice(2)]: https://man7.org/linux/man-pages/man2/splice.2.html

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};

use super::pipe::pipe;
use super::process::sigpipe_kills;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(crate) struct SplicePipe {
    read: OwnedFd,
    write: OwnedFd,
    length: usize,
}

/// How much a pipe can hold, if the system allows it: more than a socket has received at a time, mostly.
const CAPACITY: usize = 256 * 1024;

impl SplicePipe {
    /// Takes two descriptors.
    ///
    /// # Errors
    /// `Unsupported` where `SIGPIPE` would end the process: splice(2) has no `MSG_NOSIGNAL`.
    pub(crate) fn new() -> io::Result<SplicePipe> {
        if sigpipe_kills() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (read, write) = pipe()?;
        // Above the user's share of memory for pipes (`pipe-user-pages-soft`) it stays as it is.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        Ok(SplicePipe { read, write, length: 0 })
    }

    /// How many bytes are in it.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Takes at most `max` bytes from a non-blocking socket, when the pipe is empty; 0 is EOF.
    ///
    /// # Errors
    /// `WouldBlock` if there are none.
    pub(crate) fn fill(&mut self, from: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let max = max.min(CAPACITY);
        let length = splice(from, None, &self.write, None, max, flags())?;
        self.length += length;
        Ok(length)
    }

    /// Gives what is in it to a non-blocking socket, or as much as there is room for.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room.
    pub(crate) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<usize> {
        let length = splice(&self.read, None, to, None, self.length, flags())?;
        self.length -= length;
        Ok(length)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
