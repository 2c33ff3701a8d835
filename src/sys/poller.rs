//! Waiting for many descriptors at a time, of which only those are looked at that something has
//! happened to: [epoll(7)](https://man7.org/linux/man-pages/man7/epoll.7.html). What another system
//! has for that (kqueue) would come here.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::wait::timespec;

/// The descriptors that one thread waits for, each with a number.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

/// What has happened to a descriptor since it was last said.
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
