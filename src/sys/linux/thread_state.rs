//! What another thread of this process does: [`ThreadState`].

use std::fmt;

pub(crate) use rustix::thread::{Pid as ThreadId, gettid as current_thread};

/// Whether a thread runs, or what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadState {
    /// It computes, or would if a processor were free.
    Running,
    /// It is blocked in this system call.
    SystemCall(i64),
}

impl ThreadState {
    /// From `/proc/self/task/TID/syscall`
    /// ([proc_pid_syscall(5)](https://man7.org/linux/man-pages/man5/proc_pid_syscall.5.html)). `None`
    /// where that cannot be read: the kernel may lack it, and a container may hide it.
    pub(crate) fn of(thread: ThreadId) -> Option<ThreadState> {
        let path = format!("/proc/self/task/{}/syscall", thread.as_raw_nonzero());
        ThreadState::parse(&std::fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<ThreadState> {
        match text.split_whitespace().next()? {
            "running" => Some(ThreadState::Running),
            number => Some(match number.parse().ok()? {
                // Blocked outside of a call, as by a page fault.
                -1 => ThreadState::Running,
                number => ThreadState::SystemCall(number),
            }),
        }
    }
}

/// The verb, as in "the thread ...".
impl fmt::Display for ThreadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ThreadState::Running => f.write_str("computes"),
            ThreadState::SystemCall(libc::SYS_futex) => {
                f.write_str("waits for a lock or a condition variable (futex)")
            }
            ThreadState::SystemCall(number) => match name_of(number) {
                Some(name) => write!(f, "is in the system call {name}"),
                None => write!(f, "is in the system call {number}"),
            },
        }
    }
}

macro_rules! names {
    ($($(#[$cfg:meta])* $name:ident = $number:ident,)*) => {
        /// The name of a call that blocks often; its number differs between processors.
        fn name_of(number: i64) -> Option<&'static str> {
            $($(#[$cfg])* if number == libc::$number as i64 {
                return Some(stringify!($name));
            })*
            None
        }
    };
}

names! {
    read = SYS_read,
    write = SYS_write,
    readv = SYS_readv,
    writev = SYS_writev,
    pread64 = SYS_pread64,
    pwrite64 = SYS_pwrite64,
    openat = SYS_openat,
    close = SYS_close,
    fsync = SYS_fsync,
    fdatasync = SYS_fdatasync,
    flock = SYS_flock,
    fcntl = SYS_fcntl,
    ioctl = SYS_ioctl,
    getdents64 = SYS_getdents64,
    splice = SYS_splice,
    connect = SYS_connect,
    recvfrom = SYS_recvfrom,
    recvmsg = SYS_recvmsg,
    sendto = SYS_sendto,
    sendmsg = SYS_sendmsg,
    accept4 = SYS_accept4,
    ppoll = SYS_ppoll,
    pselect6 = SYS_pselect6,
    epoll_pwait = SYS_epoll_pwait,
    nanosleep = SYS_nanosleep,
    clock_nanosleep = SYS_clock_nanosleep,
    wait4 = SYS_wait4,
    waitid = SYS_waitid,
    #[cfg(target_arch = "x86_64")] open = SYS_open,
    #[cfg(target_arch = "x86_64")] accept = SYS_accept,
    #[cfg(target_arch = "x86_64")] poll = SYS_poll,
    #[cfg(target_arch = "x86_64")] select = SYS_select,
    #[cfg(target_arch = "x86_64")] epoll_wait = SYS_epoll_wait,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_state_is_read_from_the_first_word() {
        let parse = |text: &str| ThreadState::parse(text).map(|state| state.to_string());
        assert_eq!(parse("running\n").unwrap(), "computes");
        assert_eq!(parse("-1 0x7ffd 0x7f78\n").unwrap(), "computes");
        let read = format!("{} 0x3 0x0 0x1 0x0 0x0 0x0 0x7ffd 0x7f78\n", libc::SYS_read);
        assert_eq!(parse(&read).unwrap(), "is in the system call read");
        assert_eq!(parse("9999 0x0\n").unwrap(), "is in the system call 9999");
        let futex = parse(&format!("{} 0x0\n", libc::SYS_futex)).unwrap();
        assert_eq!(futex, "waits for a lock or a condition variable (futex)");
        assert_eq!([parse(""), parse("what?")], [None, None]);
    }

    #[test]
    fn a_thread_that_waits_is_seen_in_its_system_call() {
        let (sender, receiver) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let waits = move || {
            sender.send(current_thread()).unwrap();
            _ = ended.recv();
        };
        let thread = thread::spawn(waits);
        let id = receiver.recv().unwrap();
        let futex = Some(ThreadState::SystemCall(libc::SYS_futex));
        let began = Instant::now();
        // Not where the file is hidden.
        while ThreadState::of(id).is_some_and(|state| Some(state) != futex) {
            assert!(began.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
        drop(end);
        thread.join().unwrap();
    }
}
