//! [poll(2)]: one thread waits for many descriptors ([`Poller`]); and which listeners are ready
//! ([`ReadySet`]).
//!
//! Several threads that wait for one listener would all be woken for each connection, and so one does:
//! the acceptor.
//!
//! [poll(2)]: https://pubs.opengroup.org/onlinepubs/9799919799/functions/poll.html
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
#[cfg(feature = "fibers")]
use std::{
    cell::RefCell,
    collections::HashMap,
    os::fd::{AsRawFd, RawFd},
};

use parking_lot::Mutex;
#[cfg(feature = "fibers")]
use rustix::event::{PollFd, PollFlags};

#[cfg(feature = "fibers")]
use crate::sys::native::HUNG_UP;
#[cfg(feature = "fibers")]
use crate::sys::poll::timespec;
use crate::sys::poll::{Interest, poll_all};
#[cfg(feature = "fibers")]
pub(crate) use crate::sys::readiness::Event;
use crate::sys::readiness::Wakeups;

/// The descriptors that a worker thread waits for, each with a number.
#[cfg(feature = "fibers")]
#[derive(Debug, Default)]
pub(crate) struct Poller(RefCell<Polled>);

#[cfg(feature = "fibers")]
#[derive(Debug, Default)]
struct Polled {
    /// Those that stay.
    level: Vec<(u64, RawFd)>,
    /// The streams that fibers wait for.
    armed: HashMap<u64, Armed>,
}

/// A stream, and what a fiber waits for.
#[cfg(feature = "fibers")]
#[derive(Clone, Copy, Debug)]
struct Armed {
    fd: RawFd,
    read: bool,
    write: bool,
    closed: bool,
}

#[cfg(feature = "fibers")]
impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller::default())
    }

    /// Has the stream's readiness reported by one event. The stream stays open until that, or until
    /// [`disarm`](Poller::disarm).
    pub(crate) fn arm(
        &self,
        stream: BorrowedFd<'_>,
        number: u64,
        interest: Interest,
        _is_registered: &mut bool,
    ) -> io::Result<()> {
        let armed = &mut self.0.borrow_mut().armed;
        let new = Armed { fd: stream.as_raw_fd(), read: false, write: false, closed: false };
        *armed.entry(number).or_insert(new).interest(interest) = true;
        Ok(())
    }

    /// The wait that the stream was armed for has ended without an event.
    pub(crate) fn disarm(&self, number: u64, interest: Interest) {
        let armed = &mut self.0.borrow_mut().armed;
        if let Some(stream) = armed.get_mut(&number) {
            *stream.interest(interest) = false;
            if !stream.is_armed() {
                armed.remove(&number);
            }
        }
    }

    /// Has each [`wait`](Poller::wait) report the descriptor as long as there is input. It stays open
    /// until it is deleted.
    pub(crate) fn add_level(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.0.borrow_mut().level.push((number, fd.as_raw_fd()));
        Ok(())
    }

    /// `None`: the acceptor accepts.
    pub(crate) fn listener_waiter(&self, _number: u64) -> Option<ListenerWaiter> {
        None
    }

    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) {
        self.0.borrow_mut().level.retain(|(_, other)| *other != fd.as_raw_fd());
    }

    /// Blocks until there are events, at most for `timeout` (`None`: for ever), and calls
    /// `on_event` with the number and the readiness of each descriptor. May return without an
    /// event, after a signal for example.
    pub(crate) fn wait(&self, timeout: Option<Duration>, mut on_event: impl FnMut(u64, Event)) {
        let (numbers, mut fds) = self.0.borrow().poll_fds();
        let timeout = timeout.map(|time| timespec(time.min(MAX_WAIT)));
        // `EINTR` is the only error that correct arguments can have.
        if rustix::event::poll(&mut fds, timeout.as_ref()).is_err() {
            return;
        }
        let ready = numbers.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        for (number, fd) in ready {
            let event = self.0.borrow_mut().take_event(number, fd.revents());
            on_event(number, event);
        }
    }
}

/// The longest time that is passed to one poll(2).
#[cfg(feature = "fibers")]
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

#[cfg(feature = "fibers")]
impl Polled {
    fn poll_fds(&self) -> (Vec<u64>, Vec<PollFd<'static>>) {
        let level = self.level.iter().map(|(number, fd)| (*number, *fd, PollFlags::IN));
        let armed = self.armed.iter().map(|(number, stream)| (*number, stream.fd, stream.flags()));
        let poll_fd = |(number, fd, flags)| {
            // SAFETY: the descriptor is open: see `arm` and `add_level`.
            (number, PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(fd) }, flags))
        };
        level.chain(armed).map(poll_fd).unzip()
    }

    /// What has happened. An interest that is reported is not armed any more.
    fn take_event(&mut self, number: u64, happened: PollFlags) -> Event {
        let Some(stream) = self.armed.get_mut(&number) else {
            return Event { readable: true, ..Event::default() };
        };
        let is =
            |flags| happened.intersects(flags | PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        let event = Event {
            readable: stream.read && is(PollFlags::IN),
            writable: stream.write && is(PollFlags::OUT),
            broken: stream.closed
                && happened.intersects(HUNG_UP | PollFlags::ERR | PollFlags::NVAL),
            ..Event::default()
        };
        stream.read &= !event.readable;
        stream.write &= !event.writable;
        stream.closed &= !event.broken;
        if !stream.is_armed() {
            self.armed.remove(&number);
        }
        event
    }
}

#[cfg(feature = "fibers")]
impl Armed {
    fn interest(&mut self, interest: Interest) -> &mut bool {
        match interest {
            Interest::Read => &mut self.read,
            Interest::Write => &mut self.write,
            Interest::Closed => &mut self.closed,
        }
    }

    fn is_armed(&self) -> bool {
        self.read || self.write || self.closed
    }

    fn flags(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.read);
        flags.set(PollFlags::OUT, self.write);
        flags
    }
}

/// It has no value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerWaiter(Infallible);

impl ListenerWaiter {
    pub(crate) fn add(&self, _listener: BorrowedFd<'_>) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) fn delete(&self, _listener: BorrowedFd<'_>) {
        match self.0 {}
    }

    pub(crate) fn requeue(&self, _listener: BorrowedFd<'_>) -> io::Result<()> {
        match self.0 {}
    }
}

/// Which of several listeners are ready, in turn.
#[derive(Debug, Default)]
pub(crate) struct ReadySet(Mutex<VecDeque<(u64, Arc<OwnedFd>)>>);

impl ReadySet {
    pub(crate) fn new() -> io::Result<ReadySet> {
        Ok(ReadySet::default())
    }

    /// In a forked child, which has a copy of this set: this becomes an empty one.
    pub(crate) fn replace_inherited(&self) -> io::Result<()> {
        self.0.lock().clear();
        Ok(())
    }

    /// `None`: there is no descriptor for all of them.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// In a forked child that has no listeners: calls `release` with its descriptors.
    pub(crate) fn release(&self, release: &mut impl FnMut(BorrowedFd<'_>)) {
        // Another thread of the parent may have held the lock at the fork.
        if let Some(listeners) = self.0.try_lock() {
            listeners.iter().for_each(|(_, listener)| release(listener.as_fd()));
        }
    }

    /// Whether a listener is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.has_other(u64::MAX)
    }

    /// The listeners to wait for.
    pub(crate) fn listeners(&self) -> Vec<Arc<OwnedFd>> {
        self.0.lock().iter().map(|(_, listener)| listener.clone()).collect()
    }

    /// Takes a descriptor.
    pub(crate) fn add(&self, listener: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let listener = Arc::new(listener.try_clone_to_owned()?);
        self.0.lock().push_back((number, listener));
        Ok(())
    }

    pub(crate) fn delete(&self, _listener: BorrowedFd<'_>, number: u64) {
        self.0.lock().retain(|(other, _)| *other != number);
    }

    /// The number of a ready listener, without blocking; `None` if there is none. It comes to the end
    /// of the list, so that each has its turn.
    pub(crate) fn next(&self) -> Option<u64> {
        let mut listeners = self.0.lock();
        let position = ready(&listeners).into_iter().position(|is_ready| is_ready)?;
        let listener = listeners.remove(position)?;
        let number = listener.0;
        listeners.push_back(listener);
        Some(number)
    }

    /// Whether another listener than this one is ready.
    pub(crate) fn has_other(&self, number: u64) -> bool {
        let listeners = self.0.lock();
        let ready = ready(&listeners);
        listeners.iter().zip(ready).any(|((other, _), is_ready)| is_ready && *other != number)
    }
}

/// Which of them are ready.
fn ready(listeners: &VecDeque<(u64, Arc<OwnedFd>)>) -> Vec<bool> {
    let wanted = listeners.iter().map(|(_, listener)| (listener.as_fd(), Interest::Read));
    // Fails for lack of memory only.
    poll_all(&wanted.collect::<Vec<_>>(), Some(Instant::now())).unwrap_or_default()
}

/// It has no value.
#[derive(Debug)]
pub(crate) struct ExclusivePoller(Infallible);

impl ExclusivePoller {
    /// # Errors
    /// `Unsupported`.
    pub(crate) fn new(_others: [BorrowedFd<'_>; 2]) -> io::Result<ExclusivePoller> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn listener_waiter(&self) -> ListenerWaiter {
        match self.0 {}
    }

    pub(crate) fn wait_until(&self, _deadline: Option<Instant>) -> [bool; 3] {
        match self.0 {}
    }
}

/// It has no value.
#[derive(Debug)]
pub(crate) struct ExclusiveWaiter(Infallible);

impl ExclusiveWaiter {
    /// # Errors
    /// `Unsupported`.
    pub(crate) fn new(_shutdown: BorrowedFd<'_>, _tick: Duration) -> io::Result<ExclusiveWaiter> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn listener_waiter(&self) -> ListenerWaiter {
        match self.0 {}
    }

    pub(crate) fn wait(&self) -> Wakeups {
        match self.0 {}
    }
}
