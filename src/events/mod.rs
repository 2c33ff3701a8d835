//! What an [`Observer`](crate::Observer) is told of, and two observers to use as they are:
//! [`AccessLog`], and with the feature `tracing` `TracingEvents`.

mod access_log;
#[cfg(feature = "tracing")]
mod tracing_events;

pub use crate::state::events::{
    Accepted, Closed, EventKind, Folded, Handshaken, Pressure, Refusal, Refused, Upstream,
    UpstreamChange,
};
pub use access_log::AccessLog;
#[cfg(feature = "tracing")]
pub use tracing_events::TracingEvents;
