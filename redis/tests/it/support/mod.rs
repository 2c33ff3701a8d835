//! What the tests share.

pub(crate) mod redis;
pub(crate) mod room;
