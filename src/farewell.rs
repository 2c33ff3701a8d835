//! Those who were turned away, until they have read why.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::link::Link;

/// How long one may take to read, and close.
const LONGEST: Duration = Duration::from_secs(1);

/// How many are kept; the oldest makes room for the next.
const MOST: usize = 64;

/// How much of what one sends is read, and thrown away, before it is given up.
const MOST_WASTE: usize = 256 * 1024;

/// Connections that were refused and told so. To close one at once would destroy the message on
/// its way if the peer has sent something, or still does (see `connection/close.rs`): so it is
/// kept until it has closed, within bounds, and whatever it sends is thrown away. The thread that
/// accepts looks after them.
#[derive(Debug, Default)]
pub(crate) struct Farewells(Mutex<Vec<Farewell>>);

#[derive(Debug)]
struct Farewell {
    link: Arc<Link>,
    until: Instant,
    wasted: usize,
}

impl Farewells {
    /// Ends the sending side, and keeps the connection for a while.
    pub(crate) fn say(&self, link: &Arc<Link>) {
        let mut farewell =
            Farewell { link: link.clone(), until: Instant::now() + LONGEST, wasted: 0 };
        if link.stream().shutdown(Shutdown::Write).is_ok() && farewell.may_go_on() {
            let mut all = self.0.lock();
            if all.len() == MOST {
                all.remove(0);
            }
            all.push(farewell);
        }
    }

    /// What to wait for: when one of them can be read, [`tend`](Farewells::tend) has something
    /// to do.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.0.lock().iter().map(|farewell| farewell.link.clone()).collect()
    }

    /// When it has something to do in any case.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.0.lock().first().map(|farewell| farewell.until)
    }

    /// Lets go of those who have closed, or whose time is up.
    pub(crate) fn tend(&self) {
        let now = Instant::now();
        self.0.lock().retain_mut(|farewell| farewell.until > now && farewell.may_go_on());
    }

    /// Lets go of all of them.
    pub(crate) fn cut_short(&self) {
        self.0.lock().clear();
    }

    /// In a forked child: lets go of them, unless another thread held the lock at the moment of
    /// the fork.
    pub(crate) fn forget(&self) {
        if let Some(mut all) = self.0.try_lock() {
            all.clear();
        }
    }
}

impl Farewell {
    /// Throws away what has come; whether it is worth waiting for more.
    // Inlined, it would take a page of the stack of whoever may have to call it.
    #[inline(never)]
    fn may_go_on(&mut self) -> bool {
        let mut waste = [0; 4096];
        loop {
            match self.link.stream().try_read(&mut waste) {
                Ok(0) => return false,
                Ok(length) => self.wasted += length,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if self.wasted >= MOST_WASTE {
                return false;
            }
        }
    }
}
