//! [`Registry`]: the requests that are being served.

use std::collections::{BTreeSet, HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PeerKey;
use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::id::ConnectionId;
use crate::net::{SharedStream, Traffic};
use crate::primitive::atomic::{AtomicUsize, Ordering};
use crate::primitive::{Condvar, Mutex};
use crate::sync::{Activity, Current};

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
    /// What its handler does now.
    pub activity: Activity,
    /// For how long it has been doing that, to about 10 ms; at most `age`.
    pub activity_time: Duration,
    /// The addresses of the upstreams that its handler is
    /// [connected](crate::Connection::connect) to, oldest first.
    pub upstreams: Vec<Address>,
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
    /// Their ids, if the age of the oldest one is asked for.
    order: Option<BTreeSet<ConnectionId>>,
    /// Since a stop began: a connection that is inserted has its read side shut.
    draining: bool,
    /// Not those of new clients yet.
    spares_new: bool,
    drained: usize,
    forced: usize,
}

#[derive(Debug)]
pub(crate) struct Entry {
    peer: Address,
    /// `None` while no limit needs it.
    peer_key: Option<PeerKey>,
    since: Instant,
    /// `None` for a datagram.
    stream: Option<Arc<SharedStream>>,
    /// Connections to others that belong to it.
    upstreams: Vec<Arc<SharedStream>>,
    /// What runs its handler.
    current: Arc<Current>,
    forced: bool,
}

/// What the registry knows of a request's course.
pub(crate) struct Begun {
    pub(super) at: Instant,
    /// `None` for a datagram.
    pub(super) traffic: Option<Traffic>,
}

/// What the observers are told of a request that was removed.
pub(super) struct Removed {
    pub(super) peer: Address,
    pub(super) begun: Begun,
    pub(super) longest_wait: Duration,
}

impl Entry {
    pub(super) fn removed(&self) -> Box<Removed> {
        let (begun, longest_wait) = (self.begun(), self.longest_wait());
        Box::new(Removed { peer: self.peer.clone(), begun, longest_wait })
    }

    fn longest_wait(&self) -> Duration {
        self.stream.as_ref().map(|stream| stream.longest_wait()).unwrap_or_default()
    }

    pub(super) fn begun(&self) -> Begun {
        Begun { at: self.since, traffic: self.stream.as_ref().map(|stream| stream.traffic()) }
    }

    /// Whether the client has sent nothing, or has had no answer.
    fn is_new(&self) -> bool {
        let traffic = self.stream.as_ref().map(|stream| stream.traffic()).unwrap_or_default();
        traffic.received == 0 || traffic.sent == 0
    }

    fn info(&self, id: ConnectionId) -> ConnectionInfo {
        let age = self.since.elapsed();
        let streams = self.stream.iter().chain(&self.upstreams).map(|stream| stream.activity());
        // The handler waits for one thing at a time, or runs since the last wait has ended.
        let (activity, time) = (iter::once(self.current.activity()).chain(streams))
            .min_by_key(|(activity, time)| (*activity == Activity::Running, *time))
            .unwrap_or_default();
        ConnectionInfo {
            id,
            peer: self.peer.clone(),
            age,
            activity,
            activity_time: time.min(age),
            upstreams: self.upstreams.iter().map(|stream| stream.peer().clone()).collect(),
        }
    }

    fn close(&self, how: Shutdown) {
        close(self.stream.as_ref(), how);
        if how == Shutdown::Both {
            self.upstreams.iter().for_each(|upstream| close(Some(upstream), how));
        }
    }
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

    /// Calls `count` under the lock.
    pub(crate) fn insert(
        &self,
        id: ConnectionId,
        peer: Address,
        peer_key: Option<PeerKey>,
        stream: Option<Arc<SharedStream>>,
        current: Arc<Current>,
        count: impl FnOnce(),
    ) {
        let mut inner = self.inner.lock();
        count();
        if inner.draining && !inner.spares_new {
            close(stream.as_ref(), Shutdown::Read);
        }
        if let Some(peer_key) = peer_key {
            *inner.peer_counts.entry(peer_key).or_default() += 1;
        }
        let (since, upstreams) = (Instant::now(), Vec::new());
        let entry = Entry { peer, peer_key, since, stream, upstreams, current, forced: false };
        inner.connections.insert(id, entry);
        inner.order.as_mut().map(|order| order.insert(id));
    }

    /// From now on [`with_oldest`](Registry::with_oldest) knows.
    pub(crate) fn keep_order(&self) {
        self.inner.lock().order.get_or_insert_default();
    }

    /// Calls `call` with the time at which the oldest request has come, under the lock: of calls at
    /// the same time, the last one has the latest state.
    pub(crate) fn with_oldest(&self, call: impl FnOnce(Option<Instant>)) {
        let inner = self.inner.lock();
        let oldest = inner.order.as_ref().and_then(BTreeSet::first);
        call(oldest.and_then(|id| inner.connections.get(id)).map(|entry| entry.since));
    }

    /// Sets the peer of a request whose client's address was not known before: `false` if there are `max`
    /// requests of this peer already.
    pub(crate) fn set_peer(
        &self,
        id: ConnectionId,
        peer: Address,
        peer_key: Option<PeerKey>,
        max: Option<usize>,
    ) -> bool {
        let mut inner = self.inner.lock();
        let Inner { connections, peer_counts, .. } = &mut *inner;
        let Some(entry) = connections.get_mut(&id) else { return true };
        if let Some(peer_key) = peer_key {
            let count = peer_counts.get(&peer_key).copied().unwrap_or(0);
            if max.is_some_and(|max| count >= max) {
                return false;
            }
            peer_counts.insert(peer_key, count + 1);
        }
        (entry.peer, entry.peer_key) = (peer, peer_key);
        true
    }

    /// Calls `record` under the lock, before the connection is closed, and returns what it returns.
    pub(crate) fn remove<R>(
        &self,
        id: ConnectionId,
        record: impl FnOnce(Option<&Entry>) -> R,
    ) -> R {
        let mut inner = self.inner.lock();
        let removed = inner.connections.remove(&id);
        let recorded = record(removed.as_ref());
        let Some(entry) = removed else { return recorded };
        inner.order.as_mut().map(|order| order.remove(&id));
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
        recorded
    }

    /// Since when a request is served, its traffic, and its longest wait; `None` if it is not served.
    pub(super) fn begun(&self, id: ConnectionId) -> Option<(Begun, Duration)> {
        let inner = self.inner.lock();
        inner.connections.get(&id).map(|entry| (entry.begun(), entry.longest_wait()))
    }

    pub(crate) fn snapshot(&self) -> Vec<ConnectionInfo> {
        let inner = self.inner.lock();
        let mut all: Vec<_> =
            (inner.connections.iter()).map(|(id, entry)| entry.info(*id)).collect();
        drop(inner);
        all.sort_unstable_by_key(|connection| connection.id);
        all
    }

    /// Shuts one connection down, and its upstreams. Whether there was a connection of this id.
    pub(crate) fn disconnect(&self, id: ConnectionId) -> bool {
        let inner = self.inner.lock();
        let entry = inner.connections.get(&id).filter(|entry| entry.stream.is_some());
        entry.inspect(|entry| entry.close(Shutdown::Both)).is_some()
    }

    /// A connection to another server that belongs to a request: it ends with the request.
    pub(crate) fn add_upstream(&self, id: ConnectionId, upstream: Arc<SharedStream>) {
        if let Some(entry) = self.inner.lock().connections.get_mut(&id) {
            if entry.forced {
                close(Some(&upstream), Shutdown::Both);
            }
            entry.upstreams.push(upstream);
        }
    }

    pub(crate) fn remove_upstream(&self, id: ConnectionId, upstream: &Arc<SharedStream>) {
        if let Some(entry) = self.inner.lock().connections.get_mut(&id) {
            entry.upstreams.retain(|other| !Arc::ptr_eq(other, upstream));
        }
    }

    /// Begins a stop: every handler reads EOF behind what was received. With `spares_new`, those whose
    /// clients have not had an answer yet read on until [`drain_new`](Registry::drain_new).
    pub(crate) fn drain(&self, spares_new: bool) {
        let mut inner = self.inner.lock();
        if !std::mem::replace(&mut inner.draining, true) {
            inner.spares_new = spares_new;
            let drained = inner.connections.values().filter(|entry| !spares_new || !entry.is_new());
            drained.for_each(|entry| entry.close(Shutdown::Read));
        }
    }

    pub(crate) fn spares_new(&self) -> bool {
        self.inner.lock().spares_new
    }

    /// Whether the read side of a connection was shut.
    pub(crate) fn is_read_shutdown(&self, id: ConnectionId) -> bool {
        let inner = self.inner.lock();
        let stream = inner.connections.get(&id).and_then(|entry| entry.stream.as_ref());
        stream.is_some_and(|stream| stream.is_read_shutdown())
    }

    /// The handlers that were spared read EOF too.
    pub(crate) fn drain_new(&self) {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.spares_new, false) {
            inner.connections.values().for_each(|entry| entry.close(Shutdown::Read));
        }
    }

    /// Near the end of a stop: shuts down the connections that are left, and ends all other waits of
    /// their handlers.
    pub(crate) fn force(&self) {
        for entry in self.inner.lock().connections.values_mut() {
            entry.forced = true;
            // First, so that a wait which ends by the shutdown is known to have been interrupted.
            entry.current.interrupt();
            entry.close(Shutdown::Both);
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
