//! [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html): one thread waits for many
//! descriptors ([`Poller`]), or many threads wait for one descriptor ([`ExclusiveWaiter`]).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
#[cfg(feature = "fibers")]
use rustix::io::Errno;
use rustix::time;

use super::poll::timespec;

/// The descriptors that a worker thread waits for, each registered with a number.
#[cfg(feature = "fibers")]
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

/// The readiness of a descriptor. For one that is registered with [`Poller::add`]: what has changed
/// since the last event.
#[cfg(feature = "fibers")]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    /// There is input.
    pub(crate) readable: bool,
    /// There is an urgent mark in the input (`EPOLLPRI`), at which a read ends though more is there.
    pub(crate) urgent: bool,
    /// There is room for output.
    pub(crate) writable: bool,
    /// The input ends with what was received (`EPOLLRDHUP`): reads never block again.
    pub(crate) ended: bool,
    /// Both directions are closed (`EPOLLHUP`): writes never block again.
    pub(crate) broken: bool,
}

#[cfg(feature = "fibers")]
impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Registers a stream for edge-triggered events of both directions: one for its present state,
    /// and one for each change until it is closed. Does nothing if it is registered already.
    pub(crate) fn add(&self, stream: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let flags =
            EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.register(stream, number, flags)
    }

    /// Registers a descriptor for level-triggered input: each [`wait`](Poller::wait) reports it as
    /// long as there is input. Does nothing if it is registered already.
    pub(crate) fn add_level(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.register(fd, number, EventFlags::IN)
    }

    /// As [`add_level`](Poller::add_level), but an event wakes one of the threads that have
    /// registered the descriptor in this way, not all of them (`EPOLLEXCLUSIVE`).
    pub(crate) fn add_exclusive(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.register(fd, number, EventFlags::IN | EventFlags::EXCLUSIVE)
    }

    /// Unregisters an open descriptor. (A closed one is unregistered by the kernel.)
    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) {
        // `ENOENT`: it was not registered.
        let _ = epoll::delete(&self.0, fd);
    }

    fn register(&self, fd: BorrowedFd<'_>, number: u64, flags: EventFlags) -> io::Result<()> {
        match epoll::add(&self.0, fd, EventData::new_u64(number), flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
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

/// How an idle acceptor thread waits: for a listener, a shutdown descriptor and a timer. Each
/// thread has its own `ExclusiveWaiter`. An event of the listener wakes one of the threads
/// ([epoll_ctl(2)], `EPOLLEXCLUSIVE`), an event of the shutdown descriptor all of them. The timer
/// is periodic ([timerfd_create(2)]): unlike a timeout of `epoll_wait` it is not set anew for each
/// wait, which saves the kernel that work.
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
/// [timerfd_create(2)]: https://man7.org/linux/man-pages/man2/timerfd_create.2.html
#[derive(Debug)]
pub(crate) struct ExclusiveWaiter {
    epoll: OwnedFd,
    timer: OwnedFd,
}

/// What an [`ExclusiveWaiter`] was woken by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wakeups {
    pub(crate) listener: bool,
    pub(crate) shutdown: bool,
    /// The timer has expired since the last wait.
    pub(crate) tick: bool,
}

impl ExclusiveWaiter {
    /// The timer expires each time that `tick` has passed. It must not be zero, which would disarm
    /// the timer.
    pub(crate) fn new(
        listener: BorrowedFd<'_>,
        shutdown: BorrowedFd<'_>,
        tick: Duration,
    ) -> io::Result<ExclusiveWaiter> {
        let timer = time::timerfd_create(
            time::TimerfdClockId::Monotonic,
            time::TimerfdFlags::CLOEXEC | time::TimerfdFlags::NONBLOCK,
        )?;
        let tick = timespec(tick.min(MAX_TICK));
        let times = time::Itimerspec { it_interval: tick, it_value: tick };
        time::timerfd_settime(&timer, time::TimerfdTimerFlags::empty(), &times)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let exclusive = EventFlags::IN | EventFlags::EXCLUSIVE;
        epoll::add(&epoll, listener, EventData::new_u64(0), exclusive)?;
        epoll::add(&epoll, shutdown, EventData::new_u64(1), EventFlags::IN)?;
        epoll::add(&epoll, &timer, EventData::new_u64(2), EventFlags::IN)?;
        Ok(ExclusiveWaiter { epoll, timer })
    }

    /// Blocks until at least one of the three is ready. After a signal it may return with none.
    pub(crate) fn wait(&self) -> Wakeups {
        let mut events = [MaybeUninit::uninit(); 3];
        let mut wakeups = Wakeups::default();
        // `EINTR` is the only error that correct arguments can have.
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, None) else { return wakeups };
        for event in ready {
            match event.data.u64() {
                0 => wakeups.listener = true,
                1 => wakeups.shutdown = true,
                _ => wakeups.tick = rustix::io::read(&self.timer, &mut [0u8; 8]).is_ok(),
            }
        }
        wakeups
    }
}

/// Two years: as good as for ever, and no overflow in the kernel.
const MAX_TICK: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
