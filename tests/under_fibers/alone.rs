//! The modules of `tests/alone` that are about `Threading`, except `threads.rs`, which holds for threads
//! only.

#[path = "../alone/accept_errors.rs"]
mod accept_errors;
#[path = "../alone/cpython.rs"]
mod cpython;
#[path = "../alone/descriptors.rs"]
mod descriptors;
#[path = "../alone/draining.rs"]
mod draining;
#[path = "../support/harness.rs"]
mod harness;
#[path = "../alone/stopping.rs"]
mod stopping;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;

use harness::Test;

const TESTS: &[&[Test]] =
    &[accept_errors::TESTS, cpython::TESTS, descriptors::TESTS, stopping::TESTS, draining::TESTS];

fn main() -> ExitCode {
    harness::run_one_at_a_time(&TESTS.concat())
}
