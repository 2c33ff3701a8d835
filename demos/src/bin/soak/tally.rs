//! Counters, failures, and the resources of the process.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// The outcome of a request.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// The answer was received, and is correct.
    Answered,
    /// The server was full, or had been stopped and not been started again.
    Refused,
    /// Not answered, and the server need not: it was already stopping, or the client was slower
    /// than the limits allow.
    Excused,
    /// Not answered, although the server must.
    Lost,
}

/// The requests of one target.
#[derive(Default)]
pub(crate) struct Count([AtomicU64; 4]);

impl Count {
    pub(crate) fn add(&self, outcome: Outcome, requests: u64) {
        self.0[outcome as usize].fetch_add(requests, Relaxed);
    }

    pub(crate) fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }
}

static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static EVENTS: Mutex<BTreeMap<&str, BTreeMap<String, u64>>> = Mutex::new(BTreeMap::new());

/// Records something that must not happen.
pub(crate) fn record_failure(what: String) {
    eprintln!("soak: {what}");
    FAILURES.lock().push(what);
}

pub(crate) fn has_no_failures() -> bool {
    FAILURES.lock().is_empty()
}

/// Counts another event, by its kind and name.
pub(crate) fn count_event(kind: &'static str, name: impl ToString, times: u64) {
    *EVENTS.lock().entry(kind).or_default().entry(name.to_string()).or_default() += times;
}

pub(crate) fn total(kind: &str) -> u64 {
    EVENTS.lock().get(kind).map_or(0, |events| events.values().sum())
}

pub(crate) fn print() {
    for (kind, events) in &*EVENTS.lock() {
        let events: Vec<_> = events.iter().map(|(name, times)| format!("{name} {times}")).collect();
        println!("{kind}: {}", events.join(", "));
    }
    for failure in FAILURES.lock().iter().take(20) {
        println!("FAILED: {failure}");
    }
}

/// The resources of the process that it has to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Besides the main one.
    pub(crate) threads: usize,
    pub(crate) descriptors: usize,
}

impl Resources {
    pub(crate) fn now() -> Resources {
        let entries = |folder| fs::read_dir(folder).map_or(0, Iterator::count);
        Resources { threads: entries("/proc/self/task") - 1, descriptors: entries("/proc/self/fd") }
    }
}

/// The most memory that this process ever had, in MiB
/// ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)).
pub(crate) fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0) / 1024
}

/// How many UDP datagrams the kernel has dropped because a buffer was full. No others may be
/// missing ([proc_pid_net(5)](https://man7.org/linux/man-pages/man5/proc_pid_net.5.html)).
pub(crate) fn dropped_by_kernel() -> u64 {
    let counters = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut udp = counters.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (udp.next(), udp.next()) else { return 0 };
    let counters = names.split(' ').zip(values.split(' '));
    let drops = counters.filter(|(name, _)| matches!(*name, "RcvbufErrors" | "SndbufErrors"));
    drops.map(|(_, number)| number.parse().unwrap_or(0)).sum()
}
