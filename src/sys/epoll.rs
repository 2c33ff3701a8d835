//! [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html): waiting for many descriptors
//! ([`Poller`]), and several threads waiting for one ([`ExclusiveWaiter`]).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time;

use super::poll::timespec;

/// The descriptors that one thread waits for, each with a number.
#[cfg(feature = "fibers")]
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

/// What has happened to a descriptor since it was last said.
#[cfg(feature = "fibers")]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event {
    /// There is something to read.
    pub(crate) readable: bool,
    /// There is room to write.
    pub(crate) writable: bool,
    /// Nothing more will come: reading never has to wait again.
    pub(crate) ended: bool,
    /// Neither does writing.
    pub(crate) broken: bool,
}

#[cfg(feature = "fibers")]
impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        Ok(Poller(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Says once what has happened to a stream, and what happens to it from now on, until it is
    /// closed.
    pub(crate) fn add(&self, stream: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.register(stream, number, flags)
    }

    /// Says again and again that there is something to read, as long as there is.
    pub(crate) fn add_level(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.register(fd, number, EventFlags::IN)
    }

    /// As [`add_level`](Readiness::watch_input), but of all who share it one is woken.
    pub(crate) fn add_exclusive(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.register(fd, number, EventFlags::IN | EventFlags::EXCLUSIVE)
    }

    /// Ends it for a descriptor that is still open.
    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) {
        // It fails where there is nothing to forget.
        let _ = epoll::delete(&self.0, fd);
    }

    fn register(&self, fd: BorrowedFd<'_>, number: u64, flags: EventFlags) -> io::Result<()> {
        match epoll::add(&self.0, fd, EventData::new_u64(number), flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sleeps until something has happened to one of them, at most for so long (`None`: for ever),
    /// and says what, of some of them at least. It may end early, for a signal or for no reason.
    pub(crate) fn wait(&self, time: Option<Duration>, mut on_event: impl FnMut(u64, Event)) {
        let timeout = time.map(|time| timespec(time.min(Duration::from_secs(24 * 3600))));
        let mut events = [MaybeUninit::uninit(); 512];
        // But for an interruption, it has no error that is not a mistake of this type's.
        let Ok((events, _)) = epoll::wait(&self.0, &mut events, timeout.as_ref()) else { return };
        for event in events {
            // Linux reports an error together with all that is asked for; reading or writing then
            // says which, once, so that they may have to wait after that.
            let flags = event.flags;
            let is = |flag| flags.intersects(flag | EventFlags::ERR | EventFlags::HUP);
            let what = Event {
                readable: is(EventFlags::IN),
                writable: is(EventFlags::OUT),
                ended: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
                broken: flags.contains(EventFlags::HUP),
            };
            on_event(event.data.u64(), what);
        }
    }
}

/// Three things to wait for. Of all threads that wait in this way for the first, each with one of
/// these, what happens to it wakes one only ([epoll_ctl(2)], `EPOLLEXCLUSIVE`); the second wakes
/// everybody. The third is a clock of its own ([timerfd_create(2)]), so that no time limit need be
/// set for each wait, which is what such limits cost.
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
/// [timerfd_create(2)]: https://man7.org/linux/man-pages/man2/timerfd_create.2.html
#[derive(Debug)]
pub(crate) struct ExclusiveWaiter {
    all: OwnedFd,
    timer: OwnedFd,
}

/// What [`ExclusiveWaiter`] waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wakeups {
    pub(crate) listener: bool,
    pub(crate) shutdown: bool,
    /// So much time has passed, once more.
    pub(crate) tick: bool,
}

impl ExclusiveWaiter {
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
        let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (each, first) = (EventFlags::IN, EventFlags::EXCLUSIVE);
        epoll::add(&all, listener, EventData::new_u64(0), each | first)?;
        epoll::add(&all, shutdown, EventData::new_u64(1), each)?;
        epoll::add(&all, &timer, EventData::new_u64(2), each)?;
        Ok(ExclusiveWaiter { all, timer })
    }

    /// Sleeps until one of them is ready, and says which are; a signal may wake it for nothing.
    pub(crate) fn wait(&self) -> Wakeups {
        let mut events = [MaybeUninit::uninit(); 3];
        let mut wakeups = Wakeups::default();
        // But for an interruption, it has no error that is not a mistake of this type's.
        let Ok((ready, _)) = epoll::wait(&self.all, &mut events, None) else { return wakeups };
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

/// Two years: longer than anybody waits, and no overflow anywhere.
const MAX_TICK: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
