//! A greeting for each client, by the ready-made handler `Hello`.
//!
//! ```sh
//! cargo run --example hello
//! nc 127.0.0.1 2525
//! ```
//!
//! `minimal.rs` has the handler itself, and no command line.

mod common;

use std::process::ExitCode;

use common::Example;
use socketserver::services::Hello;

fn main() -> ExitCode {
    Example::new("127.0.0.1:2525", "Greets each client with `Hello World!`, and closes.")
        .run(|options| options.serve(Hello))
}
