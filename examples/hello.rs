//! The smallest server: a greeting for whoever connects, from a handler that is ready-made.
//!
//! ```sh
//! cargo run --example hello
//! nc 127.0.0.1 2525
//! ```
//!
//! Without a command line it is two lines: see the crate's first page.

mod common;

use std::process::ExitCode;

use common::Example;
use socketserver::services::Hello;

fn main() -> ExitCode {
    Example::new("127.0.0.1:2525", "Says `Hello World!` to whoever connects, and closes.")
        .run(|options| options.serve(Hello))
}
