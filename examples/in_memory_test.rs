//! A handler's unit test, without a socket or a thread. `cargo test --example in_memory_test`

use std::io::Write;

use socketserver::{Connection, HandlerResult, StreamRequestHandler, ThreadingTcpServer};

struct Greeter;

impl StreamRequestHandler for Greeter {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut name = String::new();
        connection.read_line(&mut name)?;
        Ok(writeln!(connection, "Hello {}!", name.trim_end())?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ThreadingTcpServer::bind("127.0.0.1:2525", Greeter)?.serve_forever()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_greeted() {
        let mut connection = Connection::in_memory("Ada\n");
        Greeter.handle(connection.as_mut()).unwrap();
        assert_eq!(connection.output(), b"Hello Ada!\n");
    }
}
