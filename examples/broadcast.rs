//! One message to many connections: a chat. Try it with `nc 127.0.0.1 2525`, twice.

use socketserver::services::chat_line;
use socketserver::{
    Broadcast, Connection, HandlerResult, StreamRequestHandler, ThreadingTcpServer,
};

struct Chat(Broadcast);

impl StreamRequestHandler for Chat {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        // From here on the connection gets what others send, also while this thread reads.
        let member = self.0.join(connection)?;
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            // Without what would control a terminal. This waits for no client.
            member.send_to_others(chat_line(&line) + "\n");
            line.clear();
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ThreadingTcpServer::bind("127.0.0.1:2525", Chat(Broadcast::new()))?.serve_forever()?;
    Ok(())
}
