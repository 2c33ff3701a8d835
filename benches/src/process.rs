//! The processor time and the memory of a process, from `/proc`
//! ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).

use std::fs;
use std::time::Duration;

/// The unit of processor time in `/proc` (`USER_HZ`), on the usual architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// The kernel's stack of one thread, on the usual architectures.
const KERNEL_STACK: u64 = 16 * 1024;

/// The processor time of a process, and of the children that it has reaped.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, String> {
    let stat = read(pid, "stat")?;
    // The name of the process, in parentheses, may contain spaces.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let ticks: Vec<f64> =
        fields.into_iter().flatten().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
    if ticks.len() < 4 {
        return Err(format!("/proc/{pid}/stat cannot be parsed"));
    }
    Ok(Duration::from_secs_f64(ticks.iter().sum::<f64>() / TICKS_PER_SECOND))
}

/// The memory of a process, in bytes: its share of all pages (PSS), its page tables, and the
/// kernel's stack of each of its threads. The kernel's memory for its sockets is not included.
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
        .ok_or_else(|| format!("/proc has no field {name}"))
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
    fn a_pid_without_a_process_is_an_error() {
        assert!(cpu_time(u32::MAX).is_err());
        assert!(memory(u32::MAX).is_err());
    }
}
