//! The descriptors that a [`SharedStream`] receives and sends with its bytes, if it is a Unix socket.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

use super::SharedStream;
use crate::address::Address;
use crate::error::Error;
use crate::net::Stream;
use crate::sys::rights::{self, MAX_DESCRIPTORS};
use crate::sys::socket::Mode;

impl SharedStream {
    /// From now on reads keep the descriptors that come with the bytes.
    pub(crate) fn keep_descriptors(&self, max: usize) -> io::Result<()> {
        self.passing_socket()?;
        self.descriptors.get_or_init(Box::default).set_max(max);
        Ok(())
    }

    pub(crate) fn next_descriptor(&self) -> Option<OwnedFd> {
        self.descriptors.get()?.next()
    }

    /// The socket, if it is one that passes descriptors and carries the bytes as they are.
    fn passing_socket(&self) -> io::Result<BorrowedFd<'_>> {
        let is_unix = self.is_plain && matches!(self.peer, Address::Unix(_));
        let socket = self.inner.as_fd().filter(|_| is_unix);
        let unsupported = || {
            let reason = "only a Unix stream socket passes descriptors, and not under TLS";
            Error::Unsupported { reason }.into()
        };
        socket.ok_or_else(unsupported)
    }

    /// # Errors
    /// That of what cannot be sent; see [`Connection::send_fds`](crate::Connection::send_fds).
    pub(crate) fn check_descriptors(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.passing_socket()?;
        let reason = match (bytes.len(), descriptors.len()) {
            (0, _) => "descriptors travel with one byte at least",
            (_, 0..=MAX_DESCRIPTORS) => return Ok(()),
            _ => "at most 253 descriptors travel at a time",
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
    }

    /// One read of the stream or its carrier.
    #[inline(always)]
    pub(super) fn receive(
        &self,
        from: &dyn Stream,
        buffer: &mut [u8],
        mode: Mode,
    ) -> io::Result<usize> {
        if let Some(descriptors) = self.descriptors.get() {
            return match descriptors.receive(self.passing_socket()?, buffer, mode) {
                // Only where `HIDES_END`.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && self.has_input_beyond_fd() == Some(true) =>
                {
                    Ok(0)
                }
                received => received,
            };
        }
        match mode {
            Mode::AsSet => from.read(buffer),
            Mode::Try => from.try_read(buffer),
        }
    }

    /// One write.
    #[inline(always)]
    pub(super) fn send(
        &self,
        slices: &[IoSlice<'_>],
        descriptors: &[BorrowedFd<'_>],
        mode: Mode,
    ) -> io::Result<usize> {
        if !descriptors.is_empty() {
            return rights::send(self.passing_socket()?, slices, descriptors, mode);
        }
        match mode {
            Mode::AsSet => self.inner.write(slices),
            Mode::Try => self.inner.try_write(slices),
        }
    }
}
