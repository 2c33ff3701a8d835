//! How connections end, as their own hooks are told, and as the server counts them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use socketserver::transport::Transport;
use socketserver::*;

use crate::common::{self, Client, PATIENCE, line_of, next, on_every_stream_server, wait_until};

/// A limit that is reached, and one that never is.
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

impl common::Settings for Limits {
    fn set<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder
            .read_timeout(self.read)
            .idle_timeout(self.idle)
            .message_timeout(self.message)
            .write_timeout(self.write)
            .min_rate(self.rate)
            .max_line_length(self.line.unwrap_or(64 * 1024))
    }
}

/// How a connection is to end: why, and the error that `handle_error` is told, if any, as `Debug`
/// shows it.
pub(crate) struct Ending(pub(crate) CloseReason, pub(crate) Option<String>);

/// On each server: a client plays its part, and its connection ends in this way, as `finish` and
/// `handle_error` are told, and as it is counted. Unless the part drops the client, it is there
/// until then.
pub(crate) fn ends(
    handler: impl StreamRequestHandler,
    limits: Limits,
    part: impl Fn(Visit) -> Option<Visit>,
    Ending(reason, error): Ending,
) {
    let (handler, words) = Watched::new(handler);
    let words = Mutex::new(words);
    on_every_stream_server(handler, limits, |server| {
        let begin = Instant::now();
        let visit = part(Visit { begin, server: server.handle(), client: Client::of(server) });
        let words = words.lock();
        assert_eq!(next(&words), format!("finish: {reason:?}"), "{}", server.local_addr());
        if let Some(error) = &error {
            assert_eq!(next(&words), format!("{reason:?}: {error}"));
        }
        is_counted(server, &[reason]);
        assert_eq!(words.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(visit);
    });
}

/// The server has served nobody but connections that ended for these reasons.
#[track_caller]
pub(crate) fn is_counted(server: &ServerHandle, reasons: &[CloseReason]) {
    let expected = reasons.len() as u64;
    wait_until("they end", || {
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
pub(crate) fn by_reason(stats: &Stats) -> [(CloseReason, u64); 13] {
    [
        (CloseReason::Completed, stats.completed),
        (CloseReason::Eof, stats.eof),
        (CloseReason::Reset, stats.reset),
        (CloseReason::IdleTimeout, stats.idle_timeout),
        (CloseReason::ReadTimeout, stats.read_timeout),
        (CloseReason::MessageTimeout, stats.message_timeout),
        (CloseReason::TooSlow, stats.too_slow),
        (CloseReason::WriteTimeout, stats.write_timeout),
        (CloseReason::Limit, stats.limit),
        (CloseReason::Denied, stats.denied),
        (CloseReason::Stopped, stats.stopped),
        (CloseReason::Failed, stats.failed),
        (CloseReason::Panicked, stats.panicked),
    ]
}

/// A handler that tells what its last two hooks are told.
pub(crate) struct Watched<H> {
    handler: H,
    tell: Mutex<mpsc::Sender<String>>,
}

impl<H> Watched<H> {
    pub(crate) fn new(handler: H) -> (Watched<H>, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        (Watched { handler, tell: Mutex::new(sender) }, receiver)
    }
}

impl<H: StreamRequestHandler> StreamRequestHandler for Watched<H> {
    fn verify_request(&self, connection: &Connection) -> bool {
        self.handler.verify_request(connection)
    }

    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        assert_eq!(connection.close_reason(), None);
        self.handler.setup(connection)
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        assert_eq!(connection.close_reason(), None);
        self.handler.handle(connection)
    }

    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        let reason = connection.close_reason().expect("a reason");
        let _ = self.tell.lock().send(format!("finish: {reason:?}"));
        self.handler.finish(connection)
    }

    fn handle_error(
        &self,
        connection: &Connection,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) {
        let reason = connection.close_reason().expect("a reason");
        let own = error.downcast_ref().or_else(|| Error::of(error.downcast_ref()?));
        let word = match own {
            Some(error) => format!("{reason:?}: {error:?}"),
            None => format!("{reason:?}: {error}"),
        };
        let _ = self.tell.lock().send(word);
    }
}

/// What a client does to a server.
pub(crate) struct Visit {
    /// Before it has connected.
    pub(crate) begin: Instant,
    pub(crate) client: Client,
    pub(crate) server: ServerHandle,
}

impl Visit {
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes);
    }

    /// Sends a line, and reads the same.
    #[track_caller]
    pub(crate) fn echoes(&self, line: &str) {
        assert_eq!(common::ask(&self.client, line), line);
    }

    /// Having sent the first piece of a line, sends the rest, and reads all of it.
    #[track_caller]
    pub(crate) fn echoes_rest(&self, sent: &str, rest: &str) {
        assert_eq!(common::ask(&self.client, rest), [sent, rest].concat());
    }

    /// The next line, without its end, is this one.
    #[track_caller]
    pub(crate) fn reads(&self, line: &str) {
        assert_eq!(line_of(&self.client), line);
    }

    /// Reads to the end, however that comes.
    #[track_caller]
    pub(crate) fn reads_to_the_end(&self) {
        match io::copy(&mut &self.client, &mut io::sink()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The server has enough of it, no earlier than `limit` after `since`.
    #[track_caller]
    pub(crate) fn ends_no_earlier(self, since: Instant, limit: Duration) -> Option<Visit> {
        self.reads_to_the_end();
        assert!(since.elapsed() >= limit, "after {:?}", since.elapsed());
        Some(self)
    }

    /// Sends this again and again, with a pause each time, until the server has enough of it, no
    /// earlier than `limit` after the begin.
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
            assert!(begin.elapsed() < PATIENCE, "nobody minds");
            thread::sleep(pause);
        }
        assert!(begin.elapsed() >= limit, "after {:?}", begin.elapsed());
        Some(self)
    }

    /// Ends the connection so that the server takes it for a reset. There must be something for
    /// the client to read: by that a Unix socket tells a reset from an end.
    pub(crate) fn resets(self) -> Option<Visit> {
        (&self.client).read_exact(&mut [0]).unwrap();
        if let Client::Tcp(stream) = &self.client {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        None
    }
}
