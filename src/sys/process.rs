//! Forking: one child per request, reaped by its own descriptor.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll;
pub(crate) use rustix::process::Pid;
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// A promise to fork although the process has other threads; see
/// [`Forking::with_other_threads`](crate::Forking::with_other_threads).
#[derive(Clone, Copy, Debug)]
pub struct ForkDespiteThreads(());

impl ForkDespiteThreads {
    /// Makes the promise.
    ///
    /// # Safety
    /// A forked child has only the thread that forked. Whatever another thread held at that
    /// moment (the allocator, the logger, standard output, any mutex) stays held in the child for
    /// ever. The caller vouches that no handler, nor anything it calls, waits for such a lock, and
    /// that no data which another thread was changing is used in a child ([fork(2)]).
    ///
    /// [fork(2)]: https://man7.org/linux/man-pages/man2/fork.2.html
    pub unsafe fn new() -> ForkDespiteThreads {
        ForkDespiteThreads(())
    }
}

/// How many threads this process has besides the caller, read off the link count of
/// `/proc/self/task` ([proc(5)](https://man7.org/linux/man-pages/man5/proc.5.html)).
pub(crate) fn other_threads() -> io::Result<usize> {
    let links = rustix::fs::stat("/proc/self/task")?.st_nlink;
    Ok((links as usize).saturating_sub(3))
}

/// How long a thread that has been joined may still be counted: joining it waits for the thread's
/// word that it ends, which comes a little before the system has forgotten it.
const THREAD_EXIT_GRACE: Duration = Duration::from_millis(100);

/// Leave to fork: the process has one thread, or the user has taken the risk.
pub(crate) struct ForkPermit(());

impl ForkPermit {
    /// `Err` is the number of other threads.
    pub(crate) fn obtain(promise: Option<ForkDespiteThreads>) -> io::Result<Result<Self, usize>> {
        if promise.is_some() {
            return Ok(Ok(ForkPermit(())));
        }
        let give_up = Instant::now() + THREAD_EXIT_GRACE;
        loop {
            match other_threads()? {
                0 => return Ok(Ok(ForkPermit(()))),
                count if Instant::now() >= give_up => return Ok(Err(count)),
                _ => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent(Pid),
    Child { parent: Pid, signals: BlockedSignals },
}

/// [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html)
pub(crate) fn fork(_permit: ForkPermit) -> io::Result<Fork> {
    let parent = rustix::process::getpid();
    // The parent's handlers are not for the child to run: they would stop the server.
    let signals = BlockedSignals::block()?;
    // SAFETY: the permit says that this is the only thread, so that the child is a whole copy of
    // the process, with nothing half done by anybody else; or that the user vouched for it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child { parent, signals }),
        pid => match Pid::from_raw(pid) {
            Some(pid) => Ok(Fork::Parent(pid)),
            None => Err(io::Error::other("fork returned a negative process id")),
        },
    }
}

/// `SIGINT` and `SIGTERM`, held back from this thread until this is dropped
/// ([pthread_sigmask(3)](https://man7.org/linux/man-pages/man3/pthread_sigmask.3.html)).
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn block() -> io::Result<BlockedSignals> {
        // SAFETY: all-zero sets are valid ones to be overwritten, all pointers are to live sets,
        // and both signals exist.
        unsafe {
            let mut held: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut held);
            libc::sigaddset(&mut held, libc::SIGINT);
            libc::sigaddset(&mut held, libc::SIGTERM);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &held, &mut before) {
                0 => Ok(BlockedSignals { before }),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: a set that the system has filled in, and none to fill in.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Ends this process at once: no destructors, no exit handlers, no flushing of buffers that are
/// the parent's ([_exit(2)](https://man7.org/linux/man-pages/man2/_exit.2.html)).
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// The connection that the signal handler of a child shuts down; -1: none.
static CONNECTION: AtomicI32 = AtomicI32::new(-1);

extern "C" fn drain_connection(_signal: libc::c_int) {
    // SAFETY: `shutdown` is async-signal-safe (signal-safety(7)), and a descriptor that is no
    // socket, or none, is an error that changes nothing. The handler resets itself, so that errno
    // is disturbed once at most, in a process that is about to end.
    unsafe { libc::shutdown(CONNECTION.load(Ordering::Relaxed), libc::SHUT_RD) };
}

/// Has the system send this child `SIGTERM` when its parent is gone (the thread, to be exact, that
/// forked it), so that none is left without anybody who would end it
/// ([PR_SET_PDEATHSIG](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)).
pub(crate) fn end_with_parent(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    if rustix::process::getppid() != Some(parent) {
        // It has gone in the meantime.
        rustix::process::kill_process(rustix::process::getpid(), Signal::TERM)?;
    }
    Ok(())
}

/// Makes the first `SIGINT`, and the first `SIGTERM`, end this child gracefully (its handler reads
/// end-of-file after what was received) and the second of its kind end it at once. What the parent
/// does with these signals (tell its server to stop) is not inherited; a signal that is ignored
/// stays ignored.
pub(crate) fn drain_on_signals(connection: Option<BorrowedFd<'_>>) {
    CONNECTION.store(connection.map_or(-1, |fd| fd.as_raw_fd()), Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero `sigaction` is a valid one (default action, empty mask), both
        // pointers are to live values of that type, and the handler installed is of the type
        // that goes without SA_SIGINFO.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            if action.sa_sigaction != libc::SIG_IGN {
                action = std::mem::zeroed();
                action.sa_sigaction = drain_connection as *const () as libc::sighandler_t;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

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
            Exit::Status(status) => write!(f, "exited attached status {status}"),
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// Puts `/dev/null` in the place of descriptors that a child has inherited and must not hold.
/// Each stays owned and valid where it is, and what was behind it is let go.
#[derive(Debug)]
pub(crate) struct DevNull(OwnedFd);

impl DevNull {
    pub(crate) fn open() -> io::Result<DevNull> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        Ok(DevNull(rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?))
    }

    /// A descriptor that stands for one that is needed in a moment.
    pub(crate) fn reserve(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub(crate) fn replace(&self, inherited: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both numbers are open descriptors, the second of them borrowed from its owner,
        // which goes on owning the same number; only the file behind it changes, in a process
        // that uses it for nothing but closing it, if that.
        match unsafe { libc::dup3(self.0.as_raw_fd(), inherited.as_raw_fd(), libc::O_CLOEXEC) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// How many descriptors this process may have open (`RLIMIT_NOFILE`, the soft limit).
pub(crate) fn descriptor_limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| limit.try_into().unwrap_or(usize::MAX))
}
