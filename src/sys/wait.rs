//! Sleeping until a descriptor is ready, and waking a sleeper.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Something can be read, or the other end has closed.
    Read,
    /// Something can be written, or the connection is broken.
    Write,
}

/// Sleeps until one of the descriptors is ready ([poll(2)]), at most until `until` (`None`: for
/// ever). Says which are; none of them when time is up. The `others` only wake the sleeper, when
/// they can be read.
///
/// [poll(2)]: https://man7.org/linux/man-pages/man2/poll.2.html
pub(crate) fn poll<'fd, const N: usize>(
    wanted: [Option<(BorrowedFd<'fd>, Interest)>; N],
    others: impl IntoIterator<Item = BorrowedFd<'fd>>,
    until: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(N);
    fds.extend(wanted.iter().flatten().map(poll_fd));
    fds.extend(others.into_iter().map(|fd| poll_fd(&(fd, Interest::Read))));
    sleep(&mut fds, until)?;
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    Ok(wanted.map(|fd| fd.is_some() && ready.next().unwrap_or(false)))
}

/// As [`poll`], for any number of descriptors.
pub(crate) fn poll_all(
    wanted: &[(BorrowedFd<'_>, Interest)],
    until: Option<Instant>,
) -> io::Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> = wanted.iter().map(poll_fd).collect();
    sleep(&mut fds, until)?;
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

fn poll_fd<'fd>((fd, interest): &(BorrowedFd<'fd>, Interest)) -> PollFd<'fd> {
    let flags = match interest {
        Interest::Read => PollFlags::IN,
        Interest::Write => PollFlags::OUT,
    };
    PollFd::from_borrowed_fd(*fd, flags)
}

fn sleep(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    loop {
        match rustix::event::poll(fds, until.map(time_until).as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn time_until(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// Two descriptors to wait for. Of all threads that wait in this way for the first, each with one
/// of these, what happens to it wakes one only; the second wakes everybody ([epoll_ctl(2)],
/// `EPOLLEXCLUSIVE`).
///
/// [epoll_ctl(2)]: https://man7.org/linux/man-pages/man2/epoll_ctl.2.html
#[derive(Debug)]
pub(crate) struct Exclusive(OwnedFd);

impl Exclusive {
    pub(crate) fn new(one: BorrowedFd<'_>, everybody: BorrowedFd<'_>) -> io::Result<Exclusive> {
        let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = [epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE, epoll::EventFlags::IN];
        for ((number, fd), flags) in (0..).zip([one, everybody]).zip(flags) {
            epoll::add(&both, fd, epoll::EventData::new_u64(number), flags)?;
        }
        Ok(Exclusive(both))
    }

    /// Which of the two is ready; neither when time is up.
    pub(crate) fn wait(&self, until: Option<Instant>) -> [bool; 2] {
        let mut events = [MaybeUninit::uninit(); 2];
        loop {
            let timeout = until.map(time_until);
            match epoll::wait(&self.0, &mut events, timeout.as_ref()) {
                Ok((ready, _)) => {
                    return [0, 1]
                        .map(|number| ready.iter().any(|event| event.data.u64() == number));
                }
                Err(Errno::INTR) => {}
                // It has no other error that is not a mistake of this type's.
                Err(_) => return [false, false],
            }
        }
    }
}

/// A doorbell: rung from any thread, heard by one sleeper, silent once heard
/// ([eventfd(2)](https://man7.org/linux/man-pages/man2/eventfd.2.html)).
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        Ok(Bell(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // It fails only when it has rung 2^64 - 2 times unheard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
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
pub(crate) struct Switch {
    read: OwnedFd,
    write: OwnedFd,
}

impl Switch {
    pub(crate) fn new() -> io::Result<Switch> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Switch { read, write })
    }

    pub(crate) fn throw(&self) {
        // It fails only when the pipe is full, and then the switch was thrown long ago.
        let _ = rustix::io::write(&self.write, b"!");
    }

    pub(crate) fn thrower(&self) -> io::Result<OwnedFd> {
        self.write.try_clone()
    }
}

impl AsFd for Switch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}
