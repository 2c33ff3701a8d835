//! What was counted, what went wrong, and what the process holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{fs, thread};

use parking_lot::Mutex;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its answer came, byte by byte what it must be.
    Answered,
    /// The server said that it is full, or there was none between a stop and the next start.
    Refused,
    /// Not answered, and never promised to be: its server was stopping already, or was stopped
    /// without time for answers, or the client itself was slower than the server's limits allow.
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

/// Everything else that happens.
#[derive(Default)]
pub(crate) struct Tally {
    complaints: Mutex<Vec<String>>,
    events: Mutex<BTreeMap<&'static str, BTreeMap<String, u64>>>,
}

impl Tally {
    /// Something that must not be.
    pub(crate) fn complain(&self, what: String) {
        eprintln!("soak: {what}");
        self.complaints.lock().push(what);
    }

    pub(crate) fn complaints(&self) -> usize {
        self.complaints.lock().len()
    }

    /// Something that is counted by its kind and name.
    pub(crate) fn note(&self, kind: &'static str, name: impl ToString, times: u64) {
        let mut events = self.events.lock();
        *events.entry(kind).or_default().entry(name.to_string()).or_default() += times;
    }

    pub(crate) fn total(&self, kind: &str) -> u64 {
        self.events.lock().get(kind).map_or(0, |events| events.values().sum())
    }

    pub(crate) fn print(&self) {
        for (kind, events) in &*self.events.lock() {
            let events: Vec<_> = events.iter().map(|(name, n)| format!("{name} {n}")).collect();
            println!("{kind}: {}", events.join(", "));
        }
        let complaints = self.complaints.lock();
        for complaint in complaints.iter().take(20) {
            println!("FAILED: {complaint}");
        }
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

    /// As they are once threads that were joined are gone for the system too.
    pub(crate) fn settled(expected: Resources) -> Resources {
        let give_up = Instant::now() + Duration::from_secs(1);
        while Resources::now() != expected && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        Resources::now()
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
    let names = names.split(' ').zip(values.split(' '));
    let drops =
        names.filter(|(name, _)| ["RcvbufErrors", "SndbufErrors", "MemErrors"].contains(name));
    drops.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}
