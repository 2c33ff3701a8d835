//! The crate `socketserver` with fibers where it has threads, under the same names.

use std::time::Duration;

pub use real::FiberTcpServer as ThreadingTcpServer;
pub use real::FiberUdpServer as ThreadingUdpServer;
pub use real::FiberUnixDatagramServer as ThreadingUnixDatagramServer;
pub use real::FiberUnixStreamServer as ThreadingUnixStreamServer;
pub use real::Fibers as Threading;
pub use real::*;

/// The settings that `Threading` calls otherwise, or that fibers do not need.
pub trait AsThreading {
    fn max_threads(self, threads: usize) -> Self;
    fn idle_time(self, time: Duration) -> Self;
}

impl AsThreading for Fibers {
    fn max_threads(self, threads: usize) -> Fibers {
        self.max_fibers(threads)
    }

    fn idle_time(self, _: Duration) -> Fibers {
        self
    }
}
