//! How connections end, as a handler's hooks see it, and as the server counts it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::TryRecvError;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::*;

use super::clients::{self, Client, line_of, read_until_closed};
use super::recorder::{Call, Recorder, next_finish};
use super::servers::{Settings, on_every_stream_server};
use super::{TIMEOUT, next, wait_until};

/// A time limit that a test reaches, and one that no test reaches.
pub(crate) const SHORT: Duration = Duration::from_millis(60);
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// The limits of a server that are not the defaults.
#[derive(Clone, Default)]
pub(crate) struct Limits {
    pub(crate) read: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) message: Option<Duration>,
    pub(crate) write: Option<Duration>,
    pub(crate) rate: Option<MinRate>,
    pub(crate) line: Option<usize>,
}

impl Settings for Limits {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder
            .read_timeout(self.read)
            .idle_timeout(self.idle)
            .message_timeout(self.message)
            .write_timeout(self.write)
            .min_rate(self.rate)
            .max_line_length(self.line.unwrap_or(64 * 1024))
    }
}

/// How a connection ends: why, and the error that `handle_error` gets, if it is called, as `Debug`
/// shows it.
pub(crate) struct Ending(pub(crate) CloseReason, pub(crate) Option<String>);

/// An ending without a call of `handle_error`.
pub(crate) fn no_error(reason: CloseReason) -> Ending {
    Ending(reason, None)
}

/// On each server: a client plays its part, and its connection ends in this way, by what `finish`
/// and `handle_error` see, and by the server's counters. The client stays connected until then,
/// unless the part drops it.
pub(crate) fn ends(
    handler: impl StreamRequestHandler,
    limits: Limits,
    part: impl Fn(Visit) -> Option<Visit>,
    Ending(reason, error): Ending,
) {
    let (handler, calls) = Recorder::new(handler);
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, limits, |server| {
        let visit = part(Visit::begin(server));
        let calls = calls.lock();
        assert_eq!(next_finish(&calls), reason, "{}", server.local_addr());
        if let Some(error) = &error {
            let Call::Error { reason: at_error, own, .. } = next(&calls) else { panic!() };
            assert_eq!((at_error, own.as_ref()), (Some(reason), Some(error)));
        }
        is_counted(&server.handle(), &[reason]);
        assert_eq!(calls.try_recv(), Err(TryRecvError::Empty));
        drop(visit);
    });
}

/// All connections that the server has had are over, and counted for these reasons.
#[track_caller]
pub(crate) fn is_counted(server: &ServerHandle, reasons: &[CloseReason]) {
    let expected = reasons.len() as u64;
    wait_until("all connections have ended", || {
        let stats = server.stats();
        stats.finished + stats.denied == expected && stats.active == 0
    });
    let stats = server.stats();
    for (reason, counted) in by_reason(&stats) {
        let times = reasons.iter().filter(|other| **other == reason).count() as u64;
        assert_eq!((counted, stats.ended_for(reason)), (times, times), "{reason}: {stats:?}");
    }
    assert_eq!(stats.accepted, stats.finished, "{stats:?}");
}

/// Each reason with its counter.
pub(crate) fn by_reason(stats: &Stats) -> [(CloseReason, u64); 16] {
    [
        (CloseReason::Completed, stats.completed),
        (CloseReason::Eof, stats.eof),
        (CloseReason::Reset, stats.reset),
        (CloseReason::IdleTimeout, stats.idle_timeout),
        (CloseReason::ReadTimeout, stats.read_timeout),
        (CloseReason::MessageTimeout, stats.message_timeout),
        (CloseReason::TooSlow, stats.too_slow),
        (CloseReason::WriteTimeout, stats.write_timeout),
        (CloseReason::Timeout, stats.timeout),
        (CloseReason::Limit, stats.limit),
        (CloseReason::Denied, stats.denied),
        (CloseReason::BadProxyHeader, stats.bad_proxy_header),
        (CloseReason::HandshakeFailed, stats.handshake_failed),
        (CloseReason::Stopped, stats.stopped),
        (CloseReason::Failed, stats.failed),
        (CloseReason::Panicked, stats.panicked),
    ]
}

/// What a client does to a server.
pub(crate) struct Visit {
    /// The time before it connected.
    pub(crate) begin: Instant,
    pub(crate) client: Client,
    pub(crate) server: ServerHandle,
}

impl Visit {
    pub(crate) fn begin(server: &RunningServer) -> Visit {
        let begin = Instant::now();
        Visit { begin, client: Client::of(server), server: server.handle() }
    }

    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes);
    }

    /// Sends a line, and reads the same.
    #[track_caller]
    pub(crate) fn echoes(&self, line: &str) {
        assert_eq!(clients::ask(&self.client, line), line);
    }

    /// Sends the rest of a line whose beginning has been sent, and reads all of it.
    #[track_caller]
    pub(crate) fn echoes_rest(&self, sent: &str, rest: &str) {
        assert_eq!(clients::ask(&self.client, rest), [sent, rest].concat());
    }

    /// The next line, without its end, is this one.
    #[track_caller]
    pub(crate) fn reads(&self, line: &str) {
        assert_eq!(line_of(&self.client), line);
    }

    /// The server closes the connection, no earlier than `limit` after `since`.
    #[track_caller]
    pub(crate) fn ends_no_earlier(self, since: Instant, limit: Duration) -> Option<Visit> {
        read_until_closed(&self.client);
        // Ends this side too, for which the server's close waits. Fails after a reset.
        let _ = match &self.client {
            Client::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Client::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        assert!(since.elapsed() >= limit, "after {:?}", since.elapsed());
        Some(self)
    }

    /// Sends this again and again, with pauses, until the server closes the connection, no earlier
    /// than `limit` after the first.
    #[track_caller]
    pub(crate) fn drips(self, bytes: &[u8], limit: Duration) -> Option<Visit> {
        self.sends_on(bytes, SHORT / 10, limit)
    }

    /// The same without a pause.
    #[track_caller]
    pub(crate) fn floods(self, bytes: &[u8], limit: Duration) -> Option<Visit> {
        self.sends_on(bytes, Duration::ZERO, limit)
    }

    #[track_caller]
    fn sends_on(self, bytes: &[u8], pause: Duration, limit: Duration) -> Option<Visit> {
        let begin = Instant::now();
        while (&self.client).write(bytes).is_ok() {
            assert!(begin.elapsed() < TIMEOUT, "the server does not close the connection");
            thread::sleep(pause);
        }
        assert!(begin.elapsed() >= limit, "after {:?}", begin.elapsed());
        Some(self)
    }

    /// Resets the connection. There must be something for the client to read: a Unix socket that is
    /// closed with unread input resets.
    pub(crate) fn resets(self) -> Option<Visit> {
        (&self.client).read_exact(&mut [0]).unwrap();
        if let Client::Tcp(stream) = self.client {
            clients::reset(stream);
        }
        None
    }
}
