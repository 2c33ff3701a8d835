//! A chat room on several servers: as on one, and besides all its members read all lines in one and
//! the same order, whoever is at which server.

use super::chat::Room;
use super::window::Window;
use super::{Figures, Outcome, Target};

/// What is counted and timed is each delivery, as in a chat; the figures are for each line.
pub(crate) fn run(
    members: usize,
    senders: usize,
    in_flight: usize,
    servers: &[Target],
    broker: Option<u32>,
) -> Outcome {
    let mut room = Room::new(members, senders, in_flight)?;
    room.gather(servers)?;
    room.expect_one_order();
    let measured = servers.first().map(|server| server.measured).unwrap_or_default();
    let deliveries = room.talk(in_flight, Window::open_for(servers, broker, measured))?;
    Ok(for_each_line(deliveries, members - 1))
}

/// A line is delivered to so many.
fn for_each_line(figures: Figures, deliveries: usize) -> Figures {
    let times = |time: Option<f64>| time.map(|time| time * deliveries as f64);
    Figures {
        value: figures.value / deliveries as f64,
        operations: figures.operations / deliveries as u64,
        server_cpu_us: times(figures.server_cpu_us),
        broker_cpu_us: times(figures.broker_cpu_us),
        load_cpu_us: times(figures.load_cpu_us),
        ..figures
    }
}
