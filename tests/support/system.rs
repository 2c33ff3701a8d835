//! What the system knows about processes: threads, descriptors, children, limits.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions, getrlimit, setrlimit};

/// The number of threads of this process that serve, by their name.
pub(crate) fn serving_threads() -> usize {
    threads_named("socketserver")
}

pub(crate) fn threads_named(expected: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == expected).count()
}

/// The number of open descriptors of this process.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Raises the limit on descriptors, of this process and those that it starts, to its maximum, and
/// returns that.
pub(crate) fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.map_or(usize::MAX, |most| most as usize)
}

/// A field of [proc_pid_status(5)], up to the first space.
///
/// [proc_pid_status(5)]: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
#[track_caller]
pub(crate) fn status_of(pid: Pid, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut fields = status.lines().filter_map(|line| line.split_once(":\t"));
    let value = fields.find(|(name, _)| *name == field).unwrap().1;
    value.split_whitespace().next().unwrap().to_owned()
}

pub(crate) fn pid_of(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

/// Whether ports below 1024 (or what the system is set to) are reserved.
pub(crate) fn has_privileged_ports() -> bool {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    first.is_ok_and(|first| first.trim().parse::<u16>().unwrap() > 1)
}

/// Takes the right to bind privileged ports from this thread, and from the programs that it starts.
#[cfg(target_os = "linux")]
pub(crate) fn drop_port_privilege() {
    use rustix::thread::{
        CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
        set_capabilities,
    };
    let lost = CapabilitySet::NET_BIND_SERVICE;
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None).unwrap();
    if permitted.contains(lost) {
        remove_capability_from_bounding_set(lost).unwrap();
        let rest = CapabilitySets {
            effective: effective - lost,
            permitted: permitted - lost,
            inheritable: inheritable - lost,
        };
        set_capabilities(None, rest).unwrap();
    }
}

/// Other systems have no such right.
#[cfg(not(target_os = "linux"))]
pub(crate) fn drop_port_privilege() {}

/// Two children of this process that do not belong to a server: one has ended and is a zombie, the
/// other is running.
pub(crate) struct Bystanders {
    ended: Child,
    running: Child,
}

impl Bystanders {
    pub(crate) fn start() -> Bystanders {
        let shell = |script| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script]).stdin(Stdio::piped());
            shell.spawn().unwrap()
        };
        let (ended, running) = (shell("exit 7"), shell("read line; exit 8"));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(Pid::from_child(&ended)), options).unwrap();
        Bystanders { ended, running }
    }

    /// Neither has been reaped, and the other runs until its input ends.
    #[track_caller]
    pub(crate) fn are_unharmed(mut self) {
        assert_eq!(self.ended.wait().unwrap().code(), Some(7));
        assert!(self.running.try_wait().unwrap().is_none());
        drop(self.running.stdin.take());
        assert_eq!(self.running.wait().unwrap().code(), Some(8));
    }
}
