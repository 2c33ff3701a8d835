//! Servers with `Fibers`: scheduling, what a fiber may wait for, and time limits.

mod scheduling;
mod timeouts;
mod waits;

use socketserver::*;

use crate::support::servers::{Settings, serve_with};

/// A server whose fibers share one worker thread: a fiber that blocks the thread delays all others.
fn on_one_worker(settings: impl Settings, handler: impl StreamRequestHandler) -> RunningServer {
    let builder = FiberTcpServer::builder().mixin(Fibers::new().workers(1));
    serve_with(settings.apply(builder), handler)
}
