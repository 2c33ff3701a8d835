//! Forked children: `SIGCHLD` says that one has exited. Each is reaped by its process id, and no other
//! process is.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::process::prepare_to_fork;
use super::sigchld::Exits;
use crate::sys::exit::Exit;
use crate::sys::signals::keep_exit_statuses;

/// What a system lacks that cannot watch children.
pub(crate) const NEEDS: &str = "watch children";

/// The running children, each with a value that is kept until the child is reaped. As a descriptor
/// it is readable when a child may have exited.
#[derive(Debug)]
pub(crate) struct Children<T> {
    running: Mutex<HashMap<i32, Child<T>>>,
    exits: Exits,
}

#[derive(Debug)]
struct Child<T> {
    attached: T,
    /// It has been sent `SIGTERM`.
    is_terminated: bool,
}

/// All systems can watch children.
pub(crate) fn probe() -> io::Result<()> {
    Ok(())
}

impl<T> Children<T> {
    /// `SIGCHLD` is not ignored from now on.
    pub(crate) fn new() -> io::Result<Children<T>> {
        keep_exit_statuses()?;
        // Takes its descriptors now, and not with the first child.
        prepare_to_fork()?;
        Ok(Children { running: Mutex::default(), exits: Exits::watch()? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.lock().is_empty()
    }

    /// Watches a child that was just forked.
    pub(crate) fn add(&self, pid: Pid, attached: T) -> io::Result<()> {
        let child = Child { attached, is_terminated: false };
        self.running.lock().insert(pid.as_raw_nonzero().get(), child);
        // It may have exited before that.
        self.exits.note();
        Ok(())
    }

    /// Reaps the children that have exited, without blocking. Each is returned with its process id
    /// and its exit, which is `None` if another call in this process reaped it.
    pub(crate) fn reap(&self) -> Vec<(i32, Option<Exit>, T)> {
        if !self.exits.take() {
            return Vec::new();
        }
        let mut reaped = Vec::new();
        let mut running = self.running.lock();
        let exited = running.extract_if(|pid, _| {
            let status = waitpid(Pid::from_raw(*pid), WaitOptions::NOHANG);
            let exit = match status {
                Ok(None) => return false,
                Ok(Some((_, status))) => {
                    Some(Exit::new(status.exit_status(), status.terminating_signal()))
                }
                Err(_) => None,
            };
            reaped.push((*pid, exit));
            true
        });
        let attached: Vec<_> = exited.map(|(_, child)| child.attached).collect();
        reaped.into_iter().zip(attached).map(|((pid, exit), value)| (pid, exit, value)).collect()
    }

    /// Sends every child `SIGTERM`, or `SIGKILL` if `kill` is set.
    pub(crate) fn terminate(&self, kill: bool) {
        self.terminate_if(kill, |_, _| true);
    }

    /// Sends those whose connection's read side was shut in this process the `SIGTERM` that drains it:
    /// that cannot be shut here without discarding what the child has not read yet.
    pub(crate) fn drain(&self, is_read_shutdown: impl Fn(&T) -> bool) {
        self.terminate_if(false, |_, attached| is_read_shutdown(attached));
    }

    /// As [`terminate`](Children::terminate), those for which `condition`, with the process id and the
    /// value, is true. Each is sent `SIGTERM` once, since a second one would kill it.
    pub(crate) fn terminate_if(&self, kill: bool, mut condition: impl FnMut(i32, &T) -> bool) {
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        for (pid, child) in &mut *self.running.lock() {
            if let Some(process) = Pid::from_raw(*pid)
                && (kill || !child.is_terminated)
                && condition(*pid, &child.attached)
            {
                child.is_terminated = true;
                // The process id is the child's until it is reaped, which takes the lock.
                let _ = kill_process(process, signal);
            }
        }
    }

    /// Calls `call` with the process id and the value of every child.
    pub(crate) fn for_each(&self, mut call: impl FnMut(i32, &T)) {
        self.running.lock().iter().for_each(|(pid, child)| call(*pid, &child.attached));
    }

    /// In a forked child: forgets its siblings. The attached values are not dropped, because the
    /// siblings still run.
    pub(crate) fn forget(&self) {
        // Another thread of the parent may have held the lock at the fork. This process has no
        // such thread, so the lock is never released here.
        if let Some(mut running) = self.running.try_lock() {
            running.drain().for_each(|(_, child)| std::mem::forget(child.attached));
        }
    }
}

impl<T> AsFd for Children<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exits.as_fd()
    }
}
