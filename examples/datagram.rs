//! A UDP server: each datagram is answered with its length. Try it with `nc -u 127.0.0.1 2525`.

use socketserver::{DatagramRequest, DatagramRequestHandler, HandlerResult, ThreadingUdpServer};

struct Length;

impl DatagramRequestHandler for Length {
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        let answer = format!("{} bytes from {}\n", request.data().len(), request.peer_addr());
        Ok(request.reply(answer)?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ThreadingUdpServer::bind("127.0.0.1:2525", Length)?.serve_forever()?;
    Ok(())
}
