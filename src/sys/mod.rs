//! The system calls that std lacks, as small safe pieces.
//!
//! `unsafe` is allowed here and nowhere else in the crate.

pub(crate) mod process;
pub(crate) mod shared;
pub(crate) mod socket;
pub(crate) mod wait;
