//! What each system has in its own way, all with the same face: of what is compiled for macOS and FreeBSD,
//! the only code that was never run.

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
mod bsd;
#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_vendor = "apple")]
pub(crate) use apple::*;
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub(crate) use bsd::*;
#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::*;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
