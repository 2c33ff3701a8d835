//! What the system knows about a process, from `/proc`
//! ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).

use std::fs;
use std::time::Duration;

/// As `/proc` counts processor time, on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of each thread, on the architectures that servers run on.
const KERNEL_STACK: u64 = 16 * 1024;

/// The processor time that a process has used, with that of the children it has waited for.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, String> {
    let stat = read(pid, "stat")?;
    // The name, in parentheses, may have spaces.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let ticks: Vec<f64> =
        fields.into_iter().flatten().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
    if ticks.len() < 4 {
        return Err(format!("/proc/{pid}/stat is not understood"));
    }
    Ok(Duration::from_secs_f64(ticks.iter().sum::<f64>() / TICKS_PER_SECOND))
}

/// The memory that a process costs, in bytes: its share of all pages (PSS), its page tables, and
/// the kernel's stack for each of its threads. What the kernel has for its sockets is not in it.
pub(crate) fn memory(pid: u32) -> Result<u64, String> {
    let status = read(pid, "status")?;
    let pss = field(&read(pid, "smaps_rollup")?, "Pss:")?;
    let page_tables = field(&status, "VmPTE:")?;
    let threads = field(&status, "Threads:")?;
    Ok((pss + page_tables) * 1024 + threads * KERNEL_STACK)
}

fn read(pid: u32, file: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))
}

fn field(text: &str, name: &str) -> Result<u64, String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("the system does not say {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_has_used_the_processor_and_memory() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        while cpu_time(own).unwrap() == before {}
        assert!(memory(own).unwrap() > KERNEL_STACK);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(cpu_time(u32::MAX).is_err());
        assert!(memory(u32::MAX).is_err());
    }
}
