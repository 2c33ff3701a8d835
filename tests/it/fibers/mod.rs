//! What the tests of fibers share.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use socketserver::*;

use crate::common::{PATIENCE, Settings};

/// A server whose fibers have one thread, so that whoever keeps it keeps everybody waiting.
pub(crate) fn on_one_worker(
    settings: impl Settings,
    handler: impl StreamRequestHandler,
) -> RunningServer {
    let builder = settings.set(FiberTcpServer::builder().mixin(Fibers::new().workers(1)));
    builder.bind("127.0.0.1:0", handler).unwrap().spawn().unwrap()
}

/// Calls this for each line of the client's, without its end: to write an answer, or to end.
pub(crate) fn answers<F>(answer: F) -> impl StreamRequestHandler
where
    F: Fn(&str, &mut Connection) -> HandlerResult + Send + Sync + 'static,
{
    handler_fn(move |connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            answer(line.trim_end(), connection)?;
            line.clear();
        }
        Ok(())
    })
}

/// Closed to begin with.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    pub(crate) fn close(&self) {
        *self.0.0.lock() = false;
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.0.lock()
    }

    /// Blocks the thread.
    pub(crate) fn pass(&self) {
        let mut is_open = self.0.0.lock();
        self.0.1.wait_while_for(&mut is_open, |is_open| !*is_open, PATIENCE);
        assert!(*is_open, "nobody opens the gate");
    }
}
