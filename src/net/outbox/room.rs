//! How a background thread waits for room in the streams that it writes to.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::net::SharedStream;
use crate::sys::poll::{Interest, poll_all};
use crate::sys::waker::Waker;

/// The time until the next write to a blocked stream that cannot be polled.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for the waker, which it clears, or for room in one of the streams, until `deadline`
/// (`None`: for ever). Returns for each stream whether there may be room.
pub(crate) fn wait_for_room(
    waker: &Waker,
    streams: &[&SharedStream],
    deadline: Option<Instant>,
) -> Vec<bool> {
    let mut fds = vec![(waker.as_fd(), Interest::Read)];
    let of_streams = streams.iter().filter_map(|stream| stream.inner().as_fd());
    fds.extend(of_streams.map(|fd| (fd, Interest::Write)));
    let retry = || Some(Instant::now() + RETRY_INTERVAL);
    let all_pollable = fds.len() == streams.len() + 1;
    let deadline = if all_pollable { deadline } else { deadline.or_else(retry) };
    let ready = match poll_all(&fds, deadline) {
        Ok(ready) => ready,
        Err(_) => {
            // Out of memory: tries all streams again after the retry interval.
            let _ = poll_all(&[(waker.as_fd(), Interest::Read)], retry());
            vec![true; fds.len()]
        }
    };
    if ready[0] {
        waker.clear();
    }
    let mut polled = ready[1..].iter();
    let mut has_room = |stream: &SharedStream| match stream.inner().as_fd() {
        Some(_) => polled.next().is_some_and(|ready| *ready),
        None => true,
    };
    streams.iter().map(|stream| has_room(stream)).collect()
}
