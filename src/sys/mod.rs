//! The system calls that std lacks, as small safe pieces.
//!
//! `unsafe` is allowed here and nowhere else in the crate.

#[cfg(feature = "fibers")]
pub(crate) mod fiber;
#[cfg(feature = "fibers")]
pub(crate) mod poller;
#[cfg(feature = "fibers")]
pub(crate) mod prefetch;
pub(crate) mod process;
pub(crate) mod shared;
pub(crate) mod socket;
#[cfg(feature = "fibers")]
pub(crate) mod stack;
pub(crate) mod wait;
