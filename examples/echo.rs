//! One handler on all four transports under all four mixins: it sends back what it receives.
//!
//! ```sh
//! cargo run --example echo
//! nc 127.0.0.1 23000
//! ```
//!
//! The address chooses the transport, and a flag who runs the requests:
//!
//! ```sh
//! cargo run --example echo -- --listen udp://127.0.0.1:23000
//! cargo run --example echo -- --listen unix:/tmp/echo.sock --mixin forking
//! cargo run --example echo -- --listen unixgram:@echo --mixin sequential
//! ```

mod common;

use std::process::ExitCode;

use common::Example;
use socketserver::services::Echo;

fn main() -> ExitCode {
    Example::new("127.0.0.1:23000", "Sends back each line, or each datagram.")
        .serves_datagrams()
        .run(|options| options.serve_any(Echo))
}
