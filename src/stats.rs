//! Counters: what has happened since the server was made.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened since the server was made, and how many are being served now.
        ///
        /// In a forking server these are the parent's counts; what a child counts ends with it.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            /// Requests being served now.
            pub active: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self, active: usize) -> Stats {
                Stats { active: active as u64, $($name: self.$name.value(),)* }
            }
        }
    };
}

counters! {
    /// Requests taken from the listener and given to a handler.
    accepted,
    /// Requests that have ended, however they did.
    finished,
    /// Requests that ended with an error from the handler; of a forking server, children that
    /// ended with another status than 0.
    failed,
    /// Requests whose handler panicked.
    panicked,
    /// Requests that `verify_request` did not want.
    denied,
    /// Requests turned away for want of room, or of a thread or process to run them.
    refused,
    /// Datagrams dropped because they were longer than `max_packet_size`.
    truncated,
    /// Times that accepting failed for a reason that concerns the system, not one connection.
    accept_errors,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
