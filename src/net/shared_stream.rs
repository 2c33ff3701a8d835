//! [`SharedStream`]: a connected stream with its peer's address, shared by the connection that a
//! handler is given, by the registry, and by broadcasts. It decides how a read or write waits, and
//! keeps their writes apart.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::net::outbox::{Outbox, WriterHandle};
use crate::net::{Interest, Stream, Wait, WaitSource, WriteProgress, poll_any};
use crate::sync::{Activity, ActivityCell, Input, InputKind};
use crate::sys::poll::{has_input, is_hung_up, poll};
#[cfg(feature = "fibers")]
use crate::sys::prefetch::Span;
use crate::sys::socket::retry_interrupted;
use crate::sys::splice::SplicePipe;

/// A stream and the address of its peer.
pub(crate) struct SharedStream {
    inner: Box<dyn Stream>,
    peer: Address,
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
    /// Locked during a write, so that bytes of the handler and of a broadcast are never mixed.
    output: Mutex<Output>,
    /// The messages of the connection's senders, once there is one.
    outbox: OnceLock<Arc<Outbox>>,
}

#[derive(Default)]
struct Output {
    /// The rest of a message of a broadcast or a sender of which only a part could be sent. It is
    /// sent first.
    pending: Vec<u8>,
    /// A write has failed, perhaps in the middle. All further ones fail, or the peer would miss
    /// bytes without noticing.
    is_broken: bool,
}

impl Output {
    fn check(&self) -> io::Result<()> {
        if self.is_broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

/// How long a read may wait for the peer.
#[derive(Clone, Copy)]
pub(crate) enum IoTimeout {
    /// The stream's own timeout (`SO_RCVTIMEO`), which is set to this; `None`: for ever.
    Socket(Option<Duration>),
    /// Until this instant, whatever the stream's own timeout is.
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

/// The result of [`SharedStream::try_send`].
pub(crate) struct Sent {
    /// How many bytes are done with: they were sent, or are kept to be sent next.
    pub(crate) bytes: usize,
    /// Whether there is more to send, for which the stream has no room, or is in use.
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
            lingers: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            close_reason: OnceLock::new(),
            activity: ActivityCell::default(),
            output: Mutex::default(),
            outbox: OnceLock::new(),
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
        self.activity.set(activity);
        let result = wait();
        self.activity.set(Activity::Running);
        result
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

    /// Whether the next read has to wait first, for which it needs no buffer.
    pub(crate) fn needs_poll(&self) -> bool {
        self.needs_poll.load(Ordering::Relaxed)
    }

    /// Waits for input if the next read has to.
    pub(crate) fn wait_for_input(&self, timeout: IoTimeout) -> io::Result<()> {
        if let (true, Some(wait)) = (self.needs_poll(), self.wait.get()) {
            self.doing(Activity::Reading, || {
                wait.wait(&*self.inner, Interest::Read, timeout.deadline())
            })?;
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

    /// As [`read`](SharedStream::read), but returns `None` where that would wait through a
    /// [`Wait`]: the caller releases its buffers, calls
    /// [`wait_for_input`](SharedStream::wait_for_input), and tries again.
    #[inline(always)]
    pub(crate) fn read_input(
        &self,
        buffer: &mut [u8],
        timeout: IoTimeout,
    ) -> io::Result<Option<usize>> {
        match self.wait.get() {
            None => self.doing(Activity::Reading, || self.read_blocking(buffer, timeout)).map(Some),
            Some(wait) => {
                wait.yield_now();
                self.read_ready(buffer)
            }
        }
    }

    /// Without a [`Wait`]: the stream itself blocks, unless there is a deadline.
    #[inline(always)]
    fn read_blocking(&self, buffer: &mut [u8], timeout: IoTimeout) -> io::Result<usize> {
        loop {
            let read = match timeout {
                IoTimeout::Socket(_) => self.inner.read(buffer),
                IoTimeout::Deadline(_) => self.inner.try_read(buffer),
            };
            match read {
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match timeout {
                    // The stream has blocked, and its own timeout is over.
                    IoTimeout::Socket(_) => return Err(io::ErrorKind::TimedOut.into()),
                    IoTimeout::Deadline(deadline) => {
                        self.block_until_ready(Interest::Read, Some(deadline))?;
                    }
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// With a [`Wait`]: reads without blocking, and notes whether the next read has to wait. `None`
    /// if this one has to.
    #[inline(always)]
    fn read_ready(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match retry_interrupted(|| self.inner.try_read(buffer)) {
            Ok(length) => {
                if length < buffer.len() && self.inner.short_read_empties() {
                    self.needs_poll.store(true, Ordering::Relaxed);
                }
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.needs_poll.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads without blocking, and without a yield before. `None` if there is nothing to read.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.uses_wait() {
            return if self.needs_poll() { Ok(None) } else { self.read_ready(buffer) };
        }
        match retry_interrupted(|| self.inner.try_read(buffer)) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`try_read`](SharedStream::try_read), into a pipe. The socket must not block. Only a read says
    /// for sure that there is nothing, or EOF: at an urgent mark splice(2) finds neither what is behind it
    /// nor how to go on.
    pub(crate) fn try_fill_pipe(&self, pipe: &mut SplicePipe, max: usize) -> io::Result<usize> {
        let Some(fd) = self.inner.as_fd().filter(|_| !self.needs_poll()) else { return Ok(0) };
        match retry_interrupted(|| pipe.fill(fd, max)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            filled => filled,
        }
    }

    /// Sends what is in a pipe, or as much as there is room for: returns how many bytes. The socket must
    /// not block.
    pub(crate) fn try_send_pipe(&self, pipe: &mut SplicePipe) -> io::Result<usize> {
        let Some(mut output) = self.output.try_lock() else { return Ok(0) };
        if !self.try_send_pending(&mut output)? {
            return Ok(0);
        }
        let Some(fd) = self.inner.as_fd() else { return Ok(0) };
        match retry_interrupted(|| pipe.drain(fd)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Whether reads and writes of the socket itself fail instead of blocking (`O_NONBLOCK`), which
    /// splice(2) needs.
    pub(crate) fn set_nonblocking(&self, yes: bool) -> io::Result<()> {
        let fd = self.inner.as_fd();
        fd.map_or(Ok(()), |fd| Ok(rustix::io::ioctl_fionbio(fd, yes)?))
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

    /// Its descriptor, for a wait for several things; `None` for a stream that is always ready.
    pub(crate) fn input(&self) -> Option<Input<'_>> {
        let number = self.wait.get().and_then(|wait| wait.number());
        Some(Input { fd: self.inner.as_fd()?, kind: InputKind::Stream(number) })
    }

    /// Whether a read does not block. `is_last`: there is no wait after this in which an event would come
    /// that the worker has not seen yet.
    pub(crate) fn is_readable(&self, is_last: bool) -> bool {
        let Some(fd) = self.inner.as_fd() else { return true };
        if self.needs_poll() && !is_last {
            return false;
        }
        let has_input = has_input(fd);
        // The last read may have filled its buffer just so. Input that comes from now on is an event.
        self.needs_poll.store(self.uses_wait() && !has_input, Ordering::Relaxed);
        has_input
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

    /// Notes that a wait has found input.
    pub(crate) fn set_readable(&self) {
        self.needs_poll.store(false, Ordering::Relaxed);
    }

    /// Whether there is something to read: input, EOF or an error.
    pub(crate) fn has_input(&self) -> bool {
        self.inner.as_fd().is_some_and(has_input)
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

    /// The messages of the connection's senders; `None` if it has none.
    pub(crate) fn outbox(&self) -> Option<&Arc<Outbox>> {
        self.outbox.get()
    }

    /// As [`outbox`](SharedStream::outbox), which the first call makes.
    pub(crate) fn outbox_or_new(self: &Arc<Self>, writer: WriterHandle) -> &Arc<Outbox> {
        self.outbox.get_or_init(|| Arc::new(Outbox::new(Arc::downgrade(self), writer)))
    }

    /// Writes all of the slices, after what a broadcast has left over, and after the messages of the
    /// connection's senders.
    pub(crate) fn write_all(
        &self,
        slices: [&[u8]; 2],
        progress: &mut WriteProgress,
    ) -> io::Result<()> {
        let mut output = self.output.lock();
        output.check()?;
        let mut pending = std::mem::take(&mut output.pending);
        if let Some(outbox) = self.outbox() {
            outbox.take_into(&mut pending);
        }
        // Until all of it is written: a `Stream` or a `Wait` may also panic in the middle.
        output.is_broken = true;
        let mut slices = [&pending, slices[0], slices[1]].map(IoSlice::new);
        let written = self.write_slices(trim_empty(&mut slices), progress);
        output.is_broken = written.is_err();
        written
    }

    #[inline(always)]
    fn write_slices(
        &self,
        mut slices: &mut [IoSlice<'_>],
        progress: &mut WriteProgress,
    ) -> io::Result<()> {
        while !slices.is_empty() {
            match self.write_some(slices, progress) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    progress.add_written(length);
                    IoSlice::advance_slices(&mut slices, length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room(progress)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One attempt. Without a [`Wait`] and a minimum rate the stream itself blocks.
    #[inline(always)]
    fn write_some(&self, slices: &[IoSlice<'_>], progress: &WriteProgress) -> io::Result<usize> {
        match self.wait.get() {
            None if progress.may_block() => {
                self.doing(Activity::Writing, || self.inner.write(slices))
            }
            None => self.inner.try_write(slices),
            Some(wait) => {
                wait.yield_now();
                self.inner.try_write(slices)
            }
        }
    }

    /// Waits for a slice after an attempt to write has found no room. The next attempt is made in any
    /// case: there may be some room, though not as much as the kernel wakes a writer for.
    #[cold]
    #[inline(never)]
    fn wait_for_room(&self, progress: &mut WriteProgress) -> io::Result<()> {
        let deadline = progress.blocked(&*self.inner)?;
        let waited = self.doing(Activity::Writing, || match (self.wait.get(), deadline) {
            (Some(wait), _) => wait.wait(&*self.inner, Interest::Write, deadline),
            // The stream has blocked for the slice.
            (None, Some(_)) if progress.may_block() => Ok(()),
            (None, Some(_)) => self.block_until_ready(Interest::Write, deadline),
            // It has a timeout of its own.
            (None, None) => Err(io::ErrorKind::TimedOut.into()),
        });
        match waited {
            Err(error) if error.kind() == io::ErrorKind::TimedOut && deadline.is_some() => Ok(()),
            waited => waited,
        }
    }

    /// `BrokenPipe` if a write has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.output.lock().check()
    }

    /// Sends as much as the stream has room for, without blocking. If that ends in the middle of a
    /// message, the rest of the message is kept, and sent before anything else: `rest` is called
    /// with the number of bytes sent, and returns it.
    pub(crate) fn try_send<'message>(
        &self,
        slices: &[IoSlice<'_>],
        rest: impl FnOnce(usize) -> &'message [u8],
    ) -> io::Result<Sent> {
        let Some(mut output) = self.output.try_lock() else {
            // The handler is writing, and may be blocked in it.
            return Ok(Sent { bytes: 0, blocked: true });
        };
        if !self.try_send_pending(&mut output)? {
            return Ok(Sent { bytes: 0, blocked: true });
        }
        let all = slices.iter().map(|slice| slice.len()).sum();
        let sent = if all == 0 { 0 } else { self.try_write(slices)?.unwrap_or(0) };
        if sent == all {
            return Ok(Sent { bytes: all, blocked: false });
        }
        let rest = rest(sent);
        output.pending.extend_from_slice(rest);
        Ok(Sent { bytes: sent + rest.len(), blocked: true })
    }

    /// Sends the rest of a broadcast message, if there is one; `false` if there is no room for it.
    fn try_send_pending(&self, output: &mut Output) -> io::Result<bool> {
        output.check()?;
        while !output.pending.is_empty() {
            match self.try_write(&[IoSlice::new(&output.pending)])? {
                Some(length) => drop(output.pending.drain(..length)),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// `None` if there is no room.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match retry_interrupted(|| self.inner.try_write(slices)) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Without a [`Wait`]: blocks the thread; `TimedOut` if the stream is not ready by `deadline`.
    fn block_until_ready(&self, interest: Interest, deadline: Option<Instant>) -> io::Result<()> {
        let Some(fd) = self.inner.as_fd() else { return Ok(()) };
        let [ready] = poll([Some((fd, interest))], [], deadline)?;
        if ready { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// The slices without the empty ones at both ends. Most often one is left, for which there is a
/// cheaper system call (see [`send`](crate::sys::socket::send)).
#[inline(always)]
fn trim_empty<'a, 'b>(slices: &'a mut [IoSlice<'b>]) -> &'a mut [IoSlice<'b>] {
    let start = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(slices.len());
    let end = slices.iter().rposition(|slice| !slice.is_empty()).map_or(start, |last| last + 1);
    &mut slices[start..end]
}

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}
