//! Servers for tests that run under every mixin that serves in the process of the test.

use std::sync::Arc;

use socketserver::extend::*;
use socketserver::*;

use crate::support::TIMEOUT;
use crate::support::abstract_name;
use crate::support::servers::{Settings, serve_at, serve_with};

/// The fibers share one worker: one that blocks it delays all others.
pub(crate) fn all_mixins() -> Vec<(&'static str, Box<dyn Spawnable>)> {
    vec![
        ("sequential", Box::new(Sequential)),
        ("threading", Box::new(Threading::new())),
        ("fibers", Box::new(Fibers::new().workers(1))),
    ]
}

/// Runs a test with one handler on servers of both stream transports, by each mixin. The test is given
/// its name too, and stops the server or leaves it.
pub(crate) fn by_each_mixin<H: StreamRequestHandler>(
    settings: impl Settings,
    handler: H,
    test: impl Fn(&str, RunningServer),
) {
    let handler = Arc::new(handler);
    for (name, mixin) in all_mixins() {
        let builder = settings.apply(TcpServer::builder().mixin(mixin));
        test(name, serve_with(builder, handler.clone()));
    }
    for (name, mixin) in all_mixins() {
        let builder = settings.apply(UnixStreamServer::builder().mixin(mixin));
        test(name, serve_at(&format!("unix:{}", abstract_name()), builder, handler.clone()));
    }
}

#[track_caller]
pub(crate) fn stops_cleanly(server: RunningServer) {
    let address = server.local_addr().clone();
    let report = server.stop(TIMEOUT);
    assert!(report.is_clean(), "{address}: {report:?}");
}
