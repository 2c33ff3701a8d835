//! Members of a chat room on several servers: as on one, and all of them must read the lines in one
//! order.

use super::chat::Room;
use super::window::Window;
use super::{Figures, Outcome, Target};

/// Counts deliveries, as for a chat, and returns the figures of lines.
pub(crate) fn run(
    members: usize,
    senders: usize,
    in_flight: usize,
    servers: &[Target],
    broker: Option<u32>,
) -> Outcome {
    let mut room = Room::new(members, senders, in_flight)?;
    room.join(servers)?;
    room.expect_one_order();
    let measured = servers.first().map(|server| server.measured).unwrap_or_default();
    let deliveries = room.exchange(in_flight, Window::open_for(servers, broker, measured))?;
    Ok(per_line(deliveries, members - 1))
}

/// Converts the figures of deliveries, given the number of deliveries of a line.
fn per_line(figures: Figures, deliveries: usize) -> Figures {
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
