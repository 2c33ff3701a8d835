//! The options of a TCP socket, as the system can have them.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::TransportOptions;
use crate::sys::socket::set_user_timeout;

/// Sets `TCP_NODELAY`, keepalive and `TCP_USER_TIMEOUT`.
pub(crate) fn set_tcp_options(fd: BorrowedFd<'_>, options: &TransportOptions) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    socket.set_tcp_nodelay(options.nodelay)?;
    match options.keepalive {
        None => socket.set_keepalive(false)?,
        Some(keepalive) => {
            let options = TcpKeepalive::new()
                .with_time(in_range(keepalive.idle, SECOND, MAX_KEEPALIVE))
                .with_interval(in_range(keepalive.interval, SECOND, MAX_KEEPALIVE))
                .with_retries(keepalive.probes.clamp(1, MAX_PROBES));
            // `SO_KEEPALIVE` too.
            socket.set_tcp_keepalive(&options)?;
        }
    }
    let user_timeout = options.user_timeout;
    let user_timeout = user_timeout.map(|time| in_range(time, MILLISECOND, MAX_USER_TIMEOUT));
    set_user_timeout(socket, user_timeout)
}

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// The most that `TCP_KEEPIDLE` and `TCP_KEEPINTVL` allow, which are whole seconds from one on: other
/// values are errors (`include/net/tcp.h` of Linux, `MAX_TCP_KEEPIDLE`).
const MAX_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// The most probes that `TCP_KEEPCNT` allows.
const MAX_PROBES: u32 = 127;

/// The most that `TCP_USER_TIMEOUT` allows, a signed number of milliseconds, of which zero is no
/// timeout: almost 25 days.
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The time in whole units, rounded up: from one unit on, and at most `max`.
fn in_range(time: Duration, unit: Duration, max: Duration) -> Duration {
    let units = time.clamp(unit, max).as_nanos().div_ceil(unit.as_nanos());
    // At most as many as `max` has, which is an `i32`.
    unit * units as u32
}
