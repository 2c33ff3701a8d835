//! The system calls that std lacks, as small safe pieces.
//!
//! `unsafe` is allowed here and nowhere else in the crate.

pub(crate) mod children;
pub(crate) mod descriptors;
pub(crate) mod epoll;
#[cfg(feature = "fibers")]
pub(crate) mod fiber;
pub(crate) mod fork;
pub(crate) mod poll;
#[cfg(feature = "fibers")]
pub(crate) mod prefetch;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod socket;
#[cfg(feature = "fibers")]
pub(crate) mod stack;
pub(crate) mod waker;
