//! System calls that std lacks, behind safe functions and types. This is the only module that
//! contains `unsafe` code.

pub(crate) mod children;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod epoll;
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
pub(crate) mod rights;
pub(crate) mod scope;
pub(crate) mod shared;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod splice;
#[cfg(feature = "fibers")]
pub(crate) mod stack;
#[cfg(feature = "fibers")]
pub(crate) mod thread_state;
pub(crate) mod waker;
