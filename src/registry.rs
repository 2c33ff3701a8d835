//! Who is connected now.

use std::collections::{HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::gate::Origin;
use crate::link::Link;
use crate::sync::{Condvar, Mutex};

#[cfg(all(test, shuttle))]
mod model;

/// One request that is being served.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its number: what [`Connection::id`](crate::Connection::id) is to its handler.
    pub id: u64,
    /// Who is at the other end.
    pub peer: Address,
    /// How long it has been here.
    pub age: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    present: HashMap<u64, Entry, BuildHasherDefault<IdHasher>>,
    /// How many of them are of one origin.
    origins: HashMap<Origin, usize>,
    /// Since a stop began, newcomers find their read side shut.
    draining: bool,
    drained: usize,
    forced: usize,
}

#[derive(Debug)]
struct Entry {
    peer: Address,
    /// `None` while it does not matter.
    origin: Option<Origin>,
    since: Instant,
    /// `None` for a datagram.
    link: Option<Arc<Link>>,
    forced: bool,
}

/// For numbers that nobody else chooses, and that are all different: spreads them out, no more.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio, as in Knuth's multiplicative hashing; the map looks at
        // the low bits and at the highest ones.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Registry {
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().present.len()
    }

    /// How many are here of one origin, of those who were asked for theirs.
    pub(crate) fn count(&self, origin: Origin) -> usize {
        self.inner.lock().origins.get(&origin).copied().unwrap_or(0)
    }

    pub(crate) fn enter(
        &self,
        id: u64,
        peer: Address,
        origin: Option<Origin>,
        link: Option<Arc<Link>>,
    ) {
        let mut inner = self.inner.lock();
        if inner.draining {
            end(link.as_ref(), Shutdown::Read);
        }
        if let Some(origin) = origin {
            *inner.origins.entry(origin).or_default() += 1;
        }
        let entry = Entry { peer, origin, since: Instant::now(), link, forced: false };
        inner.present.insert(id, entry);
    }

    pub(crate) fn leave(&self, id: u64) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.present.remove(&id) else { return };
        if let Some(origin) = entry.origin
            && let hash_map::Entry::Occupied(mut count) = inner.origins.entry(origin)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if entry.forced {
            inner.forced += 1;
        } else if inner.draining {
            inner.drained += 1;
        }
        let is_last = inner.present.is_empty();
        drop(inner);
        // The last owner of a link closes its socket: not under the lock.
        drop(entry);
        if is_last {
            self.emptied.notify_all();
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<ConnectionInfo> {
        let inner = self.inner.lock();
        let mut all: Vec<_> = (inner.present.iter())
            .map(|(id, entry)| ConnectionInfo {
                id: *id,
                peer: entry.peer.clone(),
                age: entry.since.elapsed(),
            })
            .collect();
        drop(inner);
        all.sort_unstable_by_key(|connection| connection.id);
        all
    }

    /// Cuts one connection off. Whether there was one to cut.
    pub(crate) fn disconnect(&self, id: u64) -> bool {
        let inner = self.inner.lock();
        let link = inner.present.get(&id).and_then(|entry| entry.link.clone());
        drop(inner);
        end(link.as_ref(), Shutdown::Both);
        link.is_some()
    }

    /// Begins a stop: every handler reads end-of-file after what it has received.
    pub(crate) fn drain(&self) {
        let mut inner = self.inner.lock();
        if !std::mem::replace(&mut inner.draining, true) {
            for entry in inner.present.values() {
                end(entry.link.as_ref(), Shutdown::Read);
            }
        }
    }

    /// The deadline has come: cuts off everybody who is still here.
    pub(crate) fn force(&self) {
        for entry in self.inner.lock().present.values_mut() {
            entry.forced = true;
            end(entry.link.as_ref(), Shutdown::Both);
        }
    }

    /// How many have ended by themselves since the stop began, and how many were cut off.
    pub(crate) fn drained_and_forced(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.drained, inner.forced)
    }

    /// Waits until nobody is here; `false` when somebody still was at `until()`, which is asked
    /// again after [`wake`](Registry::wake).
    pub(crate) fn wait_until_empty(&self, until: impl Fn() -> Instant) -> bool {
        let mut inner = self.inner.lock();
        while !inner.present.is_empty() {
            let until = until();
            if Instant::now() >= until {
                return false;
            }
            self.emptied.wait_until(&mut inner, until);
        }
        true
    }

    pub(crate) fn wake(&self) {
        // Under the lock, so that a waiter is either asleep or yet to ask for its time.
        let _inner = self.inner.lock();
        self.emptied.notify_all();
    }

    /// In a forked child: lets go of everybody but one. It does nothing if another thread held
    /// the lock at the moment of the fork.
    pub(crate) fn forget_all_but(&self, id: u64) {
        if let Some(mut inner) = self.inner.try_lock() {
            inner.present.retain(|present, _| *present == id);
        }
    }
}

fn end(link: Option<&Arc<Link>>, how: Shutdown) {
    if let Some(link) = link {
        link.end(how, CloseReason::Stopped);
    }
}
