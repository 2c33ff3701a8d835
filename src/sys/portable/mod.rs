//! The twins of `linux`, for other Unix systems. They use what POSIX has.

pub(crate) mod children;
pub(crate) mod exec;
pub(super) mod pipe;
pub(crate) mod poller;
pub(super) mod process;
mod sigchld;
pub(crate) mod socket;
pub(crate) mod socket_file;
pub(crate) mod splice;
#[cfg(feature = "fibers")]
pub(super) mod stack;
#[cfg(feature = "fibers")]
pub(crate) mod thread_state;
pub(crate) mod unix_name;
pub(crate) mod waker;
