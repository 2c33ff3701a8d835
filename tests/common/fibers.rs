//! What the tests of fibers share.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socketserver::*;

use crate::common::{Settings, wait_until};

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
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn close(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Blocks the thread.
    pub(crate) fn pass(&self) {
        wait_until("the gate is open", || self.is_open());
    }
}
