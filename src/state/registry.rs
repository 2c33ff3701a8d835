//! [`Registry`]: the requests that are being served.

use std::collections::{HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PeerKey;
use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::id::ConnectionId;
use crate::net::SharedStream;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

#[cfg(all(test, shuttle))]
mod model;

/// One request that is being served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its number; to its handler, [`Connection::id`](crate::Connection::id).
    pub id: ConnectionId,
    /// The client's address.
    pub peer: Address,
    /// How long ago it was accepted.
    pub age: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    became_empty: Condvar,
    /// Connections that were removed, and whose sockets are just being closed.
    closing: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    connections: HashMap<ConnectionId, Entry, BuildHasherDefault<IdHasher>>,
    /// How many of them each peer has, of those whose key was asked for.
    peer_counts: HashMap<PeerKey, usize>,
    /// Since a stop began: a connection that is inserted has its read side shut.
    draining: bool,
    drained: usize,
    forced: usize,
}

#[derive(Debug)]
struct Entry {
    peer: Address,
    /// `None` while no limit needs it.
    peer_key: Option<PeerKey>,
    since: Instant,
    /// `None` for a datagram.
    stream: Option<Arc<SharedStream>>,
    forced: bool,
}

/// Fibonacci hashing, for unique ids that the server assigns: it needs no resistance to collisions
/// that a client could choose.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio, as in Knuth's multiplicative hashing. The map uses the
        // low bits and the highest ones.
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
        self.inner.lock().connections.len()
    }

    /// Whether a request may still give descriptors back: it is being served, or was removed, and its
    /// socket is not closed yet.
    pub(crate) fn may_free_descriptors(&self) -> bool {
        self.len() > 0 || self.closing.load(Ordering::SeqCst) > 0
    }

    /// How many requests of this peer are being served, of those whose key was asked for.
    pub(crate) fn count(&self, peer_key: PeerKey) -> usize {
        self.inner.lock().peer_counts.get(&peer_key).copied().unwrap_or(0)
    }

    pub(crate) fn insert(
        &self,
        id: ConnectionId,
        peer: Address,
        peer_key: Option<PeerKey>,
        stream: Option<Arc<SharedStream>>,
    ) {
        let mut inner = self.inner.lock();
        if inner.draining {
            close(stream.as_ref(), Shutdown::Read);
        }
        if let Some(peer_key) = peer_key {
            *inner.peer_counts.entry(peer_key).or_default() += 1;
        }
        let entry = Entry { peer, peer_key, since: Instant::now(), stream, forced: false };
        inner.connections.insert(id, entry);
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.connections.remove(&id) else { return };
        if let Some(peer_key) = entry.peer_key
            && let hash_map::Entry::Occupied(mut count) = inner.peer_counts.entry(peer_key)
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
        let is_last = inner.connections.is_empty();
        self.closing.fetch_add(1, Ordering::SeqCst);
        drop(inner);
        // Dropping the last `Arc` closes the socket, which is not done under the lock.
        drop(entry);
        self.closing.fetch_sub(1, Ordering::SeqCst);
        if is_last {
            self.became_empty.notify_all();
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<ConnectionInfo> {
        let inner = self.inner.lock();
        let mut all: Vec<_> = (inner.connections.iter())
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

    /// Shuts one connection down. Whether there was a connection of this id.
    pub(crate) fn disconnect(&self, id: ConnectionId) -> bool {
        let inner = self.inner.lock();
        let stream = inner.connections.get(&id).and_then(|entry| entry.stream.clone());
        drop(inner);
        close(stream.as_ref(), Shutdown::Both);
        stream.is_some()
    }

    /// Begins a stop: every handler reads EOF behind what was received.
    pub(crate) fn drain(&self) {
        let mut inner = self.inner.lock();
        if !std::mem::replace(&mut inner.draining, true) {
            for entry in inner.connections.values() {
                close(entry.stream.as_ref(), Shutdown::Read);
            }
        }
    }

    /// Near the end of a stop: shuts down the connections that are left.
    pub(crate) fn force(&self) {
        for entry in self.inner.lock().connections.values_mut() {
            entry.forced = true;
            close(entry.stream.as_ref(), Shutdown::Both);
        }
    }

    /// How many requests ended by themselves since the stop began, and how many by
    /// [`force`](Registry::force).
    pub(crate) fn drained_and_forced(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.drained, inner.forced)
    }

    /// Waits until no request is left; `false` when one was at `deadline()`, which is called again
    /// after [`wake`](Registry::wake).
    pub(crate) fn wait_until_empty(&self, deadline: impl Fn() -> Instant) -> bool {
        let mut inner = self.inner.lock();
        while !inner.connections.is_empty() {
            let deadline = deadline();
            if Instant::now() >= deadline {
                return false;
            }
            self.became_empty.wait_until(&mut inner, deadline);
        }
        true
    }

    pub(crate) fn wake(&self) {
        // Under the lock: a waiter that has just called `deadline()` would miss the notification.
        let _inner = self.inner.lock();
        self.became_empty.notify_all();
    }

    /// In a forked child: removes all entries but one, unless another thread held the lock at the
    /// fork.
    pub(crate) fn retain_only(&self, id: ConnectionId) {
        if let Some(mut inner) = self.inner.try_lock() {
            inner.connections.retain(|connections, _| *connections == id);
        }
    }
}

fn close(stream: Option<&Arc<SharedStream>>, how: Shutdown) {
    if let Some(stream) = stream {
        stream.close(how, CloseReason::Stopped);
    }
}
