//! A handler that reports the calls of its hooks.

use std::fmt;
use std::sync::mpsc;

use parking_lot::Mutex;
use socketserver::*;

use super::next;

/// Passes its hooks on to another handler, and sends each call on a channel.
pub(crate) struct Recorder<H> {
    handler: H,
    calls: Mutex<mpsc::Sender<Call>>,
}

/// A call of a hook, with what the connection says then of why it ends. Shown as `setup`, `handle`,
/// `finish`, and `error: ...` for `handle_error`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Setup,
    Handle,
    Finish(Option<CloseReason>),
    Error {
        reason: Option<CloseReason>,
        text: String,
        /// The [`Error`] that it is, if it is one of this crate's, as `Debug` shows it.
        own: Option<String>,
    },
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Setup => f.write_str("setup"),
            Call::Handle => f.write_str("handle"),
            Call::Finish(_) => f.write_str("finish"),
            Call::Error { text, .. } => write!(f, "error: {text}"),
        }
    }
}

/// The next calls are these, as they are shown.
#[track_caller]
pub(crate) fn expect_calls(calls: &mpsc::Receiver<Call>, expected: &[&str]) {
    for call in expected {
        assert_eq!(next(calls).to_string(), *call);
    }
}

/// The error of the next call of `handle_error`; other calls before it are skipped.
#[track_caller]
pub(crate) fn next_error(calls: &mpsc::Receiver<Call>) -> String {
    loop {
        if let Call::Error { text, .. } = next(calls) {
            return text;
        }
    }
}

/// The reason at the next call of `finish`; `setup` and `handle` before it are skipped.
#[track_caller]
pub(crate) fn next_finish(calls: &mpsc::Receiver<Call>) -> CloseReason {
    loop {
        match next(calls) {
            Call::Setup | Call::Handle => {}
            Call::Finish(reason) => return reason.expect("a reason"),
            call => panic!("no finish before {call:?}"),
        }
    }
}

impl<H> Recorder<H> {
    pub(crate) fn new(handler: H) -> (Recorder<H>, mpsc::Receiver<Call>) {
        let (sender, receiver) = mpsc::channel();
        (Recorder { handler, calls: Mutex::new(sender) }, receiver)
    }

    fn record(&self, call: Call) {
        let _ = self.calls.lock().send(call);
    }

    fn record_error(&self, reason: Option<CloseReason>, error: &AnyError) {
        let own = error.downcast_ref().or_else(|| Error::of(error.downcast_ref()?));
        let own = own.map(|own| format!("{own:?}"));
        self.record(Call::Error { reason, text: error.to_string(), own });
    }
}

type AnyError = dyn std::error::Error + Send + Sync + 'static;

impl<H: StreamRequestHandler> StreamRequestHandler for Recorder<H> {
    fn verify_request(&self, connection: &Connection) -> bool {
        self.handler.verify_request(connection)
    }

    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        assert_eq!(connection.close_reason(), None);
        self.record(Call::Setup);
        self.handler.setup(connection)
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        assert_eq!(connection.close_reason(), None);
        self.record(Call::Handle);
        self.handler.handle(connection)
    }

    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        self.record(Call::Finish(connection.close_reason()));
        self.handler.finish(connection)
    }

    fn handle_error(&self, connection: &Connection, error: &AnyError) {
        self.record_error(connection.close_reason(), error);
        self.handler.handle_error(connection, error);
    }
}

impl<H: DatagramRequestHandler> DatagramRequestHandler for Recorder<H> {
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        self.handler.verify_request(request)
    }

    fn setup(&self, request: &mut DatagramRequest) -> HandlerResult {
        self.record(Call::Setup);
        self.handler.setup(request)
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        self.record(Call::Handle);
        self.handler.handle(request)
    }

    fn finish(&self, request: &mut DatagramRequest) -> HandlerResult {
        self.record(Call::Finish(None));
        self.handler.finish(request)
    }

    fn handle_error(&self, request: &DatagramRequest, error: &AnyError) {
        self.record_error(None, error);
        self.handler.handle_error(request, error);
    }
}
