//! A handler that answers each line with a greeting.
//!
//! ```sh
//! cargo run --example greeter
//! nc 127.0.0.1 9999
//! ```
//!
//! The line `exit` closes the connection.

mod common;

use std::io::Write;
use std::process::ExitCode;

use common::Example;
use socketserver::{Connection, HandlerResult, StreamRequestHandler};

struct Greeter;

impl StreamRequestHandler for Greeter {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(b"Welcome!\r\n")?;
        // Bytes, since a name may not be UTF-8.
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            let name = without_end(&line);
            if name == b"exit" {
                break;
            }
            // No flush: the output is sent before the next read blocks.
            connection.write_all(&[b"Hello, ", name, b"!\r\n"].concat())?;
            line.clear();
        }
        Ok(())
    }
}

/// Telnet ends a line with `\r\n`, nc with `\n`, and the last line may have no end at all.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:9999", "Answers each line with a greeting; `exit` closes.")
        .run(|options| options.serve(Greeter))
}
