//! The modules of `tests/it` that are about `Threading`.

#[path = "../it/bad_input.rs"]
mod bad_input;
#[path = "../it/broadcast.rs"]
mod broadcast;
#[path = "../it/close_reasons.rs"]
mod close_reasons;
#[path = "../it/closing.rs"]
mod closing;
#[path = "../it/datagrams.rs"]
mod datagrams;
#[path = "../it/extremes.rs"]
mod extremes;
#[path = "../it/lifecycle.rs"]
mod lifecycle;
#[path = "../it/limits.rs"]
mod limits;
#[path = "../it/mixins.rs"]
mod mixins;
#[path = "../it/scope.rs"]
mod scope;
#[path = "../it/scripted_stream.rs"]
mod scripted_stream;
#[path = "../it/select.rs"]
mod select;
#[path = "../it/streams.rs"]
mod streams;
#[path = "../support/mod.rs"]
mod support;
#[path = "../it/telnet.rs"]
mod telnet;
#[path = "../it/tied_buffers.rs"]
mod tied_buffers;
#[path = "../it/timeouts.rs"]
mod timeouts;
#[path = "../it/transports.rs"]
mod transports;
#[path = "../it/urgent_data.rs"]
mod urgent_data;
