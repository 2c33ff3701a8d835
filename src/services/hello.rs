//! A greeting.

use std::io::Write;

use crate::{Connection, HandlerResult, StreamRequestHandler};

/// Sends `Hello World!` to each client, and closes the connection.
///
/// ```
/// use socketserver::{Connection, StreamRequestHandler, services::Hello};
///
/// let mut connection = Connection::in_memory("");
/// Hello.handle(connection.as_mut()).unwrap();
/// assert_eq!(connection.output(), b"Hello World!\n");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Hello;

impl StreamRequestHandler for Hello {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(b"Hello World!\n")?;
        Ok(())
    }
}
