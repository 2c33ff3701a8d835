#![doc = include_str!("../README.md")]

mod appender;
mod backplane;
mod config;
mod error;
mod outbox;
mod reader;
mod shared;

pub use backplane::Redis;
pub use error::Error;
