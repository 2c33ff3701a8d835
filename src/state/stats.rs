//! Counters: what has happened since the server was made.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::close_reason::CloseReason;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened since the server was made, and how many are being served now.
        ///
        /// A forking server's children count in the same place as their parent.
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
    /// Requests that have ended, however they did. Of those that were run, the next ones say how.
    finished,
    /// Requests that ended with [`CloseReason::Completed`].
    completed,
    /// Requests that ended with [`CloseReason::Eof`].
    eof,
    /// Requests that ended with [`CloseReason::Reset`].
    reset,
    /// Requests that ended with [`CloseReason::IdleTimeout`].
    idle_timeout,
    /// Requests that ended with [`CloseReason::MessageTimeout`].
    message_timeout,
    /// Requests that ended with [`CloseReason::WriteTimeout`].
    write_timeout,
    /// Requests that ended with [`CloseReason::Limit`].
    limit,
    /// Requests that ended with [`CloseReason::Stopped`].
    stopped,
    /// Requests that ended with [`CloseReason::Error`]; of a forking server, also children that
    /// were killed, or that exited by themselves with another status than 0, 1 or 101.
    failed,
    /// Requests that ended with [`CloseReason::Panic`].
    panicked,
    /// Requests that the access list or `verify_request` did not want ([`CloseReason::Denied`]).
    denied,
    /// Requests turned away for want of room, of a thread or process to run them, or because their
    /// peer had or made too many connections.
    refused,
    /// Datagrams dropped because they were longer than `max_packet_size`.
    truncated,
    /// Times that accepting failed for a reason that concerns the system, not one connection.
    accept_errors,
}

macro_rules! reasons {
    ($($reason:ident => $name:ident,)*) => {
        impl Stats {
            /// How many requests ended for this reason.
            pub fn ended_for(&self, reason: CloseReason) -> u64 {
                match reason {
                    $(CloseReason::$reason => self.$name,)*
                }
            }
        }

        impl Counters {
            /// The counter of those that ended for this reason.
            pub(crate) fn ended_for(&self, reason: CloseReason) -> &Counter {
                match reason {
                    $(CloseReason::$reason => &self.$name,)*
                }
            }
        }
    };
}

reasons! {
    Completed => completed,
    Eof => eof,
    Reset => reset,
    IdleTimeout => idle_timeout,
    MessageTimeout => message_timeout,
    WriteTimeout => write_timeout,
    Limit => limit,
    Denied => denied,
    Stopped => stopped,
    Error => failed,
    Panic => panicked,
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
