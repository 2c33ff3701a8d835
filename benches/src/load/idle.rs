//! The server's memory for an idle connection: before and after many of them connect.

use std::thread;
use std::time::Duration;

use super::echo::Clients;
use super::{Figures, Outcome, Target};
use crate::process::memory;

pub(crate) fn run(connections: usize, target: Target) -> Outcome {
    let before = stable_memory(target.pid)?;
    let mut clients = Clients::connect(0..connections, 64, target)?;
    let after = stable_memory(target.pid)?;
    // All of them are still served.
    clients.exchange_one()?;
    clients.reset()?;
    let each = after.saturating_sub(before) as f64 / connections as f64;
    Ok(Figures { value: each, operations: connections as u64, ..Figures::default() })
}

/// The memory of a server, once it changes by less than 1 %.
fn stable_memory(pid: u32) -> Result<u64, String> {
    let mut last = memory(pid)?;
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        let now = memory(pid)?;
        if now.abs_diff(last) <= now / 100 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}
