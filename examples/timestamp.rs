//! A handler for streams and for datagrams: each line, or each datagram, comes back with the time.
//!
//! ```sh
//! cargo run --example timestamp
//! nc 127.0.0.1 21568
//! ```
//!
//! Or, over UDP:
//!
//! ```sh
//! cargo run --example timestamp -- --listen udp://127.0.0.1:21568
//! nc -u 127.0.0.1 21568
//! ```

mod common;

use std::io::Write;
use std::process::ExitCode;

use common::{Example, ctime};
use socketserver::services::Echo;
use socketserver::{
    Connection, DatagramRequest, DatagramRequestHandler, HandlerResult, StreamRequestHandler,
};

struct Timestamp;

impl StreamRequestHandler for Timestamp {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(&stamped(&line))?;
            line.clear();
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Timestamp {
    /// As `Echo`, it answers no other service.
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        DatagramRequestHandler::verify_request(&Echo, request)
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(stamped(request.data()))?;
        Ok(())
    }
}

/// `[Sat Nov 20 23:46:01 2026] text`; the text's end of line, if any, stays as it is.
fn stamped(text: &[u8]) -> Vec<u8> {
    [format!("[{}] ", ctime()).as_bytes(), text].concat()
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:21568", "Sends back each line, or each datagram, with the time.")
        .serves_datagrams()
        .run(|options| options.serve_any(Timestamp))
}
