//! [poll(2)]: blocking until a descriptor is ready.
//!
//! [poll(2)]: https://man7.org/linux/man-pages/man2/poll.2.html

use std::array;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// The readiness of a descriptor to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// A read does not block: there is input, EOF or an error (`POLLIN`).
    Read,
    /// A write does not block: there is room for output, or an error (`POLLOUT`).
    Write,
    /// Both directions are closed, or the connection was reset (`POLLHUP`, `POLLERR`).
    Closed,
}

/// Blocks until one of the descriptors is ready ([poll(2)]), at most until `deadline` (`None`: for
/// ever), and returns which of `wanted` are ready: none of them after the deadline. A readable
/// descriptor of `others` ends the wait too, and is not reported.
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

/// As [`poll`], for a number of descriptors that is known at run time.
pub(crate) fn poll_all(
    wanted: &[(BorrowedFd<'_>, Interest)],
    deadline: Option<Instant>,
) -> io::Result<Vec<bool>> {
    let mut ready = vec![false; wanted.len()];
    poll_each(wanted.len(), |index| wanted[index], |index| ready[index] = true, deadline)?;
    Ok(ready)
}

/// How many descriptors [`poll_each`] waits for without allocating.
const FEW: usize = 16;

/// As [`poll`], for `count` descriptors, one at least, of which `wanted` is called with the index.
/// `on_ready` is called with the indices of those that are ready.
pub(crate) fn poll_each<'fd>(
    count: usize,
    wanted: impl Fn(usize) -> (BorrowedFd<'fd>, Interest),
    on_ready: impl FnMut(usize),
    deadline: Option<Instant>,
) -> io::Result<()> {
    let poll_fd = |index| poll_fd(&wanted(index));
    let (mut few, mut many);
    let fds: &mut [PollFd<'fd>] = if count <= FEW {
        few = array::from_fn::<_, FEW, _>(|index| poll_fd(index.min(count - 1)));
        &mut few[..count]
    } else {
        many = (0..count).map(poll_fd).collect::<Vec<_>>();
        &mut many
    };
    sleep(fds, deadline)?;
    (0..count).filter(|index| !fds[*index].revents().is_empty()).for_each(on_ready);
    Ok(())
}

/// Whether both directions of a socket are closed (`POLLHUP`).
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    // macOS reports `POLLHUP` with `POLLIN` when the input alone has ended.
    events(fd, PollFlags::OUT).contains(PollFlags::HUP)
}

/// Whether there is TCP urgent data that was not read past (`POLLPRI`).
pub(crate) fn has_urgent_mark(fd: BorrowedFd<'_>) -> bool {
    events(fd, PollFlags::PRI).contains(PollFlags::PRI)
}

/// Whether there is input, an urgent byte alone included, EOF or an error.
pub(crate) fn has_input(fd: BorrowedFd<'_>) -> bool {
    !events(fd, PollFlags::IN | PollFlags::PRI).is_empty()
}

/// Which of these events have happened, without blocking.
fn events(fd: BorrowedFd<'_>, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    // Fails for lack of memory only.
    match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

fn poll_fd<'fd>((fd, interest): &(BorrowedFd<'fd>, Interest)) -> PollFd<'fd> {
    let flags = match interest {
        Interest::Read => PollFlags::IN,
        Interest::Write => PollFlags::OUT,
        // Both are reported without being asked for.
        Interest::Closed => PollFlags::empty(),
    };
    PollFd::from_borrowed_fd(*fd, flags)
}

fn sleep(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| timespec(left.min(MAX_SLEEP)));
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left > MAX_SLEEP) => {}
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The longest time of one poll(2): macOS takes no more than 2^31 - 1 milliseconds.
const MAX_SLEEP: Duration = Duration::from_secs(24 * 3600);

pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}
