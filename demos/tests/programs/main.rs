//! The demos and other programs: curl, nc, Python, a browser. A test whose programs are not
//! installed is ignored and counted; with `SOCKETSERVER_TEST_CLIENTS=required` it fails.

use std::process::ExitCode;

#[path = "../demos/mod.rs"]
mod demos;
#[path = "../../../tests/support/harness.rs"]
mod harness;
#[path = "../../../tests/support/mod.rs"]
mod support;

mod http;
mod lookup;
mod lookup_packing;
mod mail;
mod top;
mod web_chat;
mod web_chat_servers;

fn main() -> ExitCode {
    harness::run(
        &[
            http::TESTS,
            lookup::TESTS,
            lookup_packing::TESTS,
            mail::TESTS,
            top::TESTS,
            web_chat::TESTS,
            web_chat_servers::TESTS,
        ]
        .concat(),
    )
}
