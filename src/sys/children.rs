//! Forked children: watched by pidfd, reaped, signalled.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// The children that are running, each with something that lives as long as it: readable, as one
/// descriptor, when one of them has ended
/// ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)).
#[derive(Debug)]
pub(crate) struct Children<T> {
    running: Mutex<HashMap<i32, Child<T>>>,
    ended: OwnedFd,
}

#[derive(Debug)]
struct Child<T> {
    descriptor: OwnedFd,
    attached: T,
}

impl<T> Children<T> {
    pub(crate) fn new() -> io::Result<Children<T>> {
        let ended = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Children { running: Mutex::default(), ended })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.lock().is_empty()
    }

    /// Takes charge of a child that was just forked. One that cannot be watched, for want of a
    /// descriptor, is killed: no child is ever left to run unseen or to become a zombie.
    pub(crate) fn add(&self, pid: Pid, attached: T) -> io::Result<()> {
        let watch = || {
            let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            let token = epoll::EventData::new_u64(pid.as_raw_nonzero().get() as u64);
            epoll::add(&self.ended, &descriptor, token, epoll::EventFlags::IN)?;
            Ok(descriptor)
        };
        match watch() {
            Ok(descriptor) => {
                self.running
                    .lock()
                    .insert(pid.as_raw_nonzero().get(), Child { descriptor, attached });
                Ok(())
            }
            Err(error) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(error)
            }
        }
    }

    /// Reaps the children that have ended, without waiting.
    pub(crate) fn reap(&self) -> Vec<(i32, Option<Exit>, T)> {
        let mut events = [MaybeUninit::uninit(); 64];
        let mut reaped = Vec::new();
        loop {
            let at_once = Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 });
            let Ok((events @ [_, ..], _)) = epoll::wait(&self.ended, &mut events, at_once) else {
                return reaped;
            };
            for event in events {
                let pid = event.data.u64() as i32;
                let child = self.running.lock().remove(&pid);
                if let Some(child) = child {
                    // Closing it does not: a sibling that was forked meanwhile may have it open.
                    let _ = epoll::delete(&self.ended, &child.descriptor);
                    let id = WaitId::PidFd(child.descriptor.as_fd());
                    let status = rustix::process::waitid(id, WaitIdOptions::EXITED).ok().flatten();
                    reaped.push((pid, status.as_ref().map(Exit::of), child.attached));
                }
            }
        }
    }

    /// Sends all of them `SIGTERM`, or `SIGKILL`.
    pub(crate) fn terminate(&self, kill: bool) {
        for child in self.running.lock().values() {
            let signal = if kill { Signal::KILL } else { Signal::TERM };
            // A child that has just ended needs no signal.
            let _ = rustix::process::pidfd_send_signal(&child.descriptor, signal);
        }
    }

    /// In a child: lets go of its siblings, but drops nothing that lives as long as they: they
    /// live.
    pub(crate) fn forget(&self) {
        // Should another thread have held the lock, nobody will ever release it in this process.
        if let Some(mut running) = self.running.try_lock() {
            for (_, sibling) in running.drain() {
                std::mem::forget(sibling.attached);
            }
        }
    }
}

impl<T> AsFd for Children<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Exit {
        match status.exit_status() {
            Some(status) => Exit::Status(status),
            None => Exit::Signal(status.terminating_signal().unwrap_or_default()),
        }
    }

    pub(crate) fn is_success(self) -> bool {
        self == Exit::Status(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exited with status {status}"),
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}
