//! A server that pushes: a thread of its own sends the time to all clients, which may ask meanwhile.
//!
//! ```sh
//! cargo run --example ticker
//! nc 127.0.0.1 2627
//! ```

mod common;

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use common::{Example, ctime};
use socketserver::{Sender, handler_fn};

/// A client that is further behind is disconnected.
const CAPACITY: usize = 64 * 1024;

#[derive(Clone, Default)]
struct Clients(Arc<Mutex<Vec<Sender>>>);

impl Clients {
    fn add(&self, client: Sender) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }

    /// Sends a message to all clients, and returns how many have not left.
    fn send(&self, message: &str) -> usize {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| client.send(message).is_ok());
        clients.len()
    }
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:2627", "Sends the time to all clients, and answers `clients`.")
        .without_forking("clients of one thread share one process")
        .flag("interval", "SECONDS", "the time between two ticks; 1 by default")
        .run(|options| {
            let interval = options.seconds("interval")?.unwrap_or(Duration::from_secs(1));
            let clients = Clients::default();
            let ticking = clients.clone();
            thread::spawn(move || {
                loop {
                    thread::sleep(interval);
                    ticking.send(&format!("{}\n", ctime()));
                }
            });
            options.serve(handler_fn(move |connection| {
                clients.add(connection.sender(CAPACITY)?);
                let mut line = String::new();
                while connection.read_line(&mut line)? > 0 {
                    match line.trim() {
                        "clients" => writeln!(connection, "{} clients", clients.send(""))?,
                        _ => writeln!(connection, "clients?")?,
                    }
                    line.clear();
                }
                Ok(())
            }))
        })
}
