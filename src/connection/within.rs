//! One limit for several waits: [`Connection::within`].

use std::io;
use std::time::{Duration, Instant};

use super::Connection;
use super::timeouts::{Limit, Timeouts, earlier, in_range, known_unread};
use crate::net::{IoTimeout, Stream};
use crate::sync::TimeLimit;

impl Connection {
    /// Runs `call`, in which every wait ends when `timeout` is over (zero counts as one millisecond):
    /// reads and writes of this connection and of upstreams, [`connect`](Connection::connect),
    /// [`relay`](Connection::relay), the waits of [`sync`](crate::sync), of a
    /// [`Select`](crate::Select), and in the parts of a [`scope`](Connection::scope). The wait fails with
    /// [`Error::Timeout`](crate::Error::Timeout), or an `io::Error` of the kind `TimedOut` that contains
    /// it. The other timeouts hold too. Of nested calls, the earliest deadline wins.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::{Connection, Error, HandlerResult};
    ///
    /// fn handle(client: &mut Connection) -> HandlerResult {
    ///     let answer = client.within(Duration::from_secs(2), |client| {
    ///         let mut upstream = client.connect("10.0.0.5:4000", Duration::from_secs(1))?;
    ///         upstream.write_all(b"status\n")?;
    ///         let mut answer = String::new();
    ///         upstream.read_line(&mut answer)?;
    ///         Ok::<_, Error>(answer)
    ///     });
    ///     match answer {
    ///         Err(Error::Timeout { .. }) => client.write_all(b"not available\n")?,
    ///         answer => client.write_all(answer?.as_bytes())?,
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The limit is for the peers: a read still returns what had arrived before the deadline, and output
    /// that was buffered is still sent as far as there is room for it. More output than fits into the
    /// buffer is refused. What neither waits nor uses a connection is not interrupted, and a call that is
    /// [offloaded](crate::Fibers::offload) is waited for.
    ///
    /// What is still buffered at the end is sent later, without this limit.
    pub fn within<R>(&mut self, timeout: Duration, call: impl FnOnce(&mut Connection) -> R) -> R {
        TimeLimit::after(in_range(timeout)).run(|| call(self))
    }
}

impl Timeouts {
    /// How long a read may wait that has two limits, the other of which is `timeout`.
    #[cold]
    #[inline(never)]
    pub(super) fn for_read_within(
        &mut self,
        limit: TimeLimit,
        timeout: (IoTimeout, Limit),
        stream: &dyn Stream,
    ) -> io::Result<(IoTimeout, Limit)> {
        let now = Instant::now();
        let within = (limit.deadline, Limit::Within);
        if now < limit.deadline {
            let other = match timeout.0 {
                IoTimeout::Socket(None) => within,
                IoTimeout::Socket(Some(time)) => (now + time, timeout.1),
                IoTimeout::Deadline(deadline) => (deadline, timeout.1),
            };
            let (deadline, limit) = earlier(other, within);
            return Ok((IoTimeout::Deadline(deadline), limit));
        }
        // What has arrived in time is read, and nothing after it.
        let unread = match self.unread_within {
            Some((deadline, unread)) if deadline == limit.deadline => unread,
            _ => known_unread(stream)?,
        };
        self.unread_within = Some((limit.deadline, unread));
        match unread {
            0 => Err(limit.error().into()),
            _ => Ok((IoTimeout::Deadline(now), within.1)),
        }
    }

    /// How many bytes a read may return. Forgets a limit that has ended.
    #[cold]
    #[inline(never)]
    pub(super) fn max_length_within(&mut self) -> usize {
        let deadline = TimeLimit::current().map(|limit| limit.deadline);
        self.unread_within = self.unread_within.filter(|(of, _)| Some(*of) == deadline);
        self.unread_within.map_or(usize::MAX, |(_, unread)| unread)
    }
}
