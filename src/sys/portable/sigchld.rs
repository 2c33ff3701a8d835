//! [`Exits`]: `SIGCHLD` as a descriptor.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::raw::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use rustix::process::getpid;

use super::pipe::pipe;
use crate::sys::native;
use crate::sys::signals::call_handler;

/// Readable after a child of this process has exited, until [`take`](Exits::take).
///
/// It is a pipe, to which a signal handler writes. The handler calls the one that was there before. A
/// program that installs one of its own later has to call this one.
#[derive(Debug)]
pub(super) struct Exits {
    slot: &'static Slot,
    /// A forked child must not give it back.
    owner: i32,
}

/// A pipe that is never closed, because the handler may be about to write to it.
#[derive(Debug)]
struct Slot {
    /// The writing end, for the handler; -1 before it is made.
    writer: AtomicI32,
    pipe: OnceLock<(OwnedFd, OwnedFd)>,
    is_used: Mutex<bool>,
}

/// As many servers of a process can watch children at a time.
static SLOTS: [Slot; 8] = [const {
    Slot { writer: AtomicI32::new(-1), pipe: OnceLock::new(), is_used: Mutex::new(false) }
}; 8];

impl Exits {
    pub(super) fn watch() -> io::Result<Exits> {
        let slot = SLOTS.iter().find(|slot| !std::mem::replace(&mut *slot.is_used.lock(), true));
        let slot = slot.ok_or_else(|| io::Error::other("too many servers watch children"))?;
        let exits = Exits { slot, owner: getpid().as_raw_nonzero().get() };
        if slot.pipe.get().is_none() {
            let pipe = pipe()?;
            let (_, write) = slot.pipe.get_or_init(|| pipe);
            slot.writer.store(write.as_raw_fd(), Ordering::SeqCst);
        }
        install_handler()?;
        Ok(exits)
    }

    /// Makes it readable.
    pub(super) fn note(&self) {
        if let Some((_, write)) = self.slot.pipe.get() {
            // `WouldBlock`: the pipe is full, and so readable.
            let _ = rustix::io::write(write, b"!");
        }
    }

    /// Whether a child may have exited since the last call.
    pub(super) fn take(&self) -> bool {
        let mut bytes = [0; 256];
        let mut any = false;
        while let Ok(length @ 1..) = rustix::io::read(self.as_fd(), &mut bytes) {
            any = true;
            if length < bytes.len() {
                break;
            }
        }
        any
    }
}

impl AsFd for Exits {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.slot.pipe.get() {
            Some((read, _)) => read.as_fd(),
            None => unreachable!("`watch` has made it"),
        }
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        if self.owner == getpid().as_raw_nonzero().get() {
            *self.slot.is_used.lock() = false;
        }
    }
}

/// The action that was there before.
struct Previous(libc::sigaction);

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

fn install_handler() -> io::Result<()> {
    // SAFETY: a `sigaction` consists of integers and an optional function pointer, for which zeros are
    // valid values. Each call gets pointers to local ones that live during it. The handler has the
    // signature that `SA_SIGINFO` requires, and is async-signal-safe (see there). What was there before
    // is stored before the handler can run.
    unsafe {
        let mut present: libc::sigaction = zeroed();
        if libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut present) != 0 {
            return Err(io::Error::last_os_error());
        }
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_exit;
        if present.sa_sigaction == handler as usize {
            return Ok(());
        }
        PREVIOUS.get_or_init(|| Previous(present));
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        match libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

extern "C" fn on_exit(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    for slot in &SLOTS {
        let writer = slot.writer.load(Ordering::SeqCst);
        if writer != -1 {
            // SAFETY: `write` gets a pointer to one static byte, and the length of one. It is
            // async-signal-safe, as is the load of an atomic. The pipe is never closed. The interrupted
            // code finds `errno` as it was.
            unsafe {
                let errno = native::errno();
                let before = *errno;
                libc::write(writer, c"!".as_ptr().cast(), 1);
                *errno = before;
            }
        }
    }
    if let Some(Previous(action)) = PREVIOUS.get() {
        call_handler(action, signal, info, context);
    }
}
