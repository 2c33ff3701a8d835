//! What a process that must not have a thread for it does now and then, because it forks.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socketserver::Builder;
use socketserver::extend::{Mixin, Transport};

const INTERVAL: Duration = Duration::from_millis(100);

/// A call that the thread which accepts makes, once it is set.
#[derive(Clone, Default)]
pub(super) struct Polled(Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>);

impl Polled {
    /// Has the server make the call, under `Prefork` each of its children.
    pub(super) fn by<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        let polled = self.clone();
        builder.service_actions(INTERVAL, move || {
            if let Some(call) = polled.0.get() {
                call();
            }
        })
    }

    pub(super) fn set(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(call));
    }
}
