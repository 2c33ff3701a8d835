//! [`Descriptors`]: those that a Unix stream socket has received, and no handler has taken yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::Error;
use crate::sys::rights::{self, MAX_DESCRIPTORS, Received};
use crate::sys::socket::Mode;

#[derive(Default)]
pub(super) struct Descriptors {
    /// How many may be waiting.
    max: AtomicUsize,
    waiting: Mutex<VecDeque<OwnedFd>>,
}

impl Descriptors {
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max.clamp(1, MAX_DESCRIPTORS), Ordering::Relaxed);
    }

    /// Receives bytes, and keeps the descriptors that come with them.
    ///
    /// # Errors
    /// [`Error::TooManyDescriptors`]; then the bytes are lost.
    // Not inlined: the control buffer need not be on the stack of every read.
    #[inline(never)]
    pub(super) fn receive(
        &self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        mode: Mode,
    ) -> io::Result<usize> {
        let limit = self.max.load(Ordering::Relaxed);
        let room = limit.saturating_sub(self.waiting.lock().len());
        let Received { length, descriptors, had_more } =
            rights::receive(socket, buffer, room, mode)?;
        if had_more || descriptors.len() > room {
            return Err(Error::TooManyDescriptors { limit }.into());
        }
        if !descriptors.is_empty() {
            self.waiting.lock().extend(descriptors);
        }
        Ok(length)
    }

    pub(super) fn next(&self) -> Option<OwnedFd> {
        self.waiting.lock().pop_front()
    }
}
