//! [`TlsStream`]: TLS over another stream.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::TlsInfo;
use super::session::{Progress, Session};
use crate::address::Address;
use crate::error::Error;
use crate::net::{Interest, PeerCredentials, Stream};
use crate::sys::poll::poll;
use crate::sys::socket::retry_interrupted;

/// How much is received at a time: a whole record (16 KiB) mostly.
const PIECE: usize = 18 * 1024;

/// The longest record, of which a part may be in the session.
const MAX_RECORD: usize = 18 * 1024;

thread_local! {
    /// Where ciphertext is received.
    static PIECE_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Which side of TLS a stream is, and how.
pub(crate) enum Side {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

/// TLS over another stream.
///
/// Before the [handshake](super::handshake) is complete, nothing can be written, and reads return the bytes
/// of the other stream as they are. Only a step before the handshake reads then, or a close that discards
/// what it reads.
///
/// Two threads may read and write at the same time. The session is locked for as long as a record takes to
/// be encrypted or decrypted, and never while a thread waits for the socket.
pub(crate) struct TlsStream {
    socket: Box<dyn Stream>,
    side: Side,
    /// Made at the start of the handshake.
    session: OnceLock<Mutex<Session>>,
    /// The handshake is complete.
    is_open: AtomicBool,
    /// This side has shut the read side: EOF is no truncation.
    read_shutdown: AtomicBool,
    /// To be done when nothing is pending.
    shuts_write: AtomicBool,
    /// Locked by the one that reads, also while it waits.
    received: Mutex<Received>,
    timeouts: Mutex<Timeouts>,
}

#[derive(Default)]
struct Received {
    /// Ciphertext that the session has no use for yet.
    rest: Vec<u8>,
    /// The last read from the socket has left nothing there.
    is_all: bool,
}

/// How long reads and writes block.
struct Timeouts {
    read: Option<Duration>,
    write: Option<Duration>,
}

impl TlsStream {
    /// The timeouts are those that the socket has.
    pub(crate) fn new(
        socket: Box<dyn Stream>,
        side: Side,
        read_timeout: Option<Duration>,
        write_timeout: Option<Duration>,
    ) -> TlsStream {
        TlsStream {
            socket,
            side,
            session: OnceLock::new(),
            is_open: AtomicBool::new(false),
            read_shutdown: AtomicBool::new(false),
            shuts_write: AtomicBool::new(false),
            received: Mutex::default(),
            timeouts: Mutex::new(Timeouts { read: read_timeout, write: write_timeout }),
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    /// What the handshake has agreed on; `None` before it is complete.
    pub(crate) fn info(&self) -> Option<TlsInfo> {
        Some(self.open()?.lock().info())
    }

    /// A part of the handshake, until it would block.
    pub(super) fn try_handshake(&self) -> io::Result<Progress> {
        let session = self.start()?;
        let mut received = self.received.lock();
        loop {
            match session.lock().send(&*self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::WantsRoom);
                }
                sent => sent?,
            }
            if !session.lock().is_handshaking() {
                self.is_open.store(true, Ordering::SeqCst);
                return Ok(Progress::Done);
            }
            let went_on =
                self.receive_until(session, &mut received, Self::try_receive, |session| {
                    session.handshake_went_on()
                });
            match went_on {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::WantsInput);
                }
                went_on => went_on?,
            }
        }
    }

    fn start(&self) -> io::Result<&Mutex<Session>> {
        if self.session.get().is_none() {
            let session = match &self.side {
                Side::Server(config) => {
                    ServerConnection::new(config.clone()).map(Connection::Server)
                }
                Side::Client(config, name) => {
                    ClientConnection::new(config.clone(), name.clone()).map(Connection::Client)
                }
            };
            let session = session.map_err(|error| Error::Tls { reason: error.to_string() })?;
            let _ = self.session.set(Mutex::new(Session::new(session)));
        }
        self.session.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The session, once the handshake is complete.
    fn open(&self) -> Option<&Mutex<Session>> {
        self.session.get().filter(|_| self.is_open.load(Ordering::SeqCst))
    }

    /// Receives ciphertext until the session has what `take` wants, by `receive`, during which the session
    /// is not locked.
    fn receive_until<R>(
        &self,
        session: &Mutex<Session>,
        received: &mut Received,
        mut receive: impl FnMut(&Self, &mut [u8]) -> io::Result<usize>,
        mut take: impl FnMut(&mut Session) -> io::Result<Option<R>>,
    ) -> io::Result<R> {
        let mut rest = &received.rest[..];
        let taken = session.lock().decrypt(&mut rest, &*self.socket, &mut take);
        let used = received.rest.len() - rest.len();
        received.rest.drain(..used);
        if let Some(taken) = taken? {
            return Ok(taken);
        }
        loop {
            // Not borrowed meanwhile: the stream may be one that uses another of these.
            let mut piece = PIECE_BUFFER.take();
            piece.resize(PIECE, 0);
            let taken = receive(self, &mut piece).and_then(|length| {
                let mut session = session.lock();
                if length == 0 {
                    session.receive_eof()?;
                }
                let mut rest = &piece[..length];
                let taken = session.decrypt(&mut rest, &*self.socket, &mut take);
                received.rest.extend_from_slice(rest);
                received.is_all = length < PIECE && self.socket.short_read_empties();
                taken
            });
            PIECE_BUFFER.set(piece);
            if let Some(taken) = taken? {
                return Ok(taken);
            }
        }
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        retry_interrupted(|| self.socket.try_read(buffer))
    }

    fn read_by(
        &self,
        session: &Mutex<Session>,
        received: &mut Received,
        receive: impl FnMut(&Self, &mut [u8]) -> io::Result<usize>,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let read = self.receive_until(session, received, receive, |session| session.read(buffer));
        match read {
            // The end was this side's doing.
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    && self.read_shutdown.load(Ordering::SeqCst) =>
            {
                Ok(0)
            }
            read => read,
        }
    }

    /// `WouldBlock` if the socket is not ready by `deadline`.
    fn block_until_ready(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<()> {
        let Some(fd) = self.socket.as_fd() else { return Ok(()) };
        let [is_ready] = poll([Some((fd, interest))], [], deadline)?;
        if is_ready { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Sends what is pending, and then shuts the write side if that was put off.
    fn send(&self, session: &mut Session) -> io::Result<()> {
        session.send(&*self.socket)?;
        match self.shuts_write.swap(false, Ordering::SeqCst) {
            true => self.socket.shutdown(Shutdown::Write),
            false => Ok(()),
        }
    }

    /// The same; what there is no room for stays pending.
    fn send_some(&self, session: &mut Session) -> io::Result<()> {
        match self.send(session) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent,
        }
    }
}

impl Stream for TlsStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = self.open() else { return self.socket.read(buffer) };
        let started = self.timeouts.lock().read.map(|timeout| (Instant::now(), timeout));
        let mut has_blocked = false;
        let receive = |stream: &Self, buffer: &mut [u8]| {
            // The socket's own timeout, which costs nothing, is for the first bytes. They may be a part of
            // a record, and the rest arrive slowly.
            let Some((started, timeout)) = started.filter(|_| has_blocked) else {
                has_blocked = true;
                return stream.socket.read(buffer);
            };
            stream.block_until_ready(Interest::Read, started.checked_add(timeout))?;
            stream.socket.try_read(buffer)
        };
        self.read_by(session, &mut self.received.lock(), receive, buffer)
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = self.open() else { return self.socket.try_read(buffer) };
        // Another thread reads.
        let Some(mut received) = self.received.try_lock() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.read_by(session, &mut received, Self::try_receive, buffer)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut deadline = None;
        loop {
            match self.try_write(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let timeout = || {
                        let timeout = self.timeouts.lock().write;
                        timeout.and_then(|timeout| Instant::now().checked_add(timeout))
                    };
                    let deadline = *deadline.get_or_insert_with(timeout);
                    self.block_until_ready(Interest::Write, deadline)?;
                }
                written => return written,
            }
        }
    }

    /// Encrypts only when nothing is pending, so that 64 KiB are at most.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(session) = self.open() else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut session = session.lock();
        self.send(&mut session)?;
        if slices.iter().all(|slice| slice.is_empty()) {
            return Ok(0);
        }
        let length = session.write(slices)?;
        self.send_some(&mut session)?;
        Ok(length)
    }

    /// Of the write side: sends `close_notify` first. Of both sides: does not, so that the peer does not take
    /// what it has for everything.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.read_shutdown.store(true, Ordering::SeqCst);
        }
        match self.open() {
            Some(session) if how == Shutdown::Write => {
                let mut session = session.lock();
                session.end_output();
                self.shuts_write.store(true, Ordering::SeqCst);
                self.send_some(&mut session)
            }
            _ => self.socket.shutdown(how),
        }
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.lock().read = timeout;
        self.socket.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.lock().write = timeout;
        self.socket.set_write_timeout(timeout)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.socket.local_addr()
    }

    fn peer_credentials(&self) -> io::Result<Option<PeerCredentials>> {
        self.socket.peer_credentials()
    }

    /// The most that it can be: a record is longer than what is in it. If none was received, a part of a
    /// record that the session has does not count.
    fn unread(&self) -> io::Result<usize> {
        let Some(session) = self.open() else { return self.socket.unread() };
        let received = self.received.try_lock().map_or(0, |received| received.rest.len());
        let encrypted = self.socket.unread()?.saturating_add(received);
        let in_record = if encrypted > 0 { MAX_RECORD } else { 0 };
        Ok(encrypted.saturating_add(in_record + session.lock().unread()))
    }

    fn unsent(&self) -> io::Result<usize> {
        Ok(self.socket.unsent()? + self.pending())
    }

    fn unacknowledged(&self) -> io::Result<usize> {
        Ok(self.socket.unacknowledged()? + self.pending())
    }

    /// Then nothing is left in the session: not the peer's `close_notify` either, after which the socket may
    /// stay silent.
    fn short_read_empties(&self) -> bool {
        let Some(session) = self.open() else { return self.socket.short_read_empties() };
        let received = self.received.try_lock();
        received.is_some_and(|received| received.is_all && received.rest.is_empty())
            && !session.lock().has_more()
    }

    fn has_input(&self) -> Option<bool> {
        let session = self.open()?;
        // Another thread reads.
        let Some(mut received) = self.received.try_lock() else { return Some(false) };
        let has_input = self.receive_until(session, &mut received, Self::try_receive, |session| {
            Ok(session.has_input().then_some(()))
        });
        Some(!has_input.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }

    fn has_pending_output(&self) -> bool {
        self.open().is_some_and(|session| session.lock().has_pending_output())
    }

    /// Sends `close_notify` ([RFC 8446, 6.1](https://www.rfc-editor.org/rfc/rfc8446#section-6.1)).
    fn end_output(&self) -> io::Result<()> {
        let Some(session) = self.open() else { return Ok(()) };
        let mut session = session.lock();
        session.end_output();
        self.send_some(&mut session)
    }

    fn carrier(&self) -> Option<&dyn Stream> {
        Some(&*self.socket)
    }

    fn acknowledge(&self) {
        self.socket.acknowledge();
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_fd()
    }
}

impl TlsStream {
    /// How many encrypted bytes the socket had no room for.
    fn pending(&self) -> usize {
        self.open().map_or(0, |session| session.lock().unsent())
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}
