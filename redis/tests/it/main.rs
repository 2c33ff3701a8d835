//! A room over a real Redis. Each test starts a `redis-server` of its own.

#[path = "../../../tests/support/harness.rs"]
mod harness;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod backplane;
mod redis_failures;
mod redis_server;
mod room;
mod server_processes;

use std::process::ExitCode;

fn main() -> ExitCode {
    harness::run(&[backplane::TESTS, redis_failures::TESTS, server_processes::TESTS].concat())
}
