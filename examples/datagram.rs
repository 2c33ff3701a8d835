//! A UDP server: each datagram is answered with its length. Try it with `nc -u 127.0.0.1 2525`.

use socketserver::services::Echo;
use socketserver::{DatagramRequest, DatagramRequestHandler, HandlerResult, ThreadingUdpServer};

struct Length;

impl DatagramRequestHandler for Length {
    /// Denies datagrams from other services, or two of them could answer each other without an end.
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        DatagramRequestHandler::verify_request(&Echo, request)
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        let answer = format!("{} bytes from {}\n", request.data().len(), request.peer_addr());
        Ok(request.reply(answer)?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ThreadingUdpServer::bind("127.0.0.1:2525", Length)?.serve_forever()?;
    Ok(())
}
