//! A room over a real Redis. Each test starts a `redis-server` of its own.

#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../../../tests/support/harness.rs"]
mod harness;
#[path = "../../../tests/common/process.rs"]
mod process;

mod backplane;
mod redis_failures;
mod redis_server;
mod room;
mod server_processes;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[backplane::TESTS, redis_failures::TESTS, server_processes::TESTS].concat())
}
