//! The echo protocol, over streams and datagrams
//! ([RFC 862](https://www.rfc-editor.org/rfc/rfc862)).

use std::io::Write;

use crate::{
    Connection, DatagramRequest, DatagramRequestHandler, HandlerResult, StreamRequestHandler,
};

/// Sends back each line, of any bytes, or each datagram. A last line may lack its end.
///
/// ```
/// use socketserver::{Connection, StreamRequestHandler, services::Echo};
///
/// let mut connection = Connection::in_memory("one\ntwo");
/// StreamRequestHandler::handle(&Echo, connection.as_mut()).unwrap();
/// assert_eq!(connection.output(), b"one\ntwo");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl StreamRequestHandler for Echo {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(&line)?;
            line.clear();
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Echo {
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(request.data())?;
        Ok(())
    }
}
