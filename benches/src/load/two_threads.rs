//! Clients on two threads: for more load than one thread makes, or so that neither waits for the
//! other.

use std::thread;

use super::echo::Clients;
use super::window::Window;
use super::{Figures, Outcome, Target};

/// As [`echo::run`](super::echo::run), with half of the connections on each thread.
pub(crate) fn echo(connections: usize, size: usize, in_flight: usize, target: Target) -> Outcome {
    let half = connections / 2;
    let one = Clients::connect(0..half, size, target)?;
    let other = Clients::connect(half..connections, size, target)?;
    let (one, other) = run_both((one, in_flight), (other, in_flight), target)?;
    one.merged(&other).figures()
}

/// The rate and latency of a client with one line in flight, beside one with `in_flight` of them.
/// The processor time is that of each line of either.
pub(crate) fn flood(in_flight: usize, target: Target) -> Outcome {
    let single = Clients::connect(0..1, 64, target)?;
    let flood = Clients::connect(1..2, 64, target)?;
    let (single, flood) = run_both((single, 1), (flood, in_flight), target)?;
    let figures = single.figures()?;
    // Fails if the flood was not served.
    flood.figures()?;
    let Figures { server_cpu_us, load_cpu_us, .. } = single.merged(&flood).figures()?;
    Ok(Figures { server_cpu_us, load_cpu_us, ..figures })
}

/// Runs two sets of clients at the same time, each with its number of lines in flight.
fn run_both(
    one: (Clients, usize),
    other: (Clients, usize),
    target: Target,
) -> Result<(Window, Window), String> {
    thread::scope(|scope| {
        let other = scope.spawn(move || other.0.exchange(other.1, target));
        let one = one.0.exchange(one.1, target);
        let other = other.join().unwrap_or_else(|_| Err("the other clients panicked".to_owned()));
        Ok((one?, other?))
    })
}
