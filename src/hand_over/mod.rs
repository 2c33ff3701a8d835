//! A restart that loses no client: the listeners of a server pass to one in another process.
//!
//! ```text
//! predecessor (ServerHandle::hand_over)        successor (Builder::take_over)
//!
//! listens at the path, with mode 0600
//!                                        <---  connects: "socketserver hand-over 1"
//! checks its user; the listeners,        --->
//! and their descriptors (SCM_RIGHTS)           binds what is new
//!                                        <---  serves: "ready"; or "failed" and why
//! "yours"; or "kept" and why             --->
//! stops, as by any stop                        accepts
//! ```
//!
//! Both are one process each, of the same user. The sockets are the same in both: what waits in a
//! backlog is accepted by one of them, and no client is refused. If one of the two dies, the other has
//! them.

mod channel;
mod manifest;
mod predecessor;
mod successor;

use std::time::{Duration, Instant};

use rustix::process::geteuid;

use crate::error::Error;
use crate::net::PeerCredentials;
use channel::Channel;

pub(crate) use successor::{Received, TakenOver, receive_from};

/// What the successor says first. The number is that of the protocol.
const GREETING: &str = "socketserver hand-over 1";

/// The successor serves.
const READY: &str = "ready";

/// The successor cannot serve, and why.
const FAILED: &str = "failed ";

/// The listeners are the successor's, and the predecessor stops.
const YOURS: &str = "yours";

/// The predecessor goes on, and why.
const KEPT: &str = "kept ";

/// Whether the process at the other end has the same user, or is root's.
fn is_trusted(peer: PeerCredentials) -> bool {
    peer.uid == 0 || peer.uid == geteuid().as_raw()
}

/// At most a year, which cannot overflow the clock.
fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(365 * 24 * 60 * 60))
}

fn failed(reason: String) -> Error {
    Error::HandOver { reason }
}

/// A text in a line of the protocol.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
