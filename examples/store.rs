//! A key-value store by lines, kept in memory: `SET KEY VALUE`, `GET KEY`, `DEL KEY`, and `WAIT KEY`,
//! which answers when the key has a value. Shows state behind a lock and a condition variable that work
//! under every mixin, and end at a stop.
//!
//! ```sh
//! cargo run --example store -- --mixin fibers
//! nc 127.0.0.1 21570
//! ```

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use common::Example;
use socketserver::sync::{Condvar, Mutex};
use socketserver::{Connection, HandlerResult, StreamRequestHandler};

/// How often a client that waits for a key looks whether the server is stopping.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Store {
    values: Mutex<HashMap<String, String>>,
    /// Notified when a key was set.
    changed: Condvar,
}

impl StreamRequestHandler for Store {
    fn handle(&self, client: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while client.read_line(&mut line)? > 0 {
            let answer = self.answer(line.trim_end(), client)?;
            writeln!(client, "{answer}")?;
            line.clear();
        }
        Ok(())
    }
}

impl Store {
    fn answer(&self, line: &str, client: &Connection) -> socketserver::Result<String> {
        let mut words = line.splitn(3, ' ');
        let command = (words.next().unwrap_or_default(), words.next(), words.next());
        let mut values = self.values.lock();
        Ok(match command {
            ("SET", Some(key), Some(value)) => {
                values.insert(key.to_owned(), value.to_owned());
                self.changed.notify_all();
                "OK".to_owned()
            }
            ("GET", Some(key), None) => values.get(key).map_or("NONE", String::as_str).to_owned(),
            ("DEL", Some(key), None) => values.remove(key).map_or("NONE", |_| "OK").to_owned(),
            ("WAIT", Some(key), None) => loop {
                match values.get(key) {
                    Some(value) => break value.clone(),
                    None if client.is_stopping() => break "NONE".to_owned(),
                    // A stop lets a handler finish its answer, so that only its end would end the wait.
                    None => _ = self.changed.wait_for(&mut values, LOOK_INTERVAL)?,
                }
            },
            _ => "ERROR: SET KEY VALUE, GET KEY, DEL KEY or WAIT KEY".to_owned(),
        })
    }
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:21570", "Keeps values by key; WAIT answers when a key is set.")
        .without_forking("processes share no memory, so each client would have a store of its own")
        .run(|options| options.serve(Store::default()))
}
