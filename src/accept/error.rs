//! Which errors of accept(2) retry at once, which back off, and for how long.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// What to do after an accept has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptError {
    /// The backlog is empty.
    WouldBlock,
    /// One connection was reset before it was accepted, or the network reported an error of it; the
    /// next one may be fine. [accept(2)], under "Error handling", lists them.
    ///
    /// [accept(2)]: https://man7.org/linux/man-pages/man2/accept.2.html
    OneConnection,
    /// The socket does not listen any more: another process that has it too has shut it down.
    NotListening,
    /// The system is out of descriptors or memory, or the listener is broken: a retry at once would
    /// fail again.
    System,
}

impl AcceptError {
    pub(crate) fn of(error: &io::Error) -> AcceptError {
        if error.kind() == io::ErrorKind::WouldBlock {
            return AcceptError::WouldBlock;
        }
        if matches!(
            error.kind(),
            io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionRefused
        ) {
            return AcceptError::OneConnection;
        }
        match Errno::from_io_error(error) {
            Some(
                Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM
                | Errno::TIMEDOUT,
            ) => AcceptError::OneConnection,
            #[cfg(target_os = "linux")]
            Some(Errno::NONET) => AcceptError::OneConnection,
            Some(Errno::INVAL) => AcceptError::NotListening,
            _ => AcceptError::System,
        }
    }
}

/// How long the listener is left alone after an error of the system: 5 ms, doubling to 80 ms, until
/// an accept succeeds. Twelve tries a second cost nothing measurable, and a waiting client is served
/// within a tenth of a second after the shortage is over.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(5);
    const MAX: Duration = Duration::from_millis(80);

    pub(crate) fn after_failure(&mut self) -> Duration {
        let wait = self.last.map_or(Backoff::FIRST, |last| (2 * last).min(Backoff::MAX));
        self.last = Some(wait);
        wait
    }

    pub(crate) fn after_success(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(errno: Errno) -> AcceptError {
        AcceptError::of(&errno.into())
    }

    #[test]
    fn errors_of_one_connection_retry_and_those_of_the_system_wait() {
        assert_eq!(of(Errno::AGAIN), AcceptError::WouldBlock);
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::NETDOWN, Errno::PERM] {
            assert_eq!(of(errno), AcceptError::OneConnection, "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::NOTSOCK] {
            assert_eq!(of(errno), AcceptError::System, "{errno}");
        }
        assert_eq!(of(Errno::INVAL), AcceptError::NotListening);
        assert_eq!(AcceptError::of(&io::Error::other("no errno")), AcceptError::System);
    }

    #[test]
    fn the_back_off_doubles_to_80_ms_and_starts_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.after_failure().as_millis()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 80, 80, 80, 80, 80]);
        backoff.after_success();
        assert_eq!(backoff.after_failure().as_millis(), 5);
    }
}
