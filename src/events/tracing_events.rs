//! [`TracingEvents`]: the events of a server as those of the crate `tracing`.

use tracing::{debug, info, warn};

use super::{Accepted, Closed, Folded, Handshaken, Pressure, Refused, Upstream, UpstreamChange};
use crate::address::Address;
use crate::state::{Observer, StopReport};

/// An [`Observer`] that emits an event of the crate [`tracing`] for each event of the server; with the
/// feature `tracing`.
///
/// | target | message | level | fields |
/// | --- | --- | --- | --- |
/// | `socketserver` | `listening` | info | `address` |
/// | `socketserver` | `accepted` | debug | `id`, `peer`, `listener` |
/// | `socketserver` | `refused` | info | `id` if it was accepted, `peer`, `listener`, `reason` |
/// | `socketserver` | `handshaken` | debug | `id`, `peer`, `proxied_by`, `duration`; over TLS `tls_version` and `server_name` |
/// | `socketserver` | `closed` | info | `id`, `peer`, `listener`, `reason`, `duration`, `longest_wait`, `received`, `sent` |
/// | `socketserver` | `upstream connected` | debug | `request`, `id`, `endpoint`, `peer`, `duration` |
/// | `socketserver` | `upstream failed` | warn | `request`, `endpoint`, `error`, `duration` |
/// | `socketserver` | `upstream closed` | debug | `request`, `id`, `peer`, `duration`, `received`, `sent` |
/// | `socketserver` | `at a limit` | warn | `limit` |
/// | `socketserver` | `below the limit` | info | `after` |
/// | `socketserver` | `accept fails` | warn | `error` |
/// | `socketserver` | `accept works` | info | `after` |
/// | `socketserver` | `folded` | info | `event`, `count` |
/// | `socketserver` | `handed over` | info | `successor`, if it is visible |
/// | `socketserver` | `stopping` | info | |
/// | `socketserver` | `stopped` | info | `drained`, `forced`, `killed`, `stuck` |
///
/// Times are numbers of seconds, ids and sizes unsigned numbers; a `reason` is the
/// [name](crate::CloseReason::name) of a close reason, or a sentence for `refused`; other fields are text,
/// in which the bytes that a client has chosen are escaped. A field that does not apply is left out. The
/// messages that the crate itself logs go through [`log`], which `tracing-log` takes to `tracing`.
///
/// ```
/// use socketserver::{ThreadingTcpServer, events::TracingEvents, services::Echo};
///
/// let server =
///     ThreadingTcpServer::builder().observer(TracingEvents).bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingEvents;

impl Observer for TracingEvents {
    fn listening(&self, address: &Address) {
        info!(target: "socketserver", %address, "listening");
    }

    fn accepted(&self, accepted: &Accepted<'_>) {
        let (id, peer, listener) = (u64::from(accepted.id), accepted.peer, accepted.listener);
        debug!(target: "socketserver", id, %peer, listener = %listener.local_addr, "accepted");
    }

    fn refused(&self, refused: &Refused<'_>) {
        let (id, peer, reason) = (refused.id.map(u64::from), refused.peer, refused.reason);
        let listener = &refused.listener.local_addr;
        info!(target: "socketserver", id, %peer, %listener, %reason, "refused");
    }

    fn handshaken(&self, handshaken: &Handshaken<'_>) {
        let (id, peer) = (u64::from(handshaken.id), handshaken.peer);
        let proxied_by = handshaken.proxied_by.map(tracing::field::display);
        let duration = handshaken.duration.as_secs_f64();
        #[cfg(feature = "tls")]
        let (tls_version, server_name) = {
            let tls = handshaken.tls;
            let server_name = tls.and_then(|tls| tls.server_name.as_deref());
            // A DNS name, which rustls has checked.
            (tls.map(|tls| tls.version), server_name)
        };
        #[cfg(not(feature = "tls"))]
        let (tls_version, server_name) = (None::<&str>, None::<&str>);
        debug!(
            target: "socketserver",
            id, %peer, proxied_by, duration, tls_version, server_name,
            "handshaken"
        );
    }

    fn closed(&self, closed: &Closed<'_>) {
        info!(
            target: "socketserver",
            id = u64::from(closed.id),
            peer = %closed.peer,
            listener = %closed.listener.local_addr,
            reason = closed.reason.name(),
            duration = closed.duration.as_secs_f64(),
            longest_wait = closed.longest_wait.as_secs_f64(),
            received = closed.received,
            sent = closed.sent,
            "closed"
        );
    }

    fn upstream(&self, upstream: &Upstream<'_>) {
        let request = upstream.request.map(u64::from);
        match upstream.change {
            UpstreamChange::Connected { id, endpoint, peer, duration } => {
                let (id, duration) = (u64::from(id), duration.as_secs_f64());
                debug!(
                    target: "socketserver",
                    request, id, %endpoint, %peer, duration,
                    "upstream connected"
                );
            }
            UpstreamChange::Failed { endpoint, error, duration } => {
                let duration = duration.as_secs_f64();
                warn!(
                    target: "socketserver",
                    request, %endpoint, %error, duration,
                    "upstream failed"
                );
            }
            UpstreamChange::Closed { id, peer, duration, received, sent } => {
                let (id, duration) = (u64::from(id), duration.as_secs_f64());
                debug!(
                    target: "socketserver",
                    request, id, %peer, duration, received, sent,
                    "upstream closed"
                );
            }
        }
    }

    fn pressure(&self, pressure: &Pressure<'_>) {
        match pressure {
            Pressure::AtLimit { limit } => warn!(target: "socketserver", limit, "at a limit"),
            Pressure::BelowLimit { after } => {
                info!(target: "socketserver", after = after.as_secs_f64(), "below the limit");
            }
            Pressure::AcceptFails { error } => {
                warn!(target: "socketserver", %error, "accept fails");
            }
            Pressure::AcceptWorks { after } => {
                info!(target: "socketserver", after = after.as_secs_f64(), "accept works");
            }
        }
    }

    fn folded(&self, folded: &Folded) {
        info!(target: "socketserver", event = %folded.event, count = folded.count, "folded");
    }

    fn handed_over(&self, successor: Option<u32>) {
        info!(target: "socketserver", successor, "handed over");
    }

    fn stopping(&self) {
        info!(target: "socketserver", "stopping");
    }

    fn stopped(&self, report: &StopReport) {
        info!(
            target: "socketserver",
            drained = report.drained,
            forced = report.forced,
            killed = report.killed.len(),
            stuck = report.stuck.len(),
            "stopped"
        );
    }
}
