//! The monotonic clock in milliseconds.

use rustix::time::{ClockId, clock_gettime};

use super::platform::process::COARSE_CLOCK;

/// The milliseconds of the monotonic clock, which is the same in all processes
/// ([clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html)).
pub(crate) fn millis() -> u64 {
    of(ClockId::Monotonic)
}

/// The milliseconds of the monotonic clock, on Linux as of the kernel's last tick
/// (`CLOCK_MONOTONIC_COARSE`, [clock_gettime(2)]): it takes a quarter of the time of a precise clock,
/// and is at most 10 ms late.
///
/// [clock_gettime(2)]: https://man7.org/linux/man-pages/man2/clock_gettime.2.html
pub(crate) fn coarse_millis() -> u64 {
    of(COARSE_CLOCK)
}

fn of(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}
