//! The counters of a server: [`Stats`].

use super::counter::Counter;
use super::histogram::{Histogram, Histograms};
use crate::close_reason::CloseReason;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A server's counters since it was created, and its active requests.
        ///
        /// The counter of a [`CloseReason`] has its name. All processes of a server, those that
        /// [`Forking`](crate::Forking) and [`Prefork`](crate::Prefork) start, have the same ones.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            /// Requests being served.
            pub active: u64,
            $($(#[$doc])* pub $name: u64,)*
            /// How long the requests took that have run and ended, in nanoseconds: from when they were
            /// accepted until they were closed.
            pub durations: Histogram,
            /// How many bytes the handlers of these requests have read from their client, or how many
            /// their datagram has.
            pub bytes_received: Histogram,
            /// How many bytes were sent to the clients of these requests, by handlers, broadcasts,
            /// senders and relays.
            pub bytes_sent: Histogram,
        }

        impl Default for Stats {
            fn default() -> Stats {
                Stats {
                    active: 0,
                    $($name: 0,)*
                    durations: Histogram::of_times(),
                    bytes_received: Histogram::of_sizes(),
                    bytes_sent: Histogram::of_sizes(),
                }
            }
        }

        impl Stats {
            /// All counters, by their names.
            pub(super) fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) histograms: Histograms,
        }

        impl Counters {
            pub(super) fn add_to(&self, stats: &mut Stats) {
                $(stats.$name += self.$name.value();)*
                self.histograms.durations.add_to(&mut stats.durations);
                self.histograms.received.add_to(&mut stats.bytes_received);
                self.histograms.sent.add_to(&mut stats.bytes_sent);
            }
        }
    };
}

counters! {
    /// Requests accepted and admitted.
    accepted,
    /// Admitted requests that have ended. Each that was run is also counted by its close reason.
    finished,
    /// Requests that ended with [`CloseReason::Completed`].
    completed,
    /// Requests that ended with [`CloseReason::Eof`].
    eof,
    /// Requests that ended with [`CloseReason::Reset`].
    reset,
    /// Requests that ended with [`CloseReason::IdleTimeout`].
    idle_timeout,
    /// Requests that ended with [`CloseReason::ReadTimeout`].
    read_timeout,
    /// Requests that ended with [`CloseReason::MessageTimeout`].
    message_timeout,
    /// Requests that ended with [`CloseReason::TooSlow`].
    too_slow,
    /// Requests that ended with [`CloseReason::WriteTimeout`].
    write_timeout,
    /// Requests that ended with [`CloseReason::Timeout`].
    timeout,
    /// Requests that ended with [`CloseReason::Limit`].
    limit,
    /// Requests that ended with [`CloseReason::Stopped`].
    stopped,
    /// Requests that ended with [`CloseReason::Failed`], among them those of children that were
    /// killed, or, under [`Forking`](crate::Forking), that exited with a status other than 0, 1 or
    /// 101.
    failed,
    /// Requests that ended with [`CloseReason::Panicked`].
    panicked,
    /// Requests that the access list or `verify_request` denied ([`CloseReason::Denied`]).
    denied,
    /// Requests that ended with [`CloseReason::BadProxyHeader`].
    bad_proxy_header,
    /// Requests that ended with [`CloseReason::HandshakeFailed`].
    handshake_failed,
    /// Requests refused because of a limit on connections, or for lack of a thread, process or
    /// fiber.
    refused,
    /// Datagrams dropped because they were longer than
    /// [`max_packet_size`](crate::Builder::max_packet_size).
    truncated,
    /// [Upstreams](crate::Connection::connect) connected to.
    upstreams,
    /// Upstreams that could not be connected to.
    upstream_errors,
    /// Failures of accepting that concern the system, not one connection.
    accept_errors,
    /// Calls of an [`Observer`](crate::Observer) that have panicked.
    observer_panics,
}

macro_rules! reasons {
    ($($reason:ident => $name:ident,)*) => {
        /// The names of the counters of close reasons.
        pub(super) const REASONS: &[&str] = &[$(stringify!($name),)*];

        /// All of them.
        pub(super) const CLOSE_REASONS: &[CloseReason] = &[$(CloseReason::$reason,)*];

        impl CloseReason {
            /// A name without blanks, for programs: that of its counter in [`Stats`], such as `eof`.
            pub fn name(self) -> &'static str {
                match self {
                    $(CloseReason::$reason => stringify!($name),)*
                }
            }
        }

        impl Stats {
            /// The number of requests that ended for a reason.
            pub fn ended_for(&self, reason: CloseReason) -> u64 {
                match reason {
                    $(CloseReason::$reason => self.$name,)*
                }
            }
        }

        impl Counters {
            /// The counter of the requests that ended for a reason.
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
    ReadTimeout => read_timeout,
    MessageTimeout => message_timeout,
    TooSlow => too_slow,
    WriteTimeout => write_timeout,
    Timeout => timeout,
    Limit => limit,
    Denied => denied,
    BadProxyHeader => bad_proxy_header,
    HandshakeFailed => handshake_failed,
    Stopped => stopped,
    Failed => failed,
    Panicked => panicked,
}
