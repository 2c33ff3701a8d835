//! The examples as programs, driven by the tests and by clients such as nc, telnet and Python. A test
//! of a client that is not installed is left out.

mod access_log;
mod activation;
mod answers;
mod chat;
mod chat_names;
mod clients;
mod command_line;
mod console;
mod datagram_loops;
mod examples;
mod gateway;
#[path = "../support/harness.rs"]
mod harness;
mod listeners;
mod members;
mod metrics;
mod named_chat;
mod outside_clients;
mod proxies;
mod restarts;
mod stopping;
#[path = "../support/mod.rs"]
mod support;
mod telnet;
mod terminal;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
#[path = "../support/tls.rs"]
mod tls_clients;
mod try_line;
mod wrapping;

use std::process::ExitCode;

use harness::Test;

const TESTS: &[&[Test]] = &[
    command_line::TESTS,
    answers::TESTS,
    stopping::TESTS,
    chat::TESTS,
    named_chat::TESTS,
    chat_names::TESTS,
    wrapping::TESTS,
    datagram_loops::TESTS,
    try_line::TESTS,
    clients::TESTS,
    metrics::TESTS,
    console::TESTS,
    access_log::TESTS,
    terminal::TESTS,
    telnet::TESTS,
    outside_clients::TESTS,
    gateway::TESTS,
    activation::TESTS,
    listeners::TESTS,
    proxies::TESTS,
    restarts::TESTS,
    #[cfg(feature = "tls")]
    restarts::TLS_TESTS,
    #[cfg(feature = "tls")]
    tls::TESTS,
];

fn main() -> ExitCode {
    harness::run(&TESTS.concat())
}
