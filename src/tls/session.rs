//! [`Session`]: the state of TLS on one stream, which sees no wait.

use std::io::{self, BufRead, IoSlice, Read, Write};

use rustls::Connection;

use super::TlsInfo;
use crate::error::Error;
use crate::net::Stream;

pub(super) struct Session {
    tls: Connection,
    /// The peer has broken the rules, or said by an alert that this side has.
    failure: Option<String>,
    has_received_eof: bool,
    has_ended_output: bool,
}

/// What a handshake has to wait for.
pub(super) enum Progress {
    Done,
    WantsInput,
    WantsRoom,
}

impl Session {
    pub(super) fn new(tls: Connection) -> Session {
        Session { tls, failure: None, has_received_eof: false, has_ended_output: false }
    }

    pub(super) fn info(&self) -> TlsInfo {
        TlsInfo::of(&self.tls)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether there is something to send, as far as this session knows.
    pub(super) fn has_pending_output(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends what is pending, without blocking.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room for all of it.
    pub(super) fn send(&mut self, socket: &dyn Stream) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut WithoutBlocking(socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Decrypts the front of `ciphertext` until `take` has what it wants. `None` if that needs more.
    pub(super) fn decrypt<R>(
        &mut self,
        ciphertext: &mut &[u8],
        socket: &dyn Stream,
        take: &mut impl FnMut(&mut Session) -> io::Result<Option<R>>,
    ) -> io::Result<Option<R>> {
        loop {
            if let Some(taken) = take(self)? {
                return Ok(Some(taken));
            }
            self.check()?;
            if ciphertext.is_empty() {
                return Ok(None);
            }
            // At most 4 KiB. There is room: what is decrypted was all taken.
            self.tls.read_tls(ciphertext)?;
            if let Err(error) = self.tls.process_new_packets() {
                self.failure = Some(error.to_string());
            }
            if !self.tls.is_handshaking() || self.failure.is_some() {
                // The answer to a new key, or the alert. If there is no room, the next write sends it.
                let _ = self.send(socket);
            }
        }
    }

    /// The peer has shut its write side.
    pub(super) fn receive_eof(&mut self) -> io::Result<()> {
        self.has_received_eof = true;
        self.tls.read_tls(&mut io::empty()).map(drop)
    }

    fn check(&self) -> io::Result<()> {
        match &self.failure {
            Some(reason) => Err(Error::Tls { reason: reason.clone() }.into()),
            None => Ok(()),
        }
    }

    /// Something, if the handshake is complete or has to send something.
    pub(super) fn handshake_went_on(&mut self) -> io::Result<Option<()>> {
        if self.has_received_eof {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((!self.tls.is_handshaking() || self.tls.wants_write()).then_some(()))
    }

    /// Reads what is decrypted; 0 is the end of the peer's output. `None` if more has to be received.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.tls.reader().read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) => no_input(&error),
        }
    }

    /// Whether [`read`](Session::read) would return something.
    pub(super) fn has_input(&mut self) -> bool {
        match self.tls.reader().fill_buf() {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether the next read returns without more ciphertext: something, the end, or an error.
    pub(super) fn has_more(&mut self) -> bool {
        self.failure.is_some() || self.has_input()
    }

    /// How many bytes are decrypted and not read.
    pub(super) fn unread(&mut self) -> usize {
        self.tls.process_new_packets().map_or(0, |state| state.plaintext_bytes_to_read())
    }

    /// How many encrypted bytes are to be sent.
    pub(super) fn unsent(&mut self) -> usize {
        self.tls.process_new_packets().map_or(0, |state| state.tls_bytes_to_write())
    }

    /// Encrypts as much as may be pending (64 KiB), if nothing is.
    pub(super) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.check()?;
        match self.has_ended_output {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => self.tls.writer().write_vectored(slices),
        }
    }

    /// Makes `close_notify` pending, once.
    pub(super) fn end_output(&mut self) {
        self.has_ended_output = true;
        self.tls.send_close_notify();
    }
}

/// What an error of a read of plaintext means: `None` if there is nothing yet.
fn no_input<T>(error: &io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(None),
        _ => Err(Error::TlsTruncated.into()),
    }
}

/// Writes without blocking.
struct WithoutBlocking<'a>(&'a dyn Stream);

impl Write for WithoutBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
