//! Tests that run one at a time. Some count what the process has, or measure times. The servers of
//! others are processes of their own: this program, started again.

mod accept_errors;
mod child_handlers;
mod children;
#[cfg(target_os = "linux")]
mod containers;
mod cpython;
mod descriptors;
mod draining;
mod events;
#[cfg(all(feature = "fibers", target_os = "linux"))]
mod fiber_processes;
#[cfg(feature = "fibers")]
mod fiber_start;
mod forking;
mod good_clients;
mod hand_over;
#[path = "../support/harness.rs"]
mod harness;
mod hostile;
mod hostile_upstreams;
mod inheritance;
mod listeners;
mod look_ups;
mod mixins;
mod prefork;
mod prefork_sizing;
mod proxies;
mod relaying;
#[cfg(target_os = "linux")]
mod scarcity;
mod server_limits;
mod slow_clients;
mod stopped_process;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
mod threads;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
#[path = "../support/tls.rs"]
mod tls_clients;
mod unix_sockets;
#[cfg(all(target_os = "linux", not(socketserver_portable)))]
mod without_pidfd;

use std::process::ExitCode;

use harness::Test;
use support::server_process::{Part, play};

const TESTS: &[&[Test]] = &[
    // Has set the logger of the process before any other test logs.
    accept_errors::TESTS,
    cpython::TESTS,
    descriptors::TESTS,
    listeners::TESTS,
    threads::TESTS,
    stopping::TESTS,
    draining::TESTS,
    forking::TESTS,
    events::TESTS,
    #[cfg(feature = "tracing")]
    events::TRACING_TESTS,
    children::TESTS,
    #[cfg(target_os = "linux")]
    containers::TESTS,
    child_handlers::TESTS,
    inheritance::TESTS,
    #[cfg(all(target_os = "linux", not(socketserver_portable)))]
    without_pidfd::TESTS,
    prefork::TESTS,
    prefork_sizing::TESTS,
    look_ups::TESTS,
    proxies::TESTS,
    relaying::TESTS,
    #[cfg(feature = "fibers")]
    relaying::FIBER_TESTS,
    #[cfg(target_os = "linux")]
    scarcity::TESTS,
    server_limits::TESTS,
    #[cfg(feature = "fibers")]
    fiber_start::TESTS,
    stopped_process::TESTS,
    unix_sockets::TESTS,
    hand_over::TESTS,
    #[cfg(all(feature = "fibers", target_os = "linux"))]
    fiber_processes::TESTS,
    hostile::TESTS,
    hostile_upstreams::TESTS,
    #[cfg(feature = "tls")]
    tls::TESTS,
];

const PARTS: &[&[Part]] = &[
    forking::PARTS,
    events::PARTS,
    children::PARTS,
    child_handlers::PARTS,
    #[cfg(target_os = "linux")]
    containers::PARTS,
    inheritance::PARTS,
    #[cfg(all(target_os = "linux", not(socketserver_portable)))]
    without_pidfd::PARTS,
    listeners::PARTS,
    prefork::PARTS,
    prefork_sizing::PARTS,
    hand_over::PARTS,
    look_ups::PARTS,
    proxies::PARTS,
    relaying::PARTS,
    hostile_upstreams::PARTS,
    #[cfg(target_os = "linux")]
    scarcity::PARTS,
    server_limits::PARTS,
    stopped_process::PARTS,
    unix_sockets::PARTS,
    #[cfg(all(feature = "fibers", target_os = "linux"))]
    fiber_processes::PARTS,
    #[cfg(feature = "tls")]
    tls::PARTS,
];

fn main() -> ExitCode {
    play(&PARTS.concat()).unwrap_or_else(|| harness::run_one_at_a_time(&TESTS.concat()))
}
