//! Those who were turned away, until they have read why.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::SharedStream;

/// How long one may take to read, and close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many are kept; the oldest makes room for the next.
const MAX_LINGERING: usize = 64;

/// How much of what one sends is read, and thrown away, before it is given up.
const MAX_DISCARDED: usize = 256 * 1024;

/// Connections that were refused and told so. To close one at once would destroy the message on
/// its way if the peer has sent something, or still does (see `connection/close.rs`): so it is
/// kept until it has closed, within bounds, and whatever it sends is thrown away. The thread that
/// accepts looks after them.
#[derive(Debug, Default)]
pub(crate) struct LingeringRejects(Mutex<Vec<RejectedConnection>>);

#[derive(Debug)]
struct RejectedConnection {
    stream: Arc<SharedStream>,
    deadline: Instant,
    discarded: usize,
}

impl LingeringRejects {
    /// Ends the sending side, and keeps the connection for a while.
    pub(crate) fn push(&self, stream: &Arc<SharedStream>) {
        let mut connection = RejectedConnection {
            stream: stream.clone(),
            deadline: Instant::now() + LINGER_TIMEOUT,
            discarded: 0,
        };
        if stream.inner().shutdown(Shutdown::Write).is_ok() && connection.drain() {
            let mut all = self.0.lock();
            if all.len() == MAX_LINGERING {
                all.remove(0);
            }
            all.push(connection);
        }
    }

    /// What to wait for: when one of them can be read, [`tend`](Farewells::tend) has something
    /// to do.
    pub(crate) fn streams(&self) -> Vec<Arc<SharedStream>> {
        self.0.lock().iter().map(|connection| connection.stream.clone()).collect()
    }

    /// When it has something to do in any case.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.lock().first().map(|connection| connection.deadline)
    }

    /// Lets go of those who have closed, or whose time is up.
    pub(crate) fn poll(&self) {
        let now = Instant::now();
        self.0.lock().retain_mut(|connection| connection.deadline > now && connection.drain());
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// In a forked child: lets go of them, unless another thread held the lock at the moment of
    /// the fork.
    pub(crate) fn forget_in_child(&self) {
        if let Some(mut all) = self.0.try_lock() {
            all.clear();
        }
    }
}

impl RejectedConnection {
    /// Throws away what has come; whether it is worth waiting for more.
    // Inlined, it would take a page of the stack of whoever may have to call it.
    #[inline(never)]
    fn drain(&mut self) -> bool {
        let mut discarded = [0; 4096];
        loop {
            match self.stream.inner().try_read(&mut discarded) {
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
