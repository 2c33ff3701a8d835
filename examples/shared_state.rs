//! State that all connections share: a counter of words. Try it with `nc 127.0.0.1 2525`, twice.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;

use socketserver::{Connection, HandlerResult, StreamRequestHandler, ThreadingTcpServer};

/// One handler serves all connections, many at a time: its fields are the shared state.
#[derive(Default)]
struct WordCounter {
    counts: Mutex<HashMap<String, u64>>,
}

impl WordCounter {
    fn count(&self, word: &str) -> u64 {
        let mut counts = self.counts.lock().expect("counting does not panic");
        let count = counts.entry(word.to_owned()).or_default();
        *count += 1;
        *count
    }
}

impl StreamRequestHandler for WordCounter {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            for word in line.split_whitespace() {
                writeln!(connection, "{word}: {}", self.count(word))?;
            }
            line.clear();
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    ThreadingTcpServer::bind("127.0.0.1:2525", WordCounter::default())?.serve_forever()?;
    Ok(())
}
