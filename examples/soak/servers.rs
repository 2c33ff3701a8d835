//! The servers: one of each kind, with limits that are small enough to be met.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Chat;
use socketserver::transport::{Tcp, Transport, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Builder, CloseReason, Connection, DatagramRequest, DatagramRequestHandler, Endpoint, Fibers,
    HandlerResult, IntoHandler, MinRate, Mixin, Overload, Result, RunningServer, Scheme,
    Sequential, Server, ServerHandle, Spawnable, StopReport, StreamRequestHandler, Threading,
};

use crate::tally::{complain, note};

/// What a server that is full says.
pub(crate) const REFUSAL: &[u8] = b"so many are here already that you must come again later\n";

/// Datagrams beyond it are dropped.
pub(crate) const LONGEST_DATAGRAM: usize = 2048;

/// What a handler says that was told to panic or to fail.
pub(crate) const ON_COMMAND: &str = "on command";

const FRAMES: LengthPrefixed = LengthPrefixed::new(Prefix::U32).max_length(16 * 1024);

#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) scheme: Scheme,
    pub(crate) service: Service,
    pub(crate) who: Who,
    /// Those who are too many are told so, instead of waiting.
    pub(crate) refuses: bool,
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Each line, or datagram, comes back.
    Lines,
    /// Each message behind its length comes back.
    Frames,
    Chat,
}

/// Who runs the requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    OneAtATime,
    Threads,
    Processes,
    Fibers,
}

pub(crate) const KINDS: [Kind; 23] = {
    use {Scheme::*, Service::*, Who::*};
    // `Fibers` is a mixin, too.
    use Who::Fibers;
    const fn kind(name: &'static str, scheme: Scheme, service: Service, who: Who) -> Kind {
        Kind { name, scheme, service, who, refuses: false }
    }
    [
        kind("tcp", Tcp, Lines, Threads),
        kind("tcp, one at a time", Tcp, Lines, OneAtATime),
        kind("tcp, fibers", Tcp, Lines, Fibers),
        kind("tcp, forking", Tcp, Lines, Processes),
        Kind { refuses: true, ..kind("tcp, refusing", Tcp, Lines, Threads) },
        Kind { refuses: true, ..kind("tcp, refusing, fibers", Tcp, Lines, Fibers) },
        kind("tcp, frames", Tcp, Frames, Threads),
        kind("tcp, frames, fibers", Tcp, Frames, Fibers),
        kind("tcp, chat", Tcp, Chat, Threads),
        kind("tcp, chat, fibers", Tcp, Chat, Fibers),
        kind("unix", Unix, Lines, Threads),
        kind("unix, fibers", Unix, Lines, Fibers),
        kind("unix, one at a time", Unix, Frames, OneAtATime),
        Kind { refuses: true, ..kind("unix, refusing", Unix, Lines, Threads) },
        Kind { refuses: true, ..kind("unix, refusing, fibers", Unix, Lines, Fibers) },
        kind("unix, chat", Unix, Chat, Threads),
        kind("unix, chat, fibers", Unix, Chat, Fibers),
        kind("udp", Udp, Lines, Threads),
        kind("udp, fibers", Udp, Lines, Fibers),
        kind("udp, one at a time", Udp, Lines, OneAtATime),
        kind("unixgram", UnixDatagram, Lines, Threads),
        kind("unixgram, fibers", UnixDatagram, Lines, Fibers),
        kind("unixgram, one at a time", UnixDatagram, Lines, OneAtATime),
    ]
};

impl Kind {
    /// Starts it, listening already when this returns.
    pub(crate) fn spawn(&self, endpoint: &Endpoint) -> Result<RunningServer> {
        match self.scheme {
            Scheme::Tcp => self.spawn_on::<Tcp>(endpoint, self.stream_handler()),
            Scheme::Unix => self.spawn_on::<UnixStream>(endpoint, self.stream_handler()),
            Scheme::Udp => self.spawn_on::<Udp>(endpoint, Lines),
            Scheme::UnixDatagram => self.spawn_on::<UnixDatagram>(endpoint, Lines),
        }
    }

    fn spawn_on<T: Transport>(
        &self,
        endpoint: &Endpoint,
        handler: impl IntoHandler<T::Handler>,
    ) -> Result<RunningServer> {
        let mixin: Box<dyn Spawnable> = match self.who {
            Who::OneAtATime => Box::new(Sequential),
            // More than one, so that they hand over to each other on any machine.
            Who::Fibers => Box::new(Fibers::new().workers(2)),
            Who::Threads | Who::Processes => Box::new(Threading::new()),
        };
        let builder = Server::<T, Sequential>::builder().mixin(mixin);
        self.settings(builder).bind(endpoint.clone(), handler)?.spawn()
    }

    pub(crate) fn settings<T: Transport, M: Mixin>(&self, mut it: Builder<T, M>) -> Builder<T, M> {
        if self.refuses {
            it = it.overload(Overload::Refuse(REFUSAL.into()));
            it = it.max_connections(16).max_connections_per_peer(12);
        }
        let limit = self.limit();
        it.idle_timeout(2 * limit)
            .message_timeout(2 * limit)
            .min_rate(MinRate { bytes_per_second: 100, grace: limit })
            .write_timeout(3 * limit)
            .max_packet_size(LONGEST_DATAGRAM)
    }

    /// A client that is never slower than this has nothing to fear from the limits.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_millis(if self.who == Who::OneAtATime { 100 } else { 500 })
    }

    fn stream_handler(&self) -> Arc<dyn StreamRequestHandler> {
        match self.service {
            Service::Lines => Arc::new(Lines),
            Service::Frames => Arc::new(Frames),
            Service::Chat => Arc::new(Chat::new()),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.scheme, Scheme::Tcp | Scheme::Unix)
    }

    /// The bytes that say this.
    pub(crate) fn request(&self, text: &str) -> Vec<u8> {
        let mut request = Vec::new();
        let written = match self.service {
            Service::Lines | Service::Chat => writeln!(request, "{text}"),
            Service::Frames => FRAMES.write(&mut request, text.as_bytes()),
        };
        written.expect("a vector takes what is not too long");
        request
    }

    /// Once it has stopped: whether all that came in has ended, by itself and for a reason.
    pub(crate) fn audit(&self, report: &StopReport, server: &ServerHandle) {
        let stats = server.stats();
        let mut ended = 0;
        for reason in REASONS {
            ended += stats.ended_for(reason);
            note("requests ended", reason, stats.ended_for(reason));
        }
        for (what, times) in [("refused", stats.refused), ("truncated", stats.truncated)] {
            note("requests turned away", what, times);
        }
        note("stops", "connections drained", report.drained as u64);
        let name = self.name;
        if !report.is_clean() || !report.killed.is_empty() {
            complain(format!("{name}: a stop was not clean: {report:?}"));
        } else if (stats.active, stats.accepted, ended) != (0, stats.finished, stats.finished) {
            complain(format!("{name}: the counters do not add up: {stats:?}"));
        } else if stats.accept_errors > 0 {
            complain(format!("{name}: accepting has failed: {stats:?}"));
        }
    }
}

/// All but [`CloseReason::Denied`], of which nothing is accepted first.
const REASONS: [CloseReason; 12] = [
    CloseReason::Completed,
    CloseReason::Eof,
    CloseReason::Reset,
    CloseReason::IdleTimeout,
    CloseReason::ReadTimeout,
    CloseReason::MessageTimeout,
    CloseReason::TooSlow,
    CloseReason::WriteTimeout,
    CloseReason::Limit,
    CloseReason::Stopped,
    CloseReason::Failed,
    CloseReason::Panicked,
];

pub(crate) struct Lines;

impl StreamRequestHandler for Lines {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            obey(&line)?;
            connection.write_all(&line)?;
            line.clear();
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Lines {
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        obey(request.data())?;
        Ok(request.reply(request.data())?)
    }
}

struct Frames;

impl StreamRequestHandler for Frames {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut message = Vec::new();
        while connection.read_message(&FRAMES, &mut message)? {
            obey(&message)?;
            connection.write_message(&FRAMES, &message)?;
        }
        Ok(())
    }
}

fn obey(request: &[u8]) -> HandlerResult {
    match request.trim_ascii_end() {
        b"panic" => std::panic::panic_any(ON_COMMAND),
        b"fail" => Err(ON_COMMAND.into()),
        _ => Ok(()),
    }
}
