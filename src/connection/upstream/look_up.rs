//! Looking up the addresses of a host name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use crate::address::{Endpoint, Scheme};
use crate::error::{Error, Result};
use crate::sync::{Current, Interrupted};

/// How many look-ups run at a time in this process. The system's resolver takes its own time, also when
/// nothing waits for it any more.
const MAX_LOOK_UPS: usize = 256;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// What a look-up and the code that waits for it share.
struct LookUp {
    found: Mutex<Option<Result<Vec<SocketAddr>>>>,
    waiter: Arc<Current>,
}

/// The addresses of an endpoint, the preferred one first, IPv6 and IPv4 in turns. `None` if it takes
/// longer than until `deadline`.
pub(super) fn look_up(endpoint: &Endpoint, deadline: Instant) -> Result<Option<Vec<SocketAddr>>> {
    let found = match endpoint.is_host_name() {
        true => look_up_on_thread(endpoint, deadline)?,
        false => Some(endpoint.resolve(Scheme::Tcp)?),
    };
    Ok(found.map(take_turns))
}

fn look_up_on_thread(endpoint: &Endpoint, deadline: Instant) -> Result<Option<Vec<SocketAddr>>> {
    let busy = || Error::Resolve {
        host: endpoint.to_string(),
        source: std::io::Error::other("too many look-ups are running"),
    };
    let running = Running::begin().ok_or_else(busy)?;
    let current = Current::get();
    let look_up = Arc::new(LookUp { found: Mutex::default(), waiter: current.clone() });
    let (endpoint, shared) = (endpoint.clone(), look_up.clone());
    let run = move || {
        let found = endpoint.resolve(Scheme::Tcp);
        drop(running);
        *shared.found.lock() = Some(found);
        shared.waiter.unpark();
    };
    let builder = thread::Builder::new().name("look-up".to_owned());
    builder.spawn(run).map_err(Error::system("start a thread that looks up a name"))?;
    loop {
        if let Some(found) = look_up.found.lock().take() {
            return found.map(Some);
        }
        match current.park(Some(deadline)) {
            Ok(()) => {}
            Err(Interrupted::TimedOut) => return Ok(None),
            Err(interrupted) => return Err(interrupted.into()),
        }
    }
}

/// One look-up that runs.
struct Running;

impl Running {
    /// `None` if there are as many as there may be.
    fn begin() -> Option<Running> {
        let running = Running;
        // Counted before it is compared, and taken back by the drop.
        (RUNNING.fetch_add(1, Ordering::SeqCst) < MAX_LOOK_UPS).then_some(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The families by turns, beginning with that of the first; within each, the order stays
/// ([RFC 8305, 4](https://www.rfc-editor.org/rfc/rfc8305#section-4)).
fn take_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_ipv6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = Vec::with_capacity(one.len() + other.len());
    while one.len() + other.len() > 0 {
        all.extend(one.next());
        all.extend(other.next());
    }
    all
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns() {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        for (found, expected) in [
            (
                &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"][..],
                "[::1]:1 1.1.1.1:1 [::2]:1 [::3]:1",
            ),
            (&["1.1.1.1:1", "[::1]:1", "[::2]:1"], "1.1.1.1:1 [::1]:1 [::2]:1"),
            (&["1.1.1.1:1", "1.1.1.2:1"], "1.1.1.1:1 1.1.1.2:1"),
            (&[], ""),
        ] {
            let turns: Vec<_> = take_turns(all(found)).iter().map(SocketAddr::to_string).collect();
            assert_eq!(turns.join(" "), expected);
        }
    }

    #[test]
    fn a_name_is_looked_up_and_one_that_does_not_exist_is_an_error() {
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        let found = look_up(&"localhost:80".parse().unwrap(), deadline).unwrap().unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        let error = look_up(&"no-such-host.invalid:80".parse().unwrap(), deadline).unwrap_err();
        assert!(matches!(error, Error::Resolve { .. }), "{error}");
    }
}
