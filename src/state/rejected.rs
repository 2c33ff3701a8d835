//! Rejecting a connection: the overload message, and the lingering close after it.

use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ServerState;
use crate::config::Overload;
use crate::net::SharedStream;

/// How long a rejected client may take to read the message and close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many rejected connections are kept; the next one closes the oldest.
const MAX_LINGERING: usize = 64;

/// How many bytes of a rejected client are read and discarded before its connection is closed.
const MAX_DISCARDED: usize = 256 * 1024;

impl ServerState {
    /// Counts a request as refused. Where the overload policy has a message, its client is sent
    /// the message without blocking, and the connection lingers; the acceptor polls it.
    pub(crate) fn reject(&self, stream: Option<&Arc<SharedStream>>) {
        if let (true, Some(stream)) = (self.send_refusal(stream), stream) {
            self.rejected.push(stream);
            self.wake_acceptor();
        }
    }

    /// Counts a request as refused, and sends its client the message. Returns whether it was sent: then
    /// the connection is to linger. A client that would first need a handshake (TLS) is sent none.
    pub(crate) fn send_refusal(&self, stream: Option<&Arc<SharedStream>>) -> bool {
        self.stats().refused.add_one();
        match (&self.settings.overload, stream) {
            (Overload::Refuse(message), Some(stream)) if !message.is_empty() => {
                // A client whose socket does not take even this is closed without it.
                stream.try_send(&[IoSlice::new(message)], |sent| &message[sent..]).is_ok()
            }
            _ => false,
        }
    }
}

/// Rejected connections, kept open until the client has read the message (lingering close).
///
/// A socket that is closed with unread input, or that receives more, sends an RST, and the RST
/// destroys the message on its way (see `connection/close.rs`).
#[derive(Debug, Default)]
pub(crate) struct LingeringRejects(Mutex<Vec<RejectedConnection>>);

#[derive(Debug)]
struct RejectedConnection {
    stream: Arc<SharedStream>,
    deadline: Instant,
    discarded: usize,
}

impl LingeringRejects {
    /// Shuts the write side, and keeps the connection for a while.
    fn push(&self, stream: &Arc<SharedStream>) {
        let deadline = Instant::now() + LINGER_TIMEOUT;
        let mut connection = RejectedConnection { stream: stream.clone(), deadline, discarded: 0 };
        if stream.inner().shutdown(Shutdown::Write).is_ok() && connection.drain() {
            let mut all = self.0.lock();
            if all.len() == MAX_LINGERING {
                all.remove(0);
            }
            all.push(connection);
        }
    }

    /// What the acceptor waits for: when one of them is readable, [`poll`](LingeringRejects::poll)
    /// has something to do.
    pub(crate) fn streams(&self) -> Vec<Arc<SharedStream>> {
        self.0.lock().iter().map(|connection| connection.stream.clone()).collect()
    }

    /// When [`poll`](LingeringRejects::poll) has something to do in any case.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.lock().first().map(|connection| connection.deadline)
    }

    /// Closes those whose client has closed, and those whose time is up.
    pub(crate) fn poll(&self) {
        let mut all = self.0.lock();
        if all.is_empty() {
            return;
        }
        let now = Instant::now();
        all.retain_mut(|connection| connection.deadline > now && connection.drain());
    }

    /// Closes all of them.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// In a forked child: closes all of them, unless another thread held the lock at the fork.
    pub(crate) fn clear_in_child(&self) {
        if let Some(mut all) = self.0.try_lock() {
            all.clear();
        }
    }
}

impl RejectedConnection {
    /// Discards what has been received; whether more may come.
    // Inlined, its buffer would take a page of the stack of every caller.
    #[inline(never)]
    fn drain(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.inner().try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.discarded += length,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.discarded >= MAX_DISCARDED {
                return false;
            }
        }
    }
}
