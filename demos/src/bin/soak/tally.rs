//! What was counted, what went wrong, and what the process holds.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// What became of a request.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// Its answer came, byte by byte what it must be.
    Answered,
    /// The server said that it is full, or there was none between a stop and the next start.
    Refused,
    /// Not answered, and never promised to be: it was sent when the server was stopping already,
    /// or more slowly than the server's limits allow.
    Excused,
    /// Promised, and not answered.
    Lost,
}

/// The requests of one target.
#[derive(Default)]
pub(crate) struct Count([AtomicU64; 4]);

impl Count {
    pub(crate) fn add(&self, fate: Fate, requests: u64) {
        self.0[fate as usize].fetch_add(requests, Relaxed);
    }

    pub(crate) fn of(&self, fate: Fate) -> u64 {
        self.0[fate as usize].load(Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }
}

static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static EVENTS: Mutex<BTreeMap<&str, BTreeMap<String, u64>>> = Mutex::new(BTreeMap::new());

/// Something that must not be.
pub(crate) fn complain(what: String) {
    eprintln!("soak: {what}");
    COMPLAINTS.lock().push(what);
}

pub(crate) fn all_is_well() -> bool {
    COMPLAINTS.lock().is_empty()
}

/// Something else that happens, counted by its kind and name.
pub(crate) fn note(kind: &'static str, name: impl ToString, times: u64) {
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
    for complaint in COMPLAINTS.lock().iter().take(20) {
        println!("FAILED: {complaint}");
    }
}

/// What the process holds that it must give back.
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

/// How many UDP datagrams this machine's kernel has dropped for want of room: the only ones that
/// may be missing ([proc_pid_net(5)](https://man7.org/linux/man-pages/man5/proc_pid_net.5.html)).
pub(crate) fn dropped_by_kernel() -> u64 {
    let counters = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut udp = counters.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (udp.next(), udp.next()) else { return 0 };
    let counters = names.split(' ').zip(values.split(' '));
    let drops = counters.filter(|(name, _)| matches!(*name, "RcvbufErrors" | "SndbufErrors"));
    drops.map(|(_, number)| number.parse().unwrap_or(0)).sum()
}
