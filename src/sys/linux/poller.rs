//! [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html): one thread waits for many
//! descriptors ([`Poller`]), or many threads or processes wait for the same listeners
//! ([`ExclusivePoller`], [`ExclusiveWaiter`], [`ListenerWaiter`]); and which listeners are ready
//! ([`ReadySet`]).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time;

use crate::sys::descriptors::replace;
#[cfg(feature = "fibers")]
use crate::sys::poll::Interest;
use crate::sys::poll::timespec;
#[cfg(feature = "fibers")]
pub(crate) use crate::sys::readiness::Event;
use crate::sys::readiness::Wakeups;

/// The descriptors that a worker thread waits for, each registered with a number.
#[cfg(feature = "fibers")]
#[derive(Debug)]
pub(crate) struct Poller(Arc<OwnedFd>);

#[cfg(feature = "fibers")]
impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller(Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)))
    }

    /// Has the stream's readiness reported by an event. The first time it registers the stream for
    /// edge-triggered events of both directions: one for its present state, and one for each change
    /// until it is closed.
    pub(crate) fn arm(
        &self,
        stream: BorrowedFd<'_>,
        number: u64,
        _interest: Interest,
        is_registered: &mut bool,
    ) -> io::Result<()> {
        if !*is_registered {
            let flags = EventFlags::IN
                | EventFlags::PRI
                | EventFlags::OUT
                | EventFlags::RDHUP
                | EventFlags::ET;
            add(&self.0, stream, number, flags)?;
            *is_registered = true;
        }
        Ok(())
    }

    /// The wait that the stream was armed for has ended without an event. The stream stays registered.
    pub(crate) fn disarm(&self, _number: u64, _interest: Interest) {}

    /// Registers a descriptor for level-triggered input: each [`wait`](Poller::wait) reports it as
    /// long as there is input. Does nothing if it is registered already.
    pub(crate) fn add_level(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        add(&self.0, fd, number, EventFlags::IN)
    }

    /// To wait for listeners with this number.
    pub(crate) fn listener_waiter(&self, number: u64) -> Option<ListenerWaiter> {
        Some(ListenerWaiter { epoll: self.0.clone(), number })
    }

    /// Unregisters an open descriptor. (A closed one is unregistered by the kernel.)
    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) {
        // `ENOENT`: it was not registered.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Blocks until there are events, at most for `timeout` (`None`: for ever), and calls
    /// `on_event` with the number and the readiness of each descriptor. May return without an
    /// event, after a signal for example. One call reports at most 512 descriptors, the next call
    /// the others.
    pub(crate) fn wait(&self, timeout: Option<Duration>, mut on_event: impl FnMut(u64, Event)) {
        let timeout = timeout.map(|time| timespec(time.min(MAX_WAIT)));
        let mut events = [MaybeUninit::uninit(); 512];
        // `EINTR` is the only error that correct arguments can have.
        let Ok((events, _)) = epoll::wait(&self.0, &mut events, timeout.as_ref()) else { return };
        for event in events {
            // `EPOLLERR` counts as readable and writable: the next read or write returns the error
            // and clears it. Later ones may block, so that it does not count as an end.
            let flags = event.flags;
            let is = |flag| flags.intersects(flag | EventFlags::ERR | EventFlags::HUP);
            let readiness = Event {
                readable: is(EventFlags::IN),
                urgent: flags.contains(EventFlags::PRI),
                writable: is(EventFlags::OUT),
                ended: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
                broken: flags.contains(EventFlags::HUP),
            };
            on_event(event.data.u64(), readiness);
        }
    }
}

/// The longest time that is passed to one `epoll_wait`.
#[cfg(feature = "fibers")]
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Does nothing if the descriptor is registered already.
fn add(epoll: &OwnedFd, fd: BorrowedFd<'_>, number: u64, flags: EventFlags) -> io::Result<()> {
    match epoll::add(epoll, fd, EventData::new_u64(number), flags) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The listeners that a thread waits for, among the other descriptors of its epoll. They are added
/// and deleted by any thread. An event of a listener wakes one of the threads that wait for it
/// ([epoll_ctl(2)], `EPOLLEXCLUSIVE`).
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
#[derive(Clone, Debug)]
pub(crate) struct ListenerWaiter {
    epoll: Arc<OwnedFd>,
    number: u64,
}

impl ListenerWaiter {
    pub(crate) fn add(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        add(&self.epoll, listener, self.number, EventFlags::IN | EventFlags::EXCLUSIVE)
    }

    /// A listener that another process has too stays registered when its descriptor is closed here,
    /// so that it has to be deleted before that.
    pub(crate) fn delete(&self, listener: BorrowedFd<'_>) {
        // `ENOENT`: it was not added.
        let _ = epoll::delete(&self.epoll, listener);
    }

    /// Lets the others be woken first: they are woken in the order in which they were added. After an
    /// error, the listener does not wake this one any more.
    pub(crate) fn requeue(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.delete(listener);
        self.add(listener)
    }
}

impl PartialEq for ListenerWaiter {
    fn eq(&self, other: &ListenerWaiter) -> bool {
        Arc::ptr_eq(&self.epoll, &other.epoll)
    }
}

/// Which of several listeners are ready, in turn.
#[derive(Debug)]
pub(crate) struct ReadySet(OwnedFd);

impl ReadySet {
    pub(crate) fn new() -> io::Result<ReadySet> {
        Ok(ReadySet(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// In a forked child, which has this set in common with its parent: this becomes an empty one of
    /// its own, with the same descriptor.
    pub(crate) fn replace_inherited(&self) -> io::Result<()> {
        replace(self.0.as_fd(), ReadySet::new()?.0.as_fd())
    }

    /// The descriptor, which is readable while a listener is ready.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    /// In a forked child that has no listeners: calls `release` with its descriptors.
    pub(crate) fn release(&self, release: &mut impl FnMut(BorrowedFd<'_>)) {
        release(self.0.as_fd());
    }

    /// Whether a listener is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.next().is_some()
    }

    /// The listeners to wait for in its place: none, since it has a descriptor.
    pub(crate) fn listeners(&self) -> Vec<Arc<OwnedFd>> {
        Vec::new()
    }

    pub(crate) fn add(&self, listener: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        add(&self.0, listener, number, EventFlags::IN)
    }

    pub(crate) fn delete(&self, listener: BorrowedFd<'_>, _number: u64) {
        let _ = epoll::delete(&self.0, listener);
    }

    /// The number of a ready listener, without blocking; `None` if there is none. The kernel moves a
    /// listener that was returned to the end of its list, so that each has its turn.
    pub(crate) fn next(&self) -> Option<u64> {
        let mut events = [MaybeUninit::uninit(); 1];
        let (ready, _) = epoll::wait(&self.0, &mut events, Some(&Timespec::default())).ok()?;
        ready.first().map(|event| event.data.u64())
    }

    /// Whether another listener than this one is ready.
    pub(crate) fn has_other(&self, number: u64) -> bool {
        let mut events = [MaybeUninit::uninit(); 2];
        let ready = epoll::wait(&self.0, &mut events, Some(&Timespec::default()));
        ready.is_ok_and(|(ready, _)| ready.iter().any(|event| event.data.u64() != number))
    }
}

/// Waits for listeners that other threads or processes wait for too, each with its own
/// `ExclusivePoller`: an event of a listener wakes one of them. Events of the two other descriptors
/// wake all.
#[derive(Debug)]
pub(crate) struct ExclusivePoller(Arc<OwnedFd>);

impl ExclusivePoller {
    /// Waits for no listener yet.
    pub(crate) fn new(others: [BorrowedFd<'_>; 2]) -> io::Result<ExclusivePoller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, other) in (1..).zip(others) {
            epoll::add(&epoll, other, EventData::new_u64(number), EventFlags::IN)?;
        }
        Ok(ExclusivePoller(Arc::new(epoll)))
    }

    pub(crate) fn listener_waiter(&self) -> ListenerWaiter {
        ListenerWaiter { epoll: self.0.clone(), number: 0 }
    }

    /// Blocks until a listener or one of the others is ready, at most for `timeout` (`None`: for
    /// ever). Returns which: a listener, and the others. After a signal it may be none.
    fn wait(&self, timeout: Option<Duration>) -> [bool; 3] {
        let timeout = timeout.map(|time| timespec(time.min(MAX_TIME)));
        let mut events = [MaybeUninit::uninit(); 3];
        let mut ready = [false; 3];
        // `EINTR` is the only error that correct arguments can have.
        if let Ok((events, _)) = epoll::wait(&self.0, &mut events, timeout.as_ref()) {
            events.iter().for_each(|event| ready[event.data.u64() as usize] = true);
        }
        ready
    }

    /// As `wait`, until `deadline`.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> [bool; 3] {
        self.wait(deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())))
    }
}

/// How an idle acceptor thread waits: for the listeners, a shutdown descriptor and a timer. The timer
/// is periodic ([timerfd_create(2)]): unlike a timeout of `epoll_wait` it is not set anew for each
/// wait, which saves the kernel that work.
///
/// [timerfd_create(2)]: https://man7.org/linux/man-pages/man2/timerfd_create.2.html
#[derive(Debug)]
pub(crate) struct ExclusiveWaiter {
    poller: ExclusivePoller,
    timer: OwnedFd,
}

impl ExclusiveWaiter {
    /// Waits for no listener yet. The timer expires each time that `tick` has passed. It must not be
    /// zero, which would disarm the timer.
    pub(crate) fn new(shutdown: BorrowedFd<'_>, tick: Duration) -> io::Result<ExclusiveWaiter> {
        let timer = time::timerfd_create(
            time::TimerfdClockId::Monotonic,
            time::TimerfdFlags::CLOEXEC | time::TimerfdFlags::NONBLOCK,
        )?;
        let tick = timespec(tick.min(MAX_TIME));
        let times = time::Itimerspec { it_interval: tick, it_value: tick };
        time::timerfd_settime(&timer, time::TimerfdTimerFlags::empty(), &times)?;
        let poller = ExclusivePoller::new([shutdown, timer.as_fd()])?;
        Ok(ExclusiveWaiter { poller, timer })
    }

    pub(crate) fn listener_waiter(&self) -> ListenerWaiter {
        self.poller.listener_waiter()
    }

    /// Blocks until at least one of them is ready. After a signal it may return with none.
    pub(crate) fn wait(&self) -> Wakeups {
        let [listener, shutdown, tick] = self.poller.wait(None);
        let tick = tick && rustix::io::read(&self.timer, &mut [0u8; 8]).is_ok();
        Wakeups { listener, shutdown, tick }
    }
}

/// Two years: as good as for ever, and no overflow in the kernel.
const MAX_TIME: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
