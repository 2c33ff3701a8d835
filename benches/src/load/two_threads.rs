//! Clients on two threads: more than one thread can be, or such as must not wait for each other.

use std::thread;

use super::echo::Clients;
use super::window::Window;
use super::{Figures, Outcome, Target};

/// As [`echo::run`](super::echo::run), from each thread half of it.
pub(crate) fn halves(connections: usize, size: usize, in_flight: usize, target: Target) -> Outcome {
    let half = connections / 2;
    let one = Clients::connect(0..half, size, target)?;
    let other = Clients::connect(half..connections, size, target)?;
    let (one, other) = together((one, in_flight), (other, in_flight), target)?;
    one.with(&other).figures()
}

/// The rate and latency of a client who waits for each answer, beside one who never waits. What a
/// line costs is for each of either.
pub(crate) fn flood(in_flight: usize, target: Target) -> Outcome {
    let patient = Clients::connect(0..1, 64, target)?;
    let flood = Clients::connect(1..2, 64, target)?;
    let (patient, flood) = together((patient, 1), (flood, in_flight), target)?;
    let figures = patient.figures()?;
    // Nor may it be the flood that is not served.
    flood.figures()?;
    let Figures { server_cpu_us, load_cpu_us, .. } = patient.with(&flood).figures()?;
    Ok(Figures { server_cpu_us, load_cpu_us, ..figures })
}

/// Two crowds at the same time, each with so many lines in flight on each connection.
fn together(
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
