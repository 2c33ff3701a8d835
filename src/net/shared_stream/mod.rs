//! [`SharedStream`]: a connected stream with its peer's address, shared by the connection that a
//! handler is given, by the registry, and by broadcasts. It decides how a read or write waits, and
//! keeps their writes apart.

mod passing;
mod reading;
mod writing;

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::net::descriptors::Descriptors;
use crate::net::outbox::Outbox;
use crate::net::traffic::{ByteCounter, Traffic};
use crate::net::{Interest, Stream, Wait, WaitSource, poll_any};
use crate::proxy_protocol::ProxyHeader;
use crate::sync::{Activity, ActivityCell};
use crate::sys::poll::{is_hung_up, poll};
#[cfg(feature = "fibers")]
use crate::sys::prefetch::Span;
use crate::sys::socket::set_nonblocking;
use writing::Output;

pub(crate) use reading::IoTimeout;
pub(crate) use writing::Sent;

/// A stream and the address of its peer.
pub(crate) struct SharedStream {
    inner: Box<dyn Stream>,
    /// Its bytes are those of a socket: it holds neither input nor output itself.
    is_plain: bool,
    peer: Address,
    /// What the peer, a proxy, has said of its client.
    proxy_header: OnceLock<Box<ProxyHeader>>,
    /// How reads and writes wait. Without it the stream itself blocks.
    wait: OnceLock<Box<dyn Wait>>,
    /// The last read has read everything that was received, so that the next one would fail with
    /// `WouldBlock`: it is to wait first. Never set without a `wait`.
    needs_poll: AtomicBool,
    /// This side has shut down the read side, so that EOF does not mean that the peer closed.
    read_shutdown: AtomicBool,
    /// The connection is being closed and reads to the peer's EOF: a stop does not shut the read side.
    lingers: AtomicBool,
    /// The close is to send RST.
    resets: AtomicBool,
    /// The reason for which the server, not the handler, has closed the stream.
    close_reason: OnceLock<CloseReason>,
    /// Whether it waits for its peer.
    activity: ActivityCell,
    /// How long it has waited for its peer at once, at most, in milliseconds.
    longest_wait: AtomicU64,
    /// Of the handler's reads.
    received: ByteCounter,
    /// Added to under the lock of `output`.
    sent: ByteCounter,
    /// Locked during a write, so that bytes of the handler and of a broadcast are never mixed.
    output: Mutex<Output>,
    /// The messages of the connection's senders, once there is one.
    outbox: OnceLock<Arc<Outbox>>,
    /// The received descriptors, once the handler wants any.
    descriptors: OnceLock<Box<Descriptors>>,
}

impl SharedStream {
    pub(crate) fn new(inner: Box<dyn Stream>, peer: Address) -> SharedStream {
        SharedStream {
            is_plain: inner.can_splice(),
            inner,
            peer,
            proxy_header: OnceLock::new(),
            wait: OnceLock::new(),
            needs_poll: AtomicBool::new(false),
            read_shutdown: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            close_reason: OnceLock::new(),
            activity: ActivityCell::default(),
            longest_wait: AtomicU64::new(0),
            received: ByteCounter::default(),
            sent: ByteCounter::default(),
            output: Mutex::default(),
            outbox: OnceLock::new(),
            descriptors: OnceLock::new(),
        }
    }

    /// The client's address: what a proxy has said, or else that of the peer.
    pub(crate) fn peer(&self) -> &Address {
        self.client().unwrap_or(&self.peer)
    }

    /// The peer, if it is a proxy that has said who its client is.
    pub(crate) fn proxied_by(&self) -> Option<&Address> {
        self.client().map(|_| &self.peer)
    }

    fn client(&self) -> Option<&Address> {
        self.proxy_header()?.source()
    }

    pub(crate) fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.proxy_header.get().map(|header| &**header)
    }

    /// To be called once at most.
    pub(crate) fn set_proxy_header(&self, header: ProxyHeader) {
        let _ = self.proxy_header.set(Box::new(header));
    }

    pub(crate) fn inner(&self) -> &dyn Stream {
        &*self.inner
    }

    /// How much the handler has read, and how much was sent.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic { received: self.received.value(), sent: self.sent.value() }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.assume_read_shutdown();
        }
        self.inner.shutdown(how)
    }

    /// Treats the read side as shut down. A forked child calls this because its parent, in a stop,
    /// shuts down the connection that they share.
    pub(crate) fn assume_read_shutdown(&self) {
        self.read_shutdown.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_read_shutdown(&self) -> bool {
        self.read_shutdown.load(Ordering::SeqCst)
    }

    /// Closes the stream from outside the handler, which then reads EOF, or gets an error when it
    /// writes. Of several reasons the first is kept.
    pub(crate) fn close(&self, how: Shutdown, reason: CloseReason) {
        let _ = self.close_reason.set(reason);
        if how == Shutdown::Read && self.lingers.load(Ordering::SeqCst) {
            // With both sides shut, Linux answers the next input with RST.
            return;
        }
        // Fails if the connection is broken.
        let _ = self.shutdown(how);
    }

    /// From now on a stop leaves the read side open, until it shuts both.
    pub(crate) fn begin_linger(&self) {
        self.lingers.store(true, Ordering::SeqCst);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason.get().copied()
    }

    /// From now on all reads and writes are non-blocking and wait through `wait`. A second call is
    /// ignored, because the first `wait` may be in use.
    pub(crate) fn wait_with(&self, wait: Box<dyn Wait>) {
        // A client that has just connected has most often sent nothing yet.
        self.needs_poll.store(true, Ordering::Relaxed);
        let _ = self.wait.set(wait);
    }

    /// The memory that each read and write touches, for prefetching.
    #[cfg(feature = "fibers")]
    pub(crate) fn spans(&self) -> [Span; 3] {
        let wait = self.wait.get().map(|wait| Span::of(&**wait)).unwrap_or_default();
        [Span::of(self), Span::of(&*self.inner), wait]
    }

    /// Calls `wait`, during which this is what the handler does with it.
    #[inline(always)]
    fn doing<R>(&self, activity: Activity, wait: impl FnOnce() -> R) -> R {
        let begun = self.activity.set(activity);
        let result = wait();
        let waited = self.activity.set(Activity::Running).saturating_sub(begun);
        // The halves of a connection may wait at the same time.
        if waited > self.longest_wait.load(Ordering::Relaxed) {
            self.longest_wait.fetch_max(waited, Ordering::Relaxed);
        }
        result
    }

    /// The longest time, to about 10 ms, that a read, a write or a step of the protocol has waited for
    /// the peer.
    pub(crate) fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.longest_wait.load(Ordering::Relaxed))
    }

    /// What the handler does with it, and for how long.
    pub(crate) fn activity(&self) -> (Activity, Duration) {
        self.activity.load()
    }

    /// How another stream waits that the same handler uses; see [`Wait::for_upstream`].
    pub(crate) fn wait_for_upstream(&self) -> Option<Box<dyn Wait>> {
        self.wait.get().and_then(|wait| wait.for_upstream())
    }

    /// Whether reads and writes wait through a [`Wait`].
    pub(crate) fn uses_wait(&self) -> bool {
        self.wait.get().is_some()
    }

    /// Whether reads and writes of the socket itself fail instead of blocking (`O_NONBLOCK`), which
    /// splice(2) needs.
    pub(crate) fn set_nonblocking(&self, yes: bool) -> io::Result<()> {
        let fd = self.inner.as_fd();
        fd.map_or(Ok(()), |fd| set_nonblocking(fd, yes))
    }

    /// Has the socket send RST when it is closed, as the peer of a relay did (`SO_LINGER` of zero,
    /// [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html)).
    pub(crate) fn reset_on_close(&self) {
        self.resets.store(true, Ordering::Relaxed);
        if let Some(fd) = self.inner.as_fd() {
            // Fails on a socket that is no longer connected.
            let _ = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
        }
    }

    /// Whether [`reset_on_close`](SharedStream::reset_on_close) was called.
    pub(crate) fn resets_on_close(&self) -> bool {
        self.resets.load(Ordering::Relaxed)
    }

    /// Lets other connections run first, where these share a thread.
    pub(crate) fn yield_now(&self) {
        if let Some(wait) = self.wait.get() {
            wait.yield_now();
        }
    }

    /// This stream as one of several to wait for.
    pub(crate) fn source(&self, interest: Interest) -> WaitSource<'_> {
        let number = self.wait.get().and_then(|wait| wait.number());
        WaitSource::new(&*self.inner, number, interest)
    }

    /// Waits for several streams, this one among them: see [`Wait::wait_any`].
    pub(crate) fn wait_any(
        &self,
        sources: &[WaitSource<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        match self.wait.get() {
            Some(wait) => wait.wait_any(sources, deadline),
            None => poll_any(sources, None, deadline).map(drop),
        }
    }

    /// Waits until it may be ready, which a step of its protocol needs that is no read or write of bytes.
    pub(crate) fn wait(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<()> {
        let activity = match interest {
            Interest::Write => Activity::Writing,
            _ => Activity::Reading,
        };
        self.doing(activity, || match self.wait.get() {
            Some(wait) => wait.wait(&*self.inner, interest, deadline),
            None => self.block_until_ready(interest, deadline),
        })
    }

    /// Whether both sides are shut, or the connection was reset, so that nothing more is sent.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.inner.as_fd().is_some_and(is_hung_up)
    }

    /// Waits for this long.
    pub(crate) fn sleep(&self, time: Duration) {
        match self.wait.get() {
            Some(wait) => wait.sleep(time),
            None => std::thread::sleep(time),
        }
    }

    /// Without a [`Wait`]: blocks the thread; `TimedOut` if the stream is not ready by `deadline`.
    fn block_until_ready(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<()> {
        let Some(fd) = self.inner.as_fd() else { return Ok(()) };
        let [ready] = poll([Some((fd, interest))], [], deadline)?;
        if ready { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}
