//! What a connection costs that says nothing: memory before and after many of them.

use std::thread;
use std::time::Duration;

use super::echo::Clients;
use super::{Figures, Outcome, Target};
use crate::process::memory;

pub(crate) fn run(connections: usize, target: Target) -> Outcome {
    let before = settled(target.server)?;
    let mut clients = Clients::connect(0..connections, 64, target)?;
    let after = settled(target.server)?;
    // They are all still there.
    clients.exchange_one()?;
    clients.close()?;
    let each = after.saturating_sub(before) as f64 / connections as f64;
    Ok(Figures { value: each, operations: connections as u64, ..Figures::default() })
}

/// The memory of a server, once it hardly changes.
fn settled(server: u32) -> Result<u64, String> {
    let mut last = memory(server)?;
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        let now = memory(server)?;
        if now.abs_diff(last) <= now / 100 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
