//! What observers are told: each event once, with the right fields, by each mixin that serves beside a
//! test. Servers that fork are in `tests/alone/events.rs`.

mod floods;
mod handles;
mod opened;
mod refused;
mod requests;
mod upstreams;

use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use socketserver::events::*;
use socketserver::*;

use crate::support::next;

/// An event, without its times.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Listening(Address),
    Accepted { id: u64, peer: Address, listener: Address },
    Refused { id: Option<u64>, peer: Address, reason: Refusal },
    Handshaken { id: u64, peer: Address, proxied_by: Option<Address>, tls: Option<String> },
    Closed { id: u64, peer: Address, reason: CloseReason, received: u64, sent: u64 },
    Upstream(Option<u64>, &'static str, String),
    Pressure(String),
    Folded(EventKind, u64),
    Stopping,
    Stopped(StopReport),
}

/// An observer that sends what it is told.
struct Teller(Mutex<Sender<Told>>);

fn teller() -> (Teller, Receiver<Told>) {
    let (sender, told) = channel();
    (Teller(Mutex::new(sender)), told)
}

impl Teller {
    fn send(&self, told: Told) {
        // The test may have ended.
        let _ = self.0.lock().send(told);
    }
}

impl Observer for Teller {
    fn listening(&self, address: &Address) {
        self.send(Told::Listening(address.clone()));
    }

    fn accepted(&self, accepted: &Accepted<'_>) {
        let Accepted { id, peer, listener, .. } = *accepted;
        let (peer, listener) = (peer.clone(), listener.local_addr.clone());
        self.send(Told::Accepted { id: id.into(), peer, listener });
    }

    fn refused(&self, refused: &Refused<'_>) {
        let Refused { id, peer, reason, .. } = *refused;
        self.send(Told::Refused { id: id.map(u64::from), peer: peer.clone(), reason });
    }

    fn handshaken(&self, handshaken: &Handshaken<'_>) {
        #[cfg(feature = "tls")]
        let tls = handshaken.tls.map(|tls| tls.version.to_owned());
        #[cfg(not(feature = "tls"))]
        let tls = None;
        self.send(Told::Handshaken {
            id: handshaken.id.into(),
            peer: handshaken.peer.clone(),
            proxied_by: handshaken.proxied_by.cloned(),
            tls,
        });
    }

    fn closed(&self, closed: &Closed<'_>) {
        let Closed { id, peer, reason, received, sent, .. } = *closed;
        let (id, peer) = (id.into(), peer.clone());
        self.send(Told::Closed { id, peer, reason, received, sent });
    }

    fn upstream(&self, upstream: &Upstream<'_>) {
        let request = upstream.request.map(u64::from);
        let (change, text) = match upstream.change {
            UpstreamChange::Connected { endpoint, peer, .. } => {
                ("connected", format!("{endpoint} {peer}"))
            }
            UpstreamChange::Failed { endpoint, error, .. } => {
                let kind = error.to_string();
                ("failed", format!("{endpoint} {}", kind.contains("refused")))
            }
            UpstreamChange::Closed { peer, received, sent, .. } => {
                ("closed", format!("{peer} {received} {sent}"))
            }
            _ => ("unknown", String::new()),
        };
        self.send(Told::Upstream(request, change, text));
    }

    fn pressure(&self, pressure: &Pressure<'_>) {
        self.send(Told::Pressure(match pressure {
            Pressure::AtLimit { limit, .. } => format!("at the limit {limit}"),
            Pressure::AcceptFails { error, .. } => {
                format!("accept fails {}", error.raw_os_error().unwrap_or(0))
            }
            other => format!("{other:?}"),
        }));
    }

    fn folded(&self, folded: &Folded) {
        self.send(Told::Folded(folded.event, folded.count));
    }

    fn stopping(&self) {
        self.send(Told::Stopping);
    }

    fn stopped(&self, report: &StopReport) {
        self.send(Told::Stopped(report.clone()));
    }
}

/// The next event is that a request was accepted: its number, and its peer.
#[track_caller]
fn next_accepted(told: &Receiver<Told>) -> (u64, Address) {
    match next(told) {
        Told::Accepted { id, peer, .. } => (id, peer),
        other => panic!("{other:?}"),
    }
}

/// The next event is that this request was closed: why.
#[track_caller]
fn next_closed(told: &Receiver<Told>, closed: u64) -> CloseReason {
    match next(told) {
        Told::Closed { id, reason, .. } if id == closed => reason,
        other => panic!("{other:?}"),
    }
}
