//! The system calls that std lacks, as small safe pieces.
//!
//! `unsafe` is allowed here and nowhere else in the crate; in fact only [`process`] needs it.

pub(crate) mod process;
pub(crate) mod socket;
pub(crate) mod wait;
