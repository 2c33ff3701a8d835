//! Forked children: each is watched through a pidfd, reaped when it exits, and sent signals.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::sys::exit::Exit;
use crate::sys::signals::keep_exit_statuses;

/// The running children, each with a value that is kept until the child is reaped. As a descriptor
/// it is readable when a child has exited
/// ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)).
#[derive(Debug)]
pub(crate) struct Children<T> {
    running: Mutex<HashMap<i32, Child<T>>>,
    /// Polls the pidfds.
    epoll: OwnedFd,
}

#[derive(Debug)]
struct Child<T> {
    pidfd: OwnedFd,
    attached: T,
}

/// Fails if this system has no pidfds, or a filter of system calls forbids them
/// ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).
pub(crate) fn probe() -> io::Result<()> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(own.as_fd()), options) {
        // No process is its own child.
        Ok(_) | Err(Errno::CHILD) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl<T> Children<T> {
    /// `SIGCHLD` is not ignored from now on.
    pub(crate) fn new() -> io::Result<Children<T>> {
        keep_exit_statuses()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Children { running: Mutex::default(), epoll })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.running.lock().is_empty()
    }

    /// Watches a child that was just forked, unless it has exited and something else in this process
    /// has reaped it. If that fails, for example for want of a descriptor,
    /// the child is killed and reaped, so that it neither runs unwatched nor stays a zombie.
    pub(crate) fn add(&self, pid: Pid, attached: T) -> io::Result<()> {
        let watch = || {
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            let token = epoll::EventData::new_u64(pid.as_raw_nonzero().get() as u64);
            epoll::add(&self.epoll, &pidfd, token, epoll::EventFlags::IN)?;
            Ok(pidfd)
        };
        match watch() {
            Ok(pidfd) => {
                let child = Child { pidfd, attached };
                self.running.lock().insert(pid.as_raw_nonzero().get(), child);
                Ok(())
            }
            // There is no such child any more, and its process id may be that of another process.
            Err(Errno::SRCH) => Ok(()),
            Err(error) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(error.into())
            }
        }
    }

    /// Reaps the children that have exited, without blocking. Each is returned with its process id
    /// and its exit, which is `None` if another call in this process reaped it.
    pub(crate) fn reap(&self) -> Vec<(i32, Option<Exit>, T)> {
        let mut events = [MaybeUninit::uninit(); 64];
        let mut reaped = Vec::new();
        loop {
            let at_once = Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 });
            let Ok((events @ [_, ..], _)) = epoll::wait(&self.epoll, &mut events, at_once) else {
                return reaped;
            };
            for event in events {
                let pid = event.data.u64() as i32;
                let child = self.running.lock().remove(&pid);
                if let Some(child) = child {
                    // Closing the pidfd is not enough: a child that was forked since has a copy,
                    // and epoll(7) watches the file until its last descriptor is closed.
                    let _ = epoll::delete(&self.epoll, &child.pidfd);
                    let id = WaitId::PidFd(child.pidfd.as_fd());
                    let status = rustix::process::waitid(id, WaitIdOptions::EXITED).ok().flatten();
                    reaped.push((pid, status.as_ref().map(exit_of), child.attached));
                }
            }
        }
    }

    /// Sends every child `SIGTERM`, or `SIGKILL` if `kill` is set.
    pub(crate) fn terminate(&self, kill: bool) {
        self.terminate_if(kill, |_, _| true);
    }

    /// Does nothing: a stop shuts the read side of a child's connection in this process, and the child
    /// reads what was received before that.
    pub(crate) fn drain(&self, _is_read_shutdown: impl Fn(&T) -> bool) {}

    /// The same for those for which `condition`, with the process id and the value, is true.
    pub(crate) fn terminate_if(&self, kill: bool, mut condition: impl FnMut(i32, &T) -> bool) {
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        for (pid, child) in &*self.running.lock() {
            if condition(*pid, &child.attached) {
                // Fails if the child has exited and is not reaped yet.
                let _ = rustix::process::pidfd_send_signal(&child.pidfd, signal);
            }
        }
    }

    /// Calls `call` with the process id and the value of every child.
    pub(crate) fn for_each(&self, mut call: impl FnMut(i32, &T)) {
        self.running.lock().iter().for_each(|(pid, child)| call(*pid, &child.attached));
    }

    /// In a forked child: closes the pidfds of its siblings. The attached values are not dropped,
    /// because the siblings still run.
    pub(crate) fn forget(&self) {
        // Another thread of the parent may have held the lock at the fork. This process has no
        // such thread, so the lock is never released here, and the pidfds stay open.
        if let Some(mut running) = self.running.try_lock() {
            for (_, sibling) in running.drain() {
                std::mem::forget(sibling.attached);
            }
        }
    }
}

impl<T> AsFd for Children<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    Exit::new(status.exit_status(), status.terminating_signal())
}

/// What a system lacks that cannot watch children.
pub(crate) const NEEDS: &str = "use pidfd_open, which a forking server needs";
