//! A server in ten lines: it greets each client. Try it with `nc 127.0.0.1 2525`.

use std::io::Write;

use socketserver::{Connection, HandlerResult, StreamRequestHandler, ThreadingTcpServer};

struct Hello;

impl StreamRequestHandler for Hello {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        Ok(connection.write_all(b"Hello World!\n")?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ThreadingTcpServer::bind("127.0.0.1:2525", Hello)?.serve_forever()?;
    Ok(())
}
