//! A connected stream as a server sees it ([`SharedStream`]): what a handler's connection, the registry and
//! a broadcast share.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::net::{Interest, Stream, Wait};
use crate::sys::poll::poll;
#[cfg(feature = "fibers")]
use crate::sys::prefetch::Span;
use crate::sys::socket::retry_interrupted;

/// A stream and who is at its other end: what a connection, the registry and a broadcast share.
pub(crate) struct SharedStream {
    inner: Box<dyn Stream>,
    peer: Address,
    /// `None` where the system does the waiting.
    wait: OnceLock<Box<dyn Wait>>,
    /// Reading it again at once would be in vain.
    needs_poll: AtomicBool,
    /// Whether end-of-file may be this side's doing, the peer having more to say.
    read_shutdown: AtomicBool,
    /// Why this side, other than by its handler, has ended it.
    close_reason: OnceLock<CloseReason>,
    /// Held while writing, so that what a handler writes and what a broadcast delivers never tear
    /// each other.
    output: Mutex<Output>,
}

#[derive(Default)]
struct Output {
    /// The rest of a message that a broadcast could send only in part.
    pending: Vec<u8>,
    /// After a failed write nothing more is sent, by anybody: the peer would see a gap.
    is_broken: bool,
}

impl Output {
    fn check(&self) -> io::Result<()> {
        if self.is_broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

/// How long to wait for the peer.
#[derive(Clone, Copy)]
pub(crate) enum IoTimeout {
    /// As long as the stream was told to wait, which is this long; `None` for ever.
    Socket(Option<Duration>),
    /// Not longer than until then, whatever the stream was told.
    Deadline(Instant),
}

impl IoTimeout {
    fn deadline(self) -> Option<Instant> {
        match self {
            IoTimeout::Socket(timeout) => timeout.and_then(|time| Instant::now().checked_add(time)),
            IoTimeout::Deadline(instant) => Some(instant),
        }
    }
}

/// How far a [`SharedStream::try_send`] came.
pub(crate) struct Sent {
    /// So many bytes need not be sent again.
    pub(crate) bytes: usize,
    /// Whether there is more to send once the stream has room.
    pub(crate) blocked: bool,
}

impl SharedStream {
    pub(crate) fn new(inner: Box<dyn Stream>, peer: Address) -> SharedStream {
        SharedStream {
            inner,
            peer,
            wait: OnceLock::new(),
            needs_poll: AtomicBool::new(false),
            read_shutdown: AtomicBool::new(false),
            close_reason: OnceLock::new(),
            output: Mutex::default(),
        }
    }

    pub(crate) fn peer(&self) -> &Address {
        &self.peer
    }

    pub(crate) fn inner(&self) -> &dyn Stream {
        &*self.inner
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.assume_read_shutdown();
        }
        self.inner.shutdown(how)
    }

    /// To be told of a shutdown that another process may do.
    pub(crate) fn assume_read_shutdown(&self) {
        self.read_shutdown.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_read_shutdown(&self) -> bool {
        self.read_shutdown.load(Ordering::SeqCst)
    }

    /// Ends it from outside its handler, which then learns from the end of its input, or from an
    /// error when it writes; the first reason counts.
    pub(crate) fn close(&self, how: Shutdown, why: CloseReason) {
        let _ = self.close_reason.set(why);
        // A peer that is gone already needs no shutting.
        let _ = self.shutdown(how);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason.get().copied()
    }

    /// From now on nothing is left to the system to wait for. A second one is ignored: the first may
    /// be in use.
    pub(crate) fn wait_with(&self, wait: Box<dyn Wait>) {
        // Whoever has just connected has most often said nothing yet.
        self.needs_poll.store(true, Ordering::Relaxed);
        let _ = self.wait.set(wait);
    }

    /// Where it is in memory, with what it owns that each read and write comes to.
    #[cfg(feature = "fibers")]
    pub(crate) fn spans(&self) -> [Span; 3] {
        let wait = self.wait.get().map(|wait| Span::of(&**wait)).unwrap_or_default();
        [Span::of(self), Span::of(&*self.inner), wait]
    }

    /// Whether nothing is left to the system to wait for.
    pub(crate) fn uses_wait(&self) -> bool {
        self.wait.get().is_some()
    }

    /// Whether there is something to wait for before a read needs its buffer.
    pub(crate) fn needs_poll(&self) -> bool {
        self.needs_poll.load(Ordering::Relaxed)
    }

    /// Waits for what a read would wait for, if it would.
    pub(crate) fn wait_for_input(&self, timeout: IoTimeout) -> io::Result<()> {
        if let (true, Some(wait)) = (self.needs_poll(), self.wait.get()) {
            wait.wait(&*self.inner, Interest::Read, timeout.deadline())?;
            self.needs_poll.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn read(&self, buffer: &mut [u8], timeout: IoTimeout) -> io::Result<usize> {
        loop {
            self.wait_for_input(timeout)?;
            if let Some(length) = self.read_input(buffer, timeout)? {
                return Ok(length);
            }
        }
    }

    /// As [`read`](Link::read); `None` where it has turned out that there is something to wait for
    /// first.
    #[inline(always)]
    pub(crate) fn read_input(
        &self,
        buffer: &mut [u8],
        timeout: IoTimeout,
    ) -> io::Result<Option<usize>> {
        let wait = self.wait.get();
        wait.inspect(|wait| wait.yield_now());
        loop {
            let read = match (timeout, wait) {
                (IoTimeout::Socket(_), None) => self.inner.read(buffer),
                _ => self.inner.try_read(buffer),
            };
            match read {
                Ok(length) => {
                    if wait.is_some() && length < buffer.len() && self.inner.short_read_empties() {
                        self.needs_poll.store(true, Ordering::Relaxed);
                    }
                    return Ok(Some(length));
                }
                Err(error) if wait.is_some() && error.kind() == io::ErrorKind::WouldBlock => {
                    self.needs_poll.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                Err(error) => self.retry(error, Interest::Read, timeout)?,
            }
        }
    }

    /// Lets some time pass.
    pub(crate) fn sleep(&self, time: Duration) {
        match self.wait.get() {
            Some(wait) => wait.sleep(time),
            None => std::thread::sleep(time),
        }
    }

    /// Writes all of the pieces, behind what a broadcast has left over. `timeout` is asked how long
    /// to wait once so many bytes are written.
    pub(crate) fn write_all(
        &self,
        pieces: [&[u8]; 2],
        mut timeout: impl FnMut(usize) -> IoTimeout,
    ) -> io::Result<()> {
        let mut output = self.output.lock();
        output.check()?;
        let pending = std::mem::take(&mut output.pending);
        // Until all of it is sent.
        output.is_broken = true;
        let mut slices = [&pending, pieces[0], pieces[1]].map(IoSlice::new);
        let mut rest = &mut slices[..];
        // Most often there is one piece, for which there is a cheaper call.
        IoSlice::advance_slices(&mut rest, 0);
        let last = rest.iter().rposition(|piece| !piece.is_empty());
        rest = &mut rest[..last.map_or(0, |last| last + 1)];
        let mut written = 0;
        while !rest.is_empty() {
            let timeout = timeout(written);
            let write = match (timeout, self.wait.get()) {
                (IoTimeout::Socket(_), None) => self.inner.write(rest),
                (_, wait) => {
                    wait.inspect(|wait| wait.yield_now());
                    self.inner.try_write(rest)
                }
            };
            match write {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    written += length;
                    IoSlice::advance_slices(&mut rest, length);
                }
                Err(error) => self.retry(error, Interest::Write, timeout)?,
            }
        }
        output.is_broken = false;
        Ok(())
    }

    /// An error if a write has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.output.lock().check()
    }

    /// Sends as much as there is room for, without waiting. Where that ends in the middle of a
    /// message, what `rest` says is left of it after so many bytes is kept, to go before anything
    /// else.
    pub(crate) fn try_send<'message>(
        &self,
        pieces: &[IoSlice<'_>],
        rest: impl FnOnce(usize) -> &'message [u8],
    ) -> io::Result<Sent> {
        let Some(mut output) = self.output.try_lock() else {
            // The handler is writing, which may take it a while.
            return Ok(Sent { bytes: 0, blocked: true });
        };
        output.check()?;
        while !output.pending.is_empty() {
            match self.try_write(&[IoSlice::new(&output.pending)])? {
                Some(length) => drop(output.pending.drain(..length)),
                None => return Ok(Sent { bytes: 0, blocked: true }),
            }
        }
        let all = pieces.iter().map(|piece| piece.len()).sum();
        let sent = if all == 0 { 0 } else { self.try_write(pieces)?.unwrap_or(0) };
        if sent == all {
            return Ok(Sent { bytes: all, blocked: false });
        }
        let rest = rest(sent);
        output.pending.extend_from_slice(rest);
        Ok(Sent { bytes: sent + rest.len(), blocked: true })
    }

    /// `None` where there is no room.
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match retry_interrupted(|| self.inner.try_write(pieces)) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn retry(&self, error: io::Error, interest: Interest, timeout: IoTimeout) -> io::Result<()> {
        match (error.kind(), self.wait.get(), timeout) {
            (io::ErrorKind::Interrupted, ..) => Ok(()),
            (io::ErrorKind::WouldBlock, Some(wait), _) => {
                wait.wait(&*self.inner, interest, timeout.deadline())
            }
            (io::ErrorKind::WouldBlock, None, IoTimeout::Deadline(timeout)) => {
                let Some(fd) = self.inner.as_fd() else { return Ok(()) };
                let [ready] = poll([Some((fd, interest))], [], Some(timeout))?;
                if ready { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
            }
            // The stream blocks: the system has waited, for as long as its timeout allows.
            (io::ErrorKind::WouldBlock, None, IoTimeout::Socket(_)) => {
                Err(io::ErrorKind::TimedOut.into())
            }
            _ => Err(error),
        }
    }
}

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}
