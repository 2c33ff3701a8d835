//! [`Observer`]: what a program is told of its server.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::events::{Accepted, Closed, EventKind, Folded, Handshaken, Pressure, Refused, Upstream};
use super::fold::Fold;
use super::{ServerState, StopReport};
use crate::address::Address;
use crate::sys::clock::coarse_millis;

/// Is told what happens to a server, for a log, for metrics, or for a service manager: given to
/// [`Builder::observer`](crate::Builder::observer). There are ready ones in [`events`](crate::events).
///
/// The methods are called on the server's own threads, and do nothing by default. No lock is held that a
/// [`ServerHandle`](crate::ServerHandle) takes, so that they may call its methods, except `stop`, which
/// would wait for the thread that calls it. They should be quick, because a connection waits meanwhile, or
/// the acceptor. Events of several threads come at the same time; those of one connection come in the
/// order `accepted`, `handshaken` or `refused`, `closed`. `accepted` comes before the handler is called,
/// and `closed` after its client can see the end, once its place is free.
///
/// A datagram is a request like others: `accepted`, or `refused`, and `closed`.
///
/// Of a flood, 1,000 events of each kind are told in a second, and then how many more there were
/// ([`folded`](Observer::folded)). A panic is caught, and counted in
/// [`Stats::observer_panics`](crate::Stats::observer_panics); the first one in each method is logged.
///
/// | mixin | where they are called |
/// | --- | --- |
/// | [`Sequential`](crate::Sequential), [`Threading`](crate::Threading) | on the thread that accepts, and on that which serves |
/// | [`Fibers`](crate::Fibers) | on the worker that accepts, and on the fiber, whose stack they use; while one blocks, all fibers of its worker wait |
/// | [`Forking`](crate::Forking) | in the parent, with what the child has left behind for `closed`; but `handshaken`, `upstream`, and `refused` of an accepted connection, are called in the child, on its copy of the observer |
/// | [`Prefork`](crate::Prefork) | `listening`, `stopping` and `stopped` in the parent; all others in the child that serves, on its copy of the observer. A child that is killed tells nothing more |
///
/// ```
/// use socketserver::events::Closed;
/// use socketserver::{Address, Observer, StopReport, ThreadingTcpServer, services::Echo};
///
/// struct Announce;
///
/// impl Observer for Announce {
///     fn listening(&self, address: &Address) {
///         println!("serving on {address}");
///     }
///
///     fn closed(&self, closed: &Closed<'_>) {
///         println!("{}: {} after {:?}", closed.peer, closed.reason, closed.duration);
///     }
///
///     fn stopped(&self, report: &StopReport) {
///         println!("{} were served to their end", report.drained);
///     }
/// }
///
/// let server = ThreadingTcpServer::builder().observer(Announce).bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// The server begins to serve. It has been listening on this address since it was bound.
    fn listening(&self, address: &Address) {
        let _ = address;
    }

    /// A request was accepted and admitted.
    fn accepted(&self, accepted: &Accepted<'_>) {
        let _ = accepted;
    }

    /// A request is not served. One that waits in the backlog, for the server is full, is not refused.
    fn refused(&self, refused: &Refused<'_>) {
        let _ = refused;
    }

    /// The header of a proxy has come, or the TLS handshake is done, or both: the handler is about to be
    /// called.
    fn handshaken(&self, handshaken: &Handshaken<'_>) {
        let _ = handshaken;
    }

    /// A request that was accepted has ended.
    fn closed(&self, closed: &Closed<'_>) {
        let _ = closed;
    }

    /// An upstream is connected, could not be connected to, or is closed.
    fn upstream(&self, upstream: &Upstream<'_>) {
        let _ = upstream;
    }

    /// The server is at a limit, or the system is short of something; or that is over.
    fn pressure(&self, pressure: &Pressure<'_>) {
        let _ = pressure;
    }

    /// Of a flood: how many events of a kind were not told, in a second that is over.
    fn folded(&self, folded: &Folded) {
        let _ = folded;
    }

    /// The listeners are those of another process, which serves from now on
    /// ([`hand_over`](crate::ServerHandle::hand_over)), and this server is about to stop. Called before
    /// `stopping`, on the thread that hands over, under [`Prefork`](crate::Prefork) in a child. The number
    /// of the process is `None` if it is not visible from here, as one outside of the container.
    fn handed_over(&self, successor: Option<u32>) {
        let _ = successor;
    }

    /// A stop has begun: what was received is answered, and nothing new is accepted.
    fn stopping(&self) {}

    /// The stop is over.
    fn stopped(&self, report: &StopReport) {
        let _ = report;
    }
}

/// The observers of a server.
#[derive(Default)]
pub(crate) struct Observers {
    all: Vec<Arc<dyn Observer>>,
    /// Of each kind of events.
    folds: [KindState; EventKind::ALL.len()],
    /// Of the other calls: a panic was logged.
    has_panicked: AtomicBool,
    /// Some events of a flood were not told, and their number was not yet.
    is_folding: AtomicBool,
}

#[derive(Default)]
struct KindState {
    fold: Fold,
    /// A panic was logged.
    has_panicked: AtomicBool,
}

/// How long after the end of a second [`coarse_millis`] knows of it.
const CLOCK_DELAY: Duration = Duration::from_millis(20);

impl Observers {
    pub(crate) fn add(&mut self, observer: impl Observer) {
        self.all.push(Arc::new(observer));
    }

    /// For a server that has none, nothing else is done.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns how many of them have panicked.
    fn call(
        &self,
        name: &dyn fmt::Display,
        logged: &AtomicBool,
        tell: impl Fn(&dyn Observer),
    ) -> u64 {
        let mut panics = 0;
        for observer in &self.all {
            if catch_unwind(AssertUnwindSafe(|| tell(&**observer))).is_err() {
                panics += 1;
                if !logged.swap(true, Ordering::Relaxed) {
                    log::error!("an observer panicked, told of {name}; further panics are counted");
                }
            }
        }
        panics
    }
}

fn second() -> u32 {
    (coarse_millis() / 1000) as u32
}

impl ServerState {
    /// Whether there is an observer, so that events are worth the trouble.
    #[inline(always)]
    pub(crate) fn is_observed(&self) -> bool {
        !self.observers.is_empty()
    }

    /// Tells the observers, whatever else they are told.
    pub(crate) fn tell(&self, tell: impl Fn(&dyn Observer)) {
        let panics = self.observers.call(&"the server", &self.observers.has_panicked, tell);
        self.count_panics(panics);
    }

    /// Tells the observers of an event, unless it is one of a flood. To be called without a lock that a
    /// handle takes.
    pub(crate) fn tell_event(&self, event: EventKind, tell: impl Fn(&dyn Observer)) {
        if !self.is_observed() {
            return;
        }
        let kind = &self.observers.folds[event as usize];
        let noted = kind.fold.note(second());
        self.tell_folded_of(event, noted.folded);
        if noted.is_told {
            let panics = self.observers.call(&event, &kind.has_panicked, tell);
            self.count_panics(panics);
        } else if noted.begins && !self.observers.is_folding.swap(true, Ordering::SeqCst) {
            // The acceptor tells their number.
            self.wake_acceptor();
        }
    }

    /// When the acceptor is to call [`tell_folded`](ServerState::tell_folded).
    pub(crate) fn folded_deadline(&self) -> Option<Instant> {
        self.observers.is_folding.load(Ordering::SeqCst).then(|| {
            let left = 1000 - coarse_millis() % 1000;
            Instant::now() + Duration::from_millis(left) + CLOCK_DELAY
        })
    }

    /// Tells how many events of a flood were not told: in seconds that are over, or, at the end, until
    /// now.
    pub(crate) fn tell_folded(&self, at_end: bool) {
        let is_folding = &self.observers.is_folding;
        if !is_folding.load(Ordering::Relaxed) {
            return;
        }
        // Before the counts are read: the flood may go on meanwhile.
        is_folding.store(false, Ordering::SeqCst);
        for event in EventKind::ALL {
            let fold = &self.observers.folds[event as usize].fold;
            self.tell_folded_of(event, fold.take(second(), at_end));
            if fold.is_folding() {
                is_folding.store(true, Ordering::SeqCst);
            }
        }
    }

    fn tell_folded_of(&self, event: EventKind, count: u64) {
        if count > 0 {
            self.tell(|observer| observer.folded(&Folded { event, count }));
        }
    }

    #[inline(always)]
    fn count_panics(&self, panics: u64) {
        if panics > 0 {
            self.stats().observer_panics.add(panics);
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({})", self.all.len())
    }
}
