//! System calls that std lacks, behind safe functions and types. This is the only module that
//! contains `unsafe` code.
//!
//! What Linux has beyond [POSIX] is in `linux`, and has a twin behind the same face in `portable`: for
//! macOS and FreeBSD, and for Linux too with `--cfg socketserver_portable`, by which it is tested. Both
//! use `native`, which is what each system has in its own way.
//!
//! [POSIX]: https://pubs.opengroup.org/onlinepubs/9799919799/

#[cfg(all(target_os = "linux", not(socketserver_portable)))]
mod linux;
mod native;
#[cfg(not(all(target_os = "linux", not(socketserver_portable))))]
mod portable;

#[cfg(all(target_os = "linux", not(socketserver_portable)))]
use linux as platform;
#[cfg(not(all(target_os = "linux", not(socketserver_portable))))]
use portable as platform;

#[cfg(feature = "fibers")]
pub(crate) use platform::thread_state;
pub(crate) use platform::{children, exec, poller, socket_file, splice, unix_name};

pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod exit;
#[cfg(feature = "fibers")]
pub(crate) mod fiber;
pub(crate) mod fork;
pub(crate) mod inherited;
pub(crate) mod job;
pub(crate) mod pktinfo;
pub(crate) mod poll;
#[cfg(feature = "fibers")]
pub(crate) mod prefetch;
pub(crate) mod raw_lock;
mod readiness;
pub(crate) mod rights;
pub(crate) mod scope;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod socket;
#[cfg(feature = "fibers")]
pub(crate) mod stack;
pub(crate) mod waker;
