//! How a [`SharedStream`] is written: one write at a time, of the handler or of a broadcast.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::SharedStream;
use crate::net::outbox::{Outbox, WriterHandle};
use crate::net::{Interest, WriteProgress};
use crate::sync::Activity;
use crate::sys::socket::{Mode, retry_interrupted};
use crate::sys::splice::SplicePipe;

#[derive(Default)]
pub(super) struct Output {
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

/// The result of [`SharedStream::try_send`].
pub(crate) struct Sent {
    /// How many bytes are done with: they were sent, or are kept to be sent next.
    pub(crate) bytes: usize,
    /// Whether there is more to send, for which the stream has no room, or is in use.
    pub(crate) blocked: bool,
}

impl SharedStream {
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
            sent => sent.inspect(|length| self.sent.add(*length)),
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
        self.write_all_with_descriptors(slices, &[], progress)
    }

    /// As [`write_all`](SharedStream::write_all), with descriptors, which were
    /// [checked](SharedStream::check_descriptors), at the beginning of the last slice.
    #[inline(always)]
    pub(crate) fn write_all_with_descriptors(
        &self,
        slices: [&[u8]; 2],
        descriptors: &[BorrowedFd<'_>],
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
        let written = if descriptors.is_empty() {
            self.write_slices(trim_empty(&mut slices), &[], progress)
        } else {
            let (before, last) = slices.split_at_mut(2);
            let before = self.write_slices(trim_empty(before), &[], progress);
            before.and_then(|()| self.write_slices(last, descriptors, progress))
        };
        output.is_broken = written.is_err();
        written
    }

    #[inline(always)]
    fn write_slices(
        &self,
        mut slices: &mut [IoSlice<'_>],
        mut descriptors: &[BorrowedFd<'_>],
        progress: &mut WriteProgress,
    ) -> io::Result<()> {
        while !slices.is_empty() || self.has_pending_output() {
            match self.write_some(slices, descriptors, progress) {
                Ok(0) if !slices.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    descriptors = &[];
                    progress.add_written(length);
                    self.sent.add(length);
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

    /// Whether the stream itself holds bytes that were written to it.
    #[inline(always)]
    pub(crate) fn has_pending_output(&self) -> bool {
        !self.is_plain && self.inner.has_pending_output()
    }

    /// One attempt. Without a [`Wait`] and a minimum rate the stream itself blocks.
    #[inline(always)]
    fn write_some(
        &self,
        slices: &[IoSlice<'_>],
        descriptors: &[BorrowedFd<'_>],
        progress: &WriteProgress,
    ) -> io::Result<usize> {
        match self.wait.get() {
            None if progress.may_block() => {
                self.doing(Activity::Writing, || self.send(slices, descriptors, Mode::AsSet))
            }
            None => self.send(slices, descriptors, Mode::Try),
            Some(wait) => {
                wait.yield_now();
                self.send(slices, descriptors, Mode::Try)
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

    /// Says to the peer that no output follows, where the protocol has a message for that.
    pub(crate) fn end_output(&self, progress: &mut WriteProgress) -> io::Result<()> {
        if self.is_plain {
            return Ok(());
        }
        self.inner.end_output()?;
        self.write_all([&[], &[]], progress)
    }

    /// Writes the bytes that come before the stream's own: see [`Stream::carrier`](crate::net::Stream::carrier).
    /// `TimedOut` if there is no room by `deadline`.
    pub(crate) fn write_carrier(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let carrier = self.inner.carrier().unwrap_or(&*self.inner);
        while !bytes.is_empty() {
            match carrier.try_write(&[IoSlice::new(bytes)]) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Interest::Write, Some(deadline))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
            return Ok(Sent { bytes: all, blocked: self.has_pending_output() });
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
        if !self.has_pending_output() {
            return Ok(true);
        }
        match retry_interrupted(|| self.inner.try_write(&[])) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `None` if there is no room.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match retry_interrupted(|| self.inner.try_write(slices)) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => {
                self.sent.add(length);
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
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
