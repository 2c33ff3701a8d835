//! Sleeping until a descriptor is ready, and waking a sleeper.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::time;

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Something can be read, or the other end has closed.
    Read,
    /// Something can be written, or the connection is broken.
    Write,
}

/// Sleeps until one of the descriptors is ready ([poll(2)]), at most until `deadline` (`None`: for
/// ever). Says which are; none of them when time is up. The `others` only wake the sleeper, when
/// they can be read.
///
/// [poll(2)]: https://man7.org/linux/man-pages/man2/poll.2.html
pub(crate) fn poll<'fd, const N: usize>(
    wanted: [Option<(BorrowedFd<'fd>, Interest)>; N],
    others: impl IntoIterator<Item = BorrowedFd<'fd>>,
    deadline: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(N);
    fds.extend(wanted.iter().flatten().map(poll_fd));
    fds.extend(others.into_iter().map(|fd| poll_fd(&(fd, Interest::Read))));
    sleep(&mut fds, deadline)?;
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}

/// As [`poll`], for any number of descriptors.
pub(crate) fn poll_all(
    wanted: &[(BorrowedFd<'_>, Interest)],
    deadline: Option<Instant>,
) -> io::Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> = wanted.iter().map(poll_fd).collect();
    sleep(&mut fds, deadline)?;
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn poll_fd<'fd>((fd, interest): &(BorrowedFd<'fd>, Interest)) -> PollFd<'fd> {
    let flags = match interest {
        Interest::Read => PollFlags::IN,
        Interest::Write => PollFlags::OUT,
    };
    PollFd::from_borrowed_fd(*fd, flags)
}

fn sleep(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(timespec);
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
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
        let (each, first) = (epoll::EventFlags::IN, epoll::EventFlags::EXCLUSIVE);
        epoll::add(&all, listener, epoll::EventData::new_u64(0), each | first)?;
        epoll::add(&all, shutdown, epoll::EventData::new_u64(1), each)?;
        epoll::add(&all, &timer, epoll::EventData::new_u64(2), each)?;
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

/// A doorbell: rung from any thread, heard by one sleeper, silent once heard
/// ([eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html)).
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        Ok(Waker(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn wake(&self) {
        // It fails only when it has rung 2^64 - 2 times unheard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A switch that is thrown once: any byte written to it makes it readable for ever. A pipe, since
/// writing to one is allowed in a signal handler ([signal-safety(7)]) and is what signal crates
/// can do.
///
/// [signal-safety(7)]: https://man7.org/linux/man-pages/man7/signal-safety.7.html
#[derive(Debug)]
pub(crate) struct ShutdownSignal {
    read: OwnedFd,
    write: OwnedFd,
}

impl ShutdownSignal {
    pub(crate) fn new() -> io::Result<ShutdownSignal> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(ShutdownSignal { read, write })
    }

    pub(crate) fn trigger(&self) {
        // It fails only when the pipe is full, and then the switch was thrown long ago.
        let _ = rustix::io::write(&self.write, b"!");
    }

    pub(crate) fn try_clone_writer(&self) -> io::Result<OwnedFd> {
        self.write.try_clone()
    }
}

impl AsFd for ShutdownSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
