//! The signals of a forked child, which `SIGINT` and `SIGTERM` end gracefully, and `SIGCHLD` of its
//! parent.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::platform::process::end_input;
pub(crate) use super::platform::process::end_with_parent;

/// A guard that blocks `SIGINT` and `SIGTERM` for this thread until it is dropped
/// ([pthread_sigmask(3)](https://man7.org/linux/man-pages/man3/pthread_sigmask.3.html)). A signal
/// that arrives meanwhile is delivered then.
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    pub(super) fn block() -> io::Result<BlockedSignals> {
        // SAFETY: a `sigset_t` is an array of integers, for which zeros are a valid value. Each
        // call gets pointers to local sets that live during the call; `blocked` is initialized by
        // `sigemptyset` before the others read it.
        unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut blocked);
            libc::sigaddset(&mut blocked, libc::SIGINT);
            libc::sigaddset(&mut blocked, libc::SIGTERM);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, &mut before) {
                0 => Ok(BlockedSignals { before }),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` was filled in by the call in `block`; a null pointer means that the
        // present mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// The descriptor that the signal handler of a child uses: the connection that it shuts down, or the
/// pipe that it writes to; -1: none.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);

extern "C" fn drain_connection(_signal: libc::c_int) {
    // It may change `errno` for the interrupted code, which then reports a wrong error: once for each
    // signal at most (`SA_RESETHAND`), in a process that is about to exit.
    end_input(DESCRIPTOR.load(Ordering::Relaxed));
}

extern "C" fn write_to_pipe(_signal: libc::c_int) {
    // SAFETY: `write` gets a pointer to one static byte, and the length of one. It is async-signal-safe
    // (signal-safety(7)), as is the load of an atomic. The descriptor is that of a pipe which stays open
    // as long as this process. As above, `errno` may change for the interrupted code, once for each
    // signal.
    unsafe { libc::write(DESCRIPTOR.load(Ordering::Relaxed), c"!".as_ptr().cast(), 1) };
}

/// Installs handlers by which the first `SIGINT`, and the first `SIGTERM`, end this child
/// gracefully: the read side of its connection is shut down, so that the handler reads EOF after
/// what was received. The second signal of the same kind kills it. They replace the parent's
/// handlers, which would stop its server. A signal that is ignored stays ignored.
pub(crate) fn drain_on_signals(connection: Option<BorrowedFd<'_>>) {
    handle_once(connection.map_or(-1, |fd| fd.as_raw_fd()), drain_connection);
}

/// The same for a child that is a whole server: the handlers write a byte to its shutdown pipe. This
/// keeps the pipe open.
pub(crate) fn write_on_signals(pipe: OwnedFd) {
    handle_once(pipe.into_raw_fd(), write_to_pipe);
}

fn handle_once(descriptor: RawFd, handler: extern "C" fn(libc::c_int)) {
    DESCRIPTOR.store(descriptor, Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a `sigaction` consists of integers and an optional function pointer, for which
        // zeros are valid values (default action, empty mask). Both calls get pointers to a local
        // one that lives during the call. The handler is an `extern "C"` function of one integer,
        // as is required without `SA_SIGINFO`, and async-signal-safe (see at both of them).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            if action.sa_sigaction != libc::SIG_IGN {
                action = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as libc::sighandler_t;
                action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

/// Has the kernel keep the exit status of each child until it is waited for. With `SIGCHLD` ignored,
/// which a process inherits, or with `SA_NOCLDWAIT`, it would reap children by itself
/// ([sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html)). A handler for the signal
/// stays installed.
pub(crate) fn keep_exit_statuses() -> io::Result<()> {
    // SAFETY: zeros are valid values for a `sigaction`, as above. Both calls get pointers to a local
    // one that lives during the call. What is installed is the action that was there, or the default
    // one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut action) != 0 {
            return Err(io::Error::last_os_error());
        }
        let is_ignored = action.sa_sigaction == libc::SIG_IGN;
        if !is_ignored && action.sa_flags & libc::SA_NOCLDWAIT == 0 {
            return Ok(());
        }
        if is_ignored {
            action.sa_sigaction = libc::SIG_DFL;
        }
        action.sa_flags &= !libc::SA_NOCLDWAIT;
        match libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Calls the handler that an action names, with the arguments that the kernel has passed to another one;
/// `false` if it names none.
#[cfg_attr(not(feature = "fibers"), allow(dead_code))]
pub(super) fn call_handler(
    action: &libc::sigaction,
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) -> bool {
    if [libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) {
        return false;
    }
    // SAFETY: sigaction(2) returned this value as the address of a handler (it is not `SIG_DFL` or
    // `SIG_IGN`), and its flags tell which of the two signatures it has. It gets the arguments that the
    // kernel passed to the handler that calls this.
    unsafe {
        if action.sa_flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(action.sa_sigaction);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(action.sa_sigaction);
            handler(signal);
        }
    }
    true
}
