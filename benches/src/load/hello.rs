//! Connects, reads the greeting to its end, and connects again.

use std::time::Instant;

use super::net::{Connection, Events, Poller};
use super::window::Window;
use super::{Outcome, Target, of};

const GREETING: &[u8] = b"Hello World!\n";

pub(crate) fn run(in_flight: usize, target: Target) -> Outcome {
    let poller = Poller::new().map_err(|error| error.to_string())?;
    let visit = |index| Visit::begin(target, index, &poller).map(Some);
    let mut visits = (0..in_flight).map(visit).collect::<Result<Vec<_>, _>>()?;
    let mut present = in_flight;
    let mut window = Window::open(target);
    let mut events = Events::new();
    loop {
        let open = window.is_open()?;
        if !open && present == 0 {
            break;
        }
        poller.wait(&mut events, window.patience()).map_err(|error| error.to_string())?;
        if events.is_empty() && !open {
            return Err(format!("{present} connections were not greeted and closed"));
        }
        for ready in events.iter() {
            let slot = &mut visits[ready.index];
            let Some(visit) = slot else { continue };
            if !visit.is_over(ready.index)? {
                continue;
            }
            window.count(visit.begun, Instant::now());
            of(ready.index, poller.remove(&visit.connection))?;
            slot.take().map_or(Ok(()), |visit| of(ready.index, visit.connection.close()))?;
            if open {
                *slot = Some(Visit::begin(target, ready.index, &poller)?);
            } else {
                present -= 1;
            }
        }
    }
    window.figures()
}

struct Visit {
    connection: Connection,
    begun: Instant,
    /// How much of the greeting has come.
    part: usize,
}

impl Visit {
    fn begin(target: Target, index: usize, poller: &Poller) -> Result<Visit, String> {
        let begun = Instant::now();
        let connection = of(index, Connection::open(target.address, index, poller))?;
        Ok(Visit { connection, begun, part: 0 })
    }

    /// Reads and compares; over when the whole greeting has come, and the end behind it.
    fn is_over(&mut self, index: usize) -> Result<bool, String> {
        let mut buffer = [0; 64];
        loop {
            match of(index, self.connection.read(&mut buffer))? {
                None => return Ok(false),
                Some(0) if self.part == GREETING.len() => return Ok(true),
                Some(0) => return Err(format!("closed after {} bytes of the greeting", self.part)),
                Some(length) => {
                    if !GREETING[self.part..].starts_with(&buffer[..length]) {
                        let said = String::from_utf8_lossy(&buffer[..length]);
                        return Err(format!("greeted by {said:?} after {} bytes", self.part));
                    }
                    self.part += length;
                }
            }
        }
    }
}
