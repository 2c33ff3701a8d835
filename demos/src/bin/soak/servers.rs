//! The servers: one of each kind, with limits that are small enough to be reached.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use socketserver::extend::Transport;
use socketserver::extend::{Mixin, Spawnable};
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Chat;
use socketserver::sync::Mutex;
use socketserver::transport::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Builder, CloseReason, ConnectOptions, Connection, DatagramRequest, DatagramRequestHandler,
    Endpoint, Fibers, Forking, HandlerResult, IntoHandler, MinRate, Overload, Prefork, Result,
    RunningServer, Scheme, Sequential, Server, ServerHandle, StopReport, StreamRequestHandler,
    Threading,
};

use crate::TIMEOUT;
use crate::tally::{count_event, record_failure};

/// Certificates of the library's tests.
#[cfg(feature = "tls")]
mod tls {
    use socketserver::{Result, TlsClientConfig, TlsConfig};

    macro_rules! file {
        ($name:literal) => {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/certificates/", $name)
        };
    }

    pub(super) fn server() -> Result<TlsConfig> {
        TlsConfig::from_pem(file!("localhost.pem"), file!("localhost.key"))
    }

    pub(super) fn client() -> Result<TlsClientConfig> {
        TlsClientConfig::from_pem(file!("authority.pem"))?.server_name("localhost")
    }
}

/// For a stop. It is generous: no client can delay one for more than some seconds.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The message of a server that is full.
pub(crate) const REFUSAL: &[u8] = b"so many are here already that you must come again later\n";

/// Longer datagrams are dropped.
pub(crate) const MAX_DATAGRAM: usize = 2048;

/// The panic or error of a handler that was told to panic or to fail.
pub(crate) const ON_COMMAND: &str = "on command";

const FRAMES: LengthPrefixed = LengthPrefixed::new(Prefix::U32).max_length(16 * 1024);

#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) scheme: Scheme,
    pub(crate) service: Service,
    pub(crate) concurrency: Concurrency,
    /// Whether it refuses connections beyond its limit, instead of deferring them.
    pub(crate) refuses: bool,
    /// Whether it is a gateway, which relays each connection to a server of this kind behind it.
    pub(crate) relays: bool,
    /// Whether a gateway has TLS to that server.
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "none has"))]
    pub(crate) encrypts: bool,
    /// Whether it answers lines by a sender, under a lock that all handlers share.
    pub(crate) pushes: bool,
}

/// The protocol of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Each line or datagram is echoed.
    Lines,
    /// Each message after its length is echoed.
    Frames,
    Chat,
}

/// How requests are run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concurrency {
    OneAtATime,
    Threads,
    /// One for each request.
    Processes,
    Fibers,
    /// Processes that serve one request at a time each; as many as needed.
    Prefork,
    PreforkThreads,
    PreforkFibers,
}

impl Concurrency {
    /// The mixin, if it forks processes: then the server's own process must have no other thread.
    pub(crate) fn forking(self) -> Option<Box<dyn Mixin>> {
        // A child that ends has the time of its longest connection before its place is needed.
        let of = |mixin: Box<dyn Spawnable>| Prefork::of(mixin).children(3).max_requests(1000);
        Some(match self {
            Concurrency::Processes => Box::new(Forking::new()),
            Concurrency::Prefork => {
                Box::new(Prefork::new().spare(2..=4).max_children(16).max_requests(30))
            }
            Concurrency::PreforkThreads => Box::new(of(Box::new(Threading::new()))),
            Concurrency::PreforkFibers => Box::new(of(Box::new(Fibers::new().workers(1)))),
            Concurrency::OneAtATime | Concurrency::Threads | Concurrency::Fibers => return None,
        })
    }
}

pub(crate) const KINDS: &[Kind] = {
    use {Concurrency::*, Scheme::*, Service::*};
    // These are names of mixins as well.
    use Concurrency::{Fibers, Prefork};
    const fn kind(
        name: &'static str,
        scheme: Scheme,
        service: Service,
        concurrency: Concurrency,
    ) -> Kind {
        Kind {
            name,
            scheme,
            service,
            concurrency,
            refuses: false,
            relays: false,
            encrypts: false,
            pushes: false,
        }
    }
    #[cfg(feature = "tls")]
    const fn over_tls(kind: Kind) -> Kind {
        Kind { relays: true, encrypts: true, ..kind }
    }
    &[
        kind("tcp", Tcp, Lines, Threads),
        kind("tcp, one at a time", Tcp, Lines, OneAtATime),
        kind("tcp, fibers", Tcp, Lines, Fibers),
        kind("tcp, forking", Tcp, Lines, Processes),
        kind("tcp, prefork", Tcp, Lines, Prefork),
        kind("tcp, prefork, threads", Tcp, Lines, PreforkThreads),
        kind("tcp, prefork, fibers", Tcp, Lines, PreforkFibers),
        Kind { refuses: true, ..kind("tcp, refusing", Tcp, Lines, Threads) },
        Kind { refuses: true, ..kind("tcp, refusing, fibers", Tcp, Lines, Fibers) },
        kind("tcp, frames", Tcp, Frames, Threads),
        kind("tcp, frames, fibers", Tcp, Frames, Fibers),
        Kind { relays: true, ..kind("tcp, gateway", Tcp, Lines, Threads) },
        Kind { relays: true, ..kind("tcp, gateway, fibers", Tcp, Lines, Fibers) },
        Kind { relays: true, ..kind("unix, gateway", Unix, Frames, Threads) },
        Kind { relays: true, ..kind("unix, gateway, fibers", Unix, Frames, Fibers) },
        #[cfg(feature = "tls")]
        over_tls(kind("tcp, gateway, tls", Tcp, Lines, Threads)),
        #[cfg(feature = "tls")]
        over_tls(kind("tcp, gateway, tls, fibers", Tcp, Lines, Fibers)),
        #[cfg(feature = "tls")]
        over_tls(kind("unix, gateway, tls", Unix, Frames, Threads)),
        #[cfg(feature = "tls")]
        over_tls(kind("unix, gateway, tls, fibers", Unix, Frames, Fibers)),
        Kind { pushes: true, ..kind("tcp, pushed", Tcp, Lines, Threads) },
        Kind { pushes: true, ..kind("tcp, pushed, fibers", Tcp, Lines, Fibers) },
        Kind { pushes: true, ..kind("unix, pushed, fibers", Unix, Lines, Fibers) },
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
        kind("udp, prefork", Udp, Lines, Prefork),
        kind("udp, one at a time", Udp, Lines, OneAtATime),
        kind("unixgram", UnixDatagram, Lines, Threads),
        kind("unixgram, fibers", UnixDatagram, Lines, Fibers),
        kind("unixgram, one at a time", UnixDatagram, Lines, OneAtATime),
    ]
};

impl Kind {
    /// Starts a server, which listens when this returns.
    pub(crate) fn spawn(&self, endpoint: &Endpoint) -> Result<RunningServer> {
        match self.scheme {
            #[cfg(feature = "tls")]
            Scheme::Tcp if self.encrypts && !self.relays => {
                let builder = self.builder::<Tcp>().tls(tls::server()?);
                builder.bind(endpoint.clone(), self.stream_handler()?)?.spawn()
            }
            Scheme::Tcp => self.spawn_on::<Tcp>(endpoint, self.stream_handler()?),
            Scheme::Unix => self.spawn_on::<UnixStream>(endpoint, self.stream_handler()?),
            Scheme::Udp => self.spawn_on::<Udp>(endpoint, Lines),
            Scheme::UnixDatagram => self.spawn_on::<UnixDatagram>(endpoint, Lines),
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        }
    }

    fn spawn_on<T: Transport>(
        &self,
        endpoint: &Endpoint,
        handler: impl IntoHandler<T::Handler>,
    ) -> Result<RunningServer> {
        self.builder::<T>().bind(endpoint.clone(), handler)?.spawn()
    }

    fn builder<T: Transport>(&self) -> Builder<T, Box<dyn Spawnable>> {
        let mixin: Box<dyn Spawnable> = match self.concurrency {
            Concurrency::OneAtATime => Box::new(Sequential),
            // More than one on any machine, so that connections move between them.
            Concurrency::Fibers => Box::new(Fibers::new().workers(2)),
            _ => Box::new(Threading::new()),
        };
        self.settings(Server::<T, Sequential>::builder().mixin(mixin))
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
            .max_packet_size(MAX_DATAGRAM)
    }

    /// A client that is never slower than this never exceeds the server's limits.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_millis(if self.concurrency == Concurrency::OneAtATime { 100 } else { 500 })
    }

    fn stream_handler(&self) -> Result<Arc<dyn StreamRequestHandler>> {
        Ok(match self.service {
            _ if self.relays => Arc::new(Gateway::before(self)?),
            _ if self.pushes => Arc::new(Pushed::default()),
            Service::Lines => Arc::new(Lines),
            Service::Frames => Arc::new(Frames),
            Service::Chat => Arc::new(Chat::new()),
        })
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.scheme, Scheme::Tcp | Scheme::Unix)
    }

    /// The bytes of a request with this text.
    pub(crate) fn request(&self, text: &str) -> Vec<u8> {
        let mut request = Vec::new();
        let written = match self.service {
            Service::Lines | Service::Chat => writeln!(request, "{text}"),
            Service::Frames => FRAMES.write(&mut request, text.as_bytes()),
        };
        written.expect("the text is not too long");
        request
    }

    /// Checks, after a stop, that it was clean and that the counters of the server add up.
    pub(crate) fn audit(&self, report: &StopReport, server: &ServerHandle) {
        let stats = server.stats();
        let mut ended = 0;
        for reason in REASONS {
            ended += stats.ended_for(reason);
            count_event("requests ended", reason, stats.ended_for(reason));
        }
        for (what, times) in [("refused", stats.refused), ("truncated", stats.truncated)] {
            count_event("requests turned away", what, times);
        }
        count_event("stops", "connections drained", report.drained as u64);
        let name = self.name;
        if !report.is_clean() || !report.killed.is_empty() {
            record_failure(format!("{name}: a stop was not clean: {report:?}"));
        } else if (stats.active, stats.accepted, ended) != (0, stats.finished, stats.finished) {
            record_failure(format!("{name}: the counters do not add up: {stats:?}"));
        } else if stats.accept_errors > 0 {
            record_failure(format!("{name}: accepting has failed: {stats:?}"));
        }
    }
}

/// All but [`CloseReason::Denied`], whose connections are not counted as accepted.
const REASONS: [CloseReason; 13] = [
    CloseReason::Completed,
    CloseReason::Eof,
    CloseReason::Reset,
    CloseReason::IdleTimeout,
    CloseReason::ReadTimeout,
    CloseReason::MessageTimeout,
    CloseReason::TooSlow,
    CloseReason::WriteTimeout,
    CloseReason::Timeout,
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
            run_command(&line)?;
            connection.write_all(&line)?;
            line.clear();
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Lines {
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        run_command(request.data())?;
        Ok(request.reply(request.data())?)
    }
}

struct Frames;

impl StreamRequestHandler for Frames {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut message = Vec::new();
        while connection.read_message(&FRAMES, &mut message)? {
            run_command(&message)?;
            connection.write_message(&FRAMES, &message)?;
        }
        Ok(())
    }
}

/// Answers as another thread would: by a sender.
#[derive(Default)]
struct Pushed {
    /// How many lines it has answered. Shared by all fibers of several workers, it is contended.
    answered: Mutex<u64>,
}

/// More than any good client lets pile up.
const SENDER_CAPACITY: usize = 1024 * 1024;

impl StreamRequestHandler for Pushed {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let sender = connection.sender(SENDER_CAPACITY)?;
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            run_command(&line)?;
            let mut answered = self.answered.lock();
            sender.send(&line)?;
            *answered += 1;
            drop(answered);
            line.clear();
        }
        Ok(())
    }
}

/// A handler that owns the server behind it, which ends after it.
struct Gateway {
    upstream: RunningServer,
    how: ConnectOptions,
}

impl Gateway {
    fn before(kind: &Kind) -> Result<Gateway> {
        // Its own limits are those that the clients may reach.
        let behind = Kind { relays: false, scheme: Scheme::Tcp, ..*kind };
        let upstream = behind.spawn(&"tcp://127.0.0.3:0".parse()?)?;
        let how = ConnectOptions::new(TIMEOUT);
        #[cfg(feature = "tls")]
        let how = if kind.encrypts { how.tls(&tls::client()?) } else { how };
        Ok(Gateway { upstream, how })
    }
}

impl StreamRequestHandler for Gateway {
    fn handle(&self, client: &mut Connection) -> HandlerResult {
        let mut upstream = client.connect(self.upstream.local_addr(), self.how.clone())?;
        client.relay(&mut upstream)?;
        Ok(())
    }
}

fn run_command(request: &[u8]) -> HandlerResult {
    match request.trim_ascii_end() {
        b"panic" => std::panic::panic_any(ON_COMMAND),
        b"fail" => Err(ON_COMMAND.into()),
        _ => Ok(()),
    }
}
