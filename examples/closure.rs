//! A closure as a handler, and some limits. Try it with `nc 127.0.0.1 2525`.

use std::io::Write;
use std::time::Duration;

use socketserver::{Overload, ThreadingTcpServer, handler_fn};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upper = handler_fn(|connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
        Ok(())
    });
    ThreadingTcpServer::builder()
        .max_connections(100)
        .overload(Overload::Refuse("server full\r\n".into()))
        .idle_timeout(Duration::from_secs(60))
        .max_line_length(1024)
        .bind("127.0.0.1:2525", upper)?
        .serve_forever()?;
    Ok(())
}
