//! What a server, its handles and its connections share: settings, limits, counters, the registry,
//! and the course of a stop.

mod child_reports;
mod counter;
pub(crate) mod events;
mod fold;
mod handle;
mod histogram;
mod limits;
mod listeners;
mod observer;
mod peer_check;
mod peer_key;
mod processes;
mod prometheus;
mod rate_limiter;
mod registry;
mod rejected;
mod requests;
mod scripted;
mod shutdown;
mod stats;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::config::Settings;
use crate::id::ConnectionId;
use crate::net::Traffic;
use crate::net::outbox::OutboxWriter;
use crate::primitive::SleepFlag;
use crate::sync::Current;
use crate::sys::waker::Waker;
use child_reports::{ChildReport, ChildReports};
use counter::Counter;
use limits::Limits;
pub(crate) use listeners::Listening;
pub(crate) use processes::{ProcessSignals, Processes};
pub(crate) use registry::Registry;
use registry::{Begun, Entry};
use rejected::LingeringRejects;
use scripted::ScriptedUpstreams;
use shutdown::Lifecycle;
use stats::Counters;

pub use handle::{RunningServer, ServerHandle};
pub use histogram::Histogram;
pub use listeners::ListenerInfo;
pub use observer::Observer;
pub(crate) use observer::Observers;
pub(crate) use peer_check::peer_uid;
pub(crate) use peer_key::PeerKey;
pub use registry::ConnectionInfo;
pub use shutdown::StopReport;
pub use stats::Stats;

#[derive(Debug)]
pub(crate) struct ServerState {
    pub(crate) settings: Settings,
    /// The one that the server was bound to.
    pub(crate) first_listener: Arc<ListenerInfo>,
    /// Not set for a connection in memory; dangling once the listeners are closed.
    listening: OnceLock<Weak<dyn Listening>>,
    pub(crate) limits: Limits,
    observers: Observers,
    /// The observers know of the stop.
    stop_was_told: AtomicBool,
    /// For a server that is observed, and forks for each request.
    child_reports: Option<ChildReports>,
    pub(crate) registry: Registry,
    pub(crate) rejected: LingeringRejects,
    pub(crate) outbox_writer: OutboxWriter,
    /// Empty, but for a connection in memory.
    pub(crate) scripted: ScriptedUpstreams,
    /// Of new connections; `None` for a server without TLS.
    #[cfg(feature = "tls")]
    tls: Option<Mutex<Arc<rustls::ServerConfig>>>,
    pub(crate) processes: Processes,
    signals: ProcessSignals,
    /// Armed while the acceptor waits for a request to end.
    awaits_release: SleepFlag,
    lifecycle: Mutex<Lifecycle>,
    /// Notified when serving is over.
    stopped: Condvar,
    /// Unparked when a stop begins.
    stop_waiters: Mutex<Vec<Arc<Current>>>,
}

/// When and why a request has ended, and the traffic of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    at: Instant,
    reason: CloseReason,
    traffic: Traffic,
}

impl Ended {
    pub(crate) fn now(reason: CloseReason, traffic: Traffic) -> Ended {
        Ended { at: Instant::now(), reason, traffic }
    }
}

/// How a request ends, in the process that has admitted it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    NotRun,
    Ended(Ended),
    /// With a child, which has counted.
    InChild,
}

impl ServerState {
    pub(crate) fn new(
        settings: Settings,
        observers: Observers,
        first_listener: Arc<ListenerInfo>,
    ) -> io::Result<ServerState> {
        let child_reports = match settings.forked_requests {
            children @ 1.. if !observers.is_empty() => Some(ChildReports::new(children)?),
            _ => None,
        };
        Ok(ServerState {
            processes: Processes::new(settings.processes)?,
            limits: Limits::new(&settings),
            settings,
            observers,
            stop_was_told: AtomicBool::new(false),
            child_reports,
            first_listener,
            listening: OnceLock::new(),
            registry: Registry::default(),
            rejected: LingeringRejects::default(),
            outbox_writer: OutboxWriter::default(),
            scripted: ScriptedUpstreams::default(),
            #[cfg(feature = "tls")]
            tls: None,
            signals: ProcessSignals::new()?,
            awaits_release: SleepFlag::default(),
            lifecycle: Mutex::default(),
            stopped: Condvar::new(),
            stop_waiters: Mutex::default(),
        })
    }

    pub(crate) fn local_addr(&self) -> &Address {
        &self.first_listener.local_addr
    }

    pub(crate) fn set_listening(&self, listening: Weak<dyn Listening>) {
        let _ = self.listening.set(listening);
    }

    /// Whether listeners are over TLS if nothing else is said.
    pub(crate) fn has_tls(&self) -> bool {
        self.first_listener.is_tls
    }

    /// The TLS of a connection that is accepted now; `None` for a server without.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.tls.as_ref().map(|config| config.lock().clone())
    }

    /// Called when the server is made.
    #[cfg(feature = "tls")]
    pub(crate) fn begin_tls(&mut self, config: Arc<rustls::ServerConfig>) {
        self.tls = Some(Mutex::new(config));
        Arc::make_mut(&mut self.first_listener).is_tls = true;
    }

    /// Of new connections; `false` for a server without TLS.
    #[cfg(feature = "tls")]
    fn set_tls(&self, config: Arc<rustls::ServerConfig>) -> bool {
        self.tls.as_ref().map(|current| *current.lock() = config).is_some()
    }

    /// The counters of this process.
    pub(crate) fn stats(&self) -> &Counters {
        &self.processes.own().stats
    }

    pub(crate) fn new_id(&self) -> ConnectionId {
        self.processes.new_id().into()
    }

    /// In a child that was just forked: it stops, is woken and counts by itself from now on. The parent
    /// tells the observers of the stop.
    pub(crate) fn become_child(&self, index: usize, signals: &ProcessSignals) -> io::Result<()> {
        self.stop_was_told.store(true, Ordering::SeqCst);
        self.processes.become_child(index, &self.signals, signals)
    }

    /// Whether fewer than `limit` requests are being served. If not, the acceptor is woken when a
    /// request has ended.
    pub(crate) fn has_capacity(&self, limit: usize) -> bool {
        if self.registry.len() < limit {
            return true;
        }
        self.awaits_release.arm();
        self.registry.len() < limit
    }

    /// Has the acceptor woken when the next request ends.
    pub(crate) fn notify_on_release(&self) {
        self.awaits_release.arm();
    }

    /// Frees the place of a request that has ended. `listener` is for the observers.
    pub(crate) fn release(&self, id: ConnectionId, end: End, listener: Option<&ListenerInfo>) {
        // Counted before the socket is closed, which is what a client can see.
        let removed = self.registry.remove(id, |entry| {
            self.stats().finished.add_exclusively(1);
            if let (End::Ended(ended), Some(entry)) = (end, entry) {
                self.record(ended, entry.begun(), Counter::add_exclusively);
            }
            listener.and(entry).map(Entry::removed)
        });
        self.note_load();
        if self.awaits_release.take() {
            self.wake_acceptor();
        }
        if let (Some(listener), Some(removed)) = (listener, removed) {
            self.tell_closed(id, end, listener, &removed);
        }
    }

    /// A request has begun or ended.
    pub(crate) fn note_load(&self) {
        if self.processes.reports_load() {
            self.registry.with_oldest(|since| self.processes.own().set_oldest(since));
            self.processes.report_load();
        }
    }

    /// In a forked child, which does not release its request: counts it in memory that its siblings
    /// add to as well.
    pub(crate) fn record_in_child(&self, id: ConnectionId, ended: Ended) {
        let Some((begun, longest_wait)) = self.registry.begun(id) else { return };
        if let Some(reports) = &self.child_reports {
            let traffic = begun.traffic.unwrap_or(ended.traffic);
            reports.report(id, ChildReport { reason: ended.reason, traffic, longest_wait });
        }
        self.record(ended, begun, Counter::add);
    }

    fn record(&self, ended: Ended, begun: Begun, add: impl Fn(&Counter, u64) + Copy) {
        let duration = ended.at.saturating_duration_since(begun.at);
        self.stats().histograms.record(duration, begun.traffic.unwrap_or(ended.traffic), add);
    }

    /// Wakes the acceptor, so that it checks limits, rejected connections and the listener again.
    pub(crate) fn wake_acceptor(&self) {
        self.signals.waker.wake();
    }

    pub(crate) fn acceptor_waker(&self) -> &Waker {
        &self.signals.waker
    }
}
