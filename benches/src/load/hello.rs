//! Clients that connect, read the greeting up to EOF, and connect again.

use std::time::Instant;

use super::net::{Connection, Events, Poller};
use super::window::Window;
use super::{Outcome, Target, on_connection};

const GREETING: &[u8] = b"Hello World!\n";

pub(crate) fn run(in_flight: usize, target: Target) -> Outcome {
    let poller = Poller::new().map_err(|error| error.to_string())?;
    let visit = |index| Visit::start(target, index, &poller).map(Some);
    let mut visits = (0..in_flight).map(visit).collect::<Result<Vec<_>, _>>()?;
    let mut active = in_flight;
    let mut window = Window::open(target);
    let mut events = Events::new();
    loop {
        let open = window.is_open()?;
        if !open && active == 0 {
            break;
        }
        poller.wait(&mut events, window.poll_timeout()).map_err(|error| error.to_string())?;
        if events.is_empty() && !open {
            return Err(format!("{active} connections were not greeted and closed"));
        }
        for ready in events.iter() {
            let slot = &mut visits[ready.index];
            let Some(visit) = slot else { continue };
            if !visit.is_done(ready.index)? {
                continue;
            }
            window.count(visit.started, Instant::now());
            on_connection(ready.index, poller.remove(&visit.connection))?;
            slot.take()
                .map_or(Ok(()), |visit| on_connection(ready.index, visit.connection.reset()))?;
            if open {
                *slot = Some(Visit::start(target, ready.index, &poller)?);
            } else {
                active -= 1;
            }
        }
    }
    window.figures()
}

struct Visit {
    connection: Connection,
    started: Instant,
    /// How many bytes of the greeting have arrived.
    received: usize,
}

impl Visit {
    fn start(target: Target, index: usize, poller: &Poller) -> Result<Visit, String> {
        let started = Instant::now();
        let connection = on_connection(index, Connection::open(target.address, index, poller))?;
        Ok(Visit { connection, started, received: 0 })
    }

    /// Reads and compares. Done at EOF after the whole greeting.
    fn is_done(&mut self, index: usize) -> Result<bool, String> {
        let mut buffer = [0; 64];
        loop {
            match on_connection(index, self.connection.read(&mut buffer))? {
                None => return Ok(false),
                Some(0) if self.received == GREETING.len() => return Ok(true),
                Some(0) => {
                    return Err(format!("closed after {} bytes of the greeting", self.received));
                }
                Some(length) => {
                    if !GREETING[self.received..].starts_with(&buffer[..length]) {
                        let text = String::from_utf8_lossy(&buffer[..length]);
                        return Err(format!("greeted by {text:?} after {} bytes", self.received));
                    }
                    self.received += length;
                }
            }
        }
    }
}
