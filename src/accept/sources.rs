//! [`Sources`]: the sockets that requests are taken from, and the threads that wait for them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::source::Source;
use crate::id::ListenerId;
use crate::state::ListenerInfo;
use crate::sys::poller::{ListenerWaiter, ReadySet};

/// Requests come from one source mostly, which is accepted from, and waited for, directly. Of several
/// sources the [`ReadySet`] says which are ready; it is made when it is first needed.
pub(super) struct Sources {
    /// In the order of their numbers.
    open: Vec<Open>,
    /// Where threads wait for all sources that are not being closed.
    waiters: Vec<ListenerWaiter>,
    next_number: u64,
    /// A stop has begun, or this is a forked child: sources are not added any more.
    pub(super) is_closed: bool,
}

struct Open {
    source: Arc<Source>,
    is_closing: bool,
    /// How many requests are left to take, of those that waited when the stop or the closing began.
    /// `None` before that.
    left_to_drain: Option<usize>,
}

impl Open {
    fn number(&self) -> u64 {
        self.source.info.id.into()
    }
}

impl Sources {
    pub(super) fn new(first: Source) -> Sources {
        let mut sources =
            Sources { open: Vec::new(), waiters: Vec::new(), next_number: 1, is_closed: false };
        sources.push(first);
        sources
    }

    fn push(&mut self, source: Source) {
        self.next_number += 1;
        self.open.push(Open { source: Arc::new(source), is_closing: false, left_to_drain: None });
    }

    /// For a source that is to be added.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn infos(&self) -> Vec<ListenerInfo> {
        self.open.iter().map(|open| ListenerInfo::clone(&open.source.info)).collect()
    }

    pub(super) fn source(&self, index: usize) -> &Source {
        &self.open[index].source
    }

    pub(super) fn first(&self) -> Option<&Arc<Source>> {
        self.open.first().map(|open| &open.source)
    }

    /// The source to wait for, if it is one. Otherwise the ready set is to be waited for.
    pub(super) fn only(&self) -> Option<&Arc<Source>> {
        match &self.open[..] {
            [only] if !only.is_closing => Some(&only.source),
            _ => None,
        }
    }

    /// The index of a source to accept from; `None` if it is known that there is nothing.
    pub(super) fn next_ready(&self, ready: &OnceLock<ReadySet>) -> Option<usize> {
        if self.only().is_some() {
            return Some(0);
        }
        let number = ready.get()?.next()?;
        self.open.binary_search_by_key(&number, Open::number).ok()
    }

    /// The ready set, which has all sources from now on.
    pub(super) fn ready_set<'a>(&self, ready: &'a OnceLock<ReadySet>) -> io::Result<&'a ReadySet> {
        if let Some(ready) = ready.get() {
            return Ok(ready);
        }
        let new = ReadySet::new()?;
        self.add_all(&new)?;
        Ok(ready.get_or_init(|| new))
    }

    fn add_all(&self, ready: &ReadySet) -> io::Result<()> {
        let mut sources = self.open.iter().filter(|open| !open.is_closing);
        sources.try_for_each(|open| ready.add(open.source.as_fd(), open.number()))
    }

    /// In a forked child that accepts beside its parent: the sockets are common to them, what waits
    /// for the sockets is not.
    pub(super) fn become_child(&mut self, ready: &OnceLock<ReadySet>) -> io::Result<()> {
        self.waiters.clear();
        let Some(ready) = ready.get() else { return Ok(()) };
        ready.replace_inherited()?;
        self.add_all(ready)
    }

    /// Adds a source, to be waited for by all waiters.
    pub(super) fn add(&mut self, source: Source, ready: &OnceLock<ReadySet>) -> io::Result<()> {
        let number = source.info.id.into();
        let ready = self.ready_set(ready)?;
        let added = ready
            .add(source.as_fd(), number)
            .and_then(|()| self.waiters.iter().try_for_each(|waiter| waiter.add(source.as_fd())));
        if let Err(error) = added {
            self.forget(&source, Some(ready));
            return Err(error);
        }
        self.push(source);
        Ok(())
    }

    /// From now on nothing waits for the source.
    fn forget(&self, source: &Source, ready: Option<&ReadySet>) {
        ready.inspect(|ready| ready.delete(source.as_fd(), source.info.id.into()));
        self.waiters.iter().for_each(|waiter| waiter.delete(source.as_fd()));
    }

    /// Begins to close a source; whether there is one that is not being closed.
    pub(super) fn begin_closing(&mut self, id: ListenerId, ready: &OnceLock<ReadySet>) -> bool {
        let mut open = self.open.iter_mut();
        let Some(open) = open.find(|open| open.source.info.id == id && !open.is_closing) else {
            return false;
        };
        open.is_closing = true;
        open.left_to_drain.get_or_insert_with(|| open.source.max_queued());
        let source = open.source.clone();
        self.forget(&source, ready.get());
        true
    }

    /// The index of a source that is being closed.
    pub(super) fn closing(&self) -> Option<usize> {
        self.open.iter().position(|open| open.is_closing)
    }

    /// Removes a source. Dropping it closes it.
    pub(super) fn remove(&mut self, index: usize, ready: &OnceLock<ReadySet>) -> Arc<Source> {
        let open = self.open.remove(index);
        self.forget(&open.source, ready.get());
        open.source
    }

    /// Notes how many requests wait, and returns their number. `None` if it is not the first call.
    pub(super) fn begin_drain(&mut self) -> Option<usize> {
        if std::mem::replace(&mut self.is_closed, true) {
            return None;
        }
        let left = self
            .open
            .iter_mut()
            .map(|open| *open.left_to_drain.get_or_insert_with(|| open.source.max_queued()));
        Some(left.fold(0, usize::saturating_add))
    }

    /// The index of a source whose backlog is not drained, during a stop.
    pub(super) fn next_to_drain(&self) -> Option<usize> {
        self.open.iter().position(|open| open.left_to_drain != Some(0))
    }

    pub(super) fn is_drained(&self, index: usize) -> bool {
        self.open[index].left_to_drain == Some(0)
    }

    /// A request was taken.
    pub(super) fn note_taken(&mut self, index: usize) {
        if let Some(left) = &mut self.open[index].left_to_drain {
            *left = left.saturating_sub(1);
        }
    }

    /// There are no more in this backlog.
    pub(super) fn note_drained(&mut self, index: usize) {
        self.open[index].left_to_drain = Some(0);
    }

    /// Has a thread wait for all sources.
    pub(super) fn add_waiter(&mut self, waiter: &ListenerWaiter) -> io::Result<()> {
        let mut sources = self.open.iter().filter(|open| !open.is_closing);
        if let Err(error) = sources.try_for_each(|open| waiter.add(open.source.as_fd())) {
            self.delete_sources(waiter);
            return Err(error);
        }
        self.waiters.push(waiter.clone());
        Ok(())
    }

    /// Has the waiters of other processes be woken first. After an error this one is woken no more.
    pub(super) fn requeue(&mut self, waiter: &ListenerWaiter) -> io::Result<()> {
        let mut sources = self.open.iter().filter(|open| !open.is_closing);
        let requeued = sources.try_for_each(|open| waiter.requeue(open.source.as_fd()));
        requeued.inspect_err(|_| self.remove_waiter(waiter))
    }

    pub(super) fn remove_waiter(&mut self, waiter: &ListenerWaiter) {
        self.waiters.retain(|other| other != waiter);
        self.delete_sources(waiter);
    }

    pub(super) fn remove_waiters(&mut self) {
        let waiters = std::mem::take(&mut self.waiters);
        waiters.iter().for_each(|waiter| self.delete_sources(waiter));
    }

    fn delete_sources(&self, waiter: &ListenerWaiter) {
        self.open.iter().for_each(|open| waiter.delete(open.source.as_fd()));
    }

    /// See [`Transport::set_owner`](crate::extend::Transport::set_owner).
    pub(super) fn set_owner(&self, yes: bool) {
        self.open.iter().for_each(|open| open.source.set_owner(yes));
    }

    /// A duplicate of each socket that is not being closed.
    pub(super) fn copies(&self) -> io::Result<Vec<(OwnedFd, ListenerInfo)>> {
        let open = self.open.iter().filter(|open| !open.is_closing && !self.is_closed);
        let copy = |open: &Open| {
            let info = ListenerInfo::clone(&open.source.info);
            Ok((open.source.as_fd().try_clone_to_owned()?, info))
        };
        open.map(copy).collect()
    }

    /// All sources but one.
    pub(super) fn others(&self, kept: Option<ListenerId>) -> impl Iterator<Item = &Source> {
        let others = self.open.iter().filter(move |open| Some(open.source.info.id) != kept);
        others.map(|open| &*open.source)
    }
}

/// Another process may have the sockets too, so that they stay registered where threads wait.
impl Drop for Sources {
    fn drop(&mut self) {
        self.waiters.iter().for_each(|waiter| self.delete_sources(waiter));
    }
}
