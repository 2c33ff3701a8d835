//! Runs a test under each mixin that runs beside it, over both stream transports.

use std::sync::Arc;

use socketserver::extend::Spawnable;
use socketserver::*;

use crate::support::servers::{StreamSettings, serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name};

/// One thread, a thread for each connection, and fibers on one worker.
pub(crate) fn mixins() -> Vec<Box<dyn Spawnable>> {
    vec![
        Box::new(Sequential),
        Box::new(Threading::new()),
        #[cfg(feature = "fibers")]
        Box::new(Fibers::new().workers(1)),
    ]
}

/// Each server gets a handler of its own from `handler`. The test may stop the server; if not, it must
/// have served all clients when the test returns.
pub(crate) fn on_every_server<H: StreamRequestHandler, T>(
    settings: impl StreamSettings,
    handler: impl Fn() -> (H, T),
    test: impl Fn(&RunningServer, T),
) {
    let run = |server: RunningServer, state| {
        test(&server, state);
        let address = server.local_addr().clone();
        let report = server.stop(TIMEOUT);
        assert!(report.is_clean(), "{address}: {report:?}");
    };
    for mixin in mixins() {
        let (handler, state) = handler();
        let builder = settings.apply(TcpServer::builder().mixin(mixin));
        run(serve_with(builder, Arc::new(handler)), state);
    }
    for mixin in mixins() {
        let (handler, state) = handler();
        let builder = settings.apply(UnixStreamServer::builder().mixin(mixin));
        let address = format!("unix:{}", abstract_name());
        run(serve_at(&address, builder, Arc::new(handler)), state);
    }
}
