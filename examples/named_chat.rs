//! A chat for named users, written out: the first line of a client is its name, which no other may
//! have, or one that looks alike, while the client is connected. Shows the use of `Broadcast`, and a
//! guard that releases the name however the connection ends.
//!
//! ```sh
//! cargo run --example named_chat
//! cargo run --example chat_client -- 127.0.0.1:21567 -u ada
//! ```

mod common;
#[path = "common/names.rs"]
mod names;

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use common::{Example, ctime};
use names::Name;
use socketserver::services::{Telnet, chat_line};
use socketserver::{Broadcast, Connection, Error, HandlerResult, StreamRequestHandler};

#[derive(Default)]
struct NamedChat {
    room: Broadcast,
    /// The keys of the names in use.
    names: Mutex<HashSet<String>>,
}

impl StreamRequestHandler for NamedChat {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let (mut telnet, mut line) = (Telnet::new(), Vec::new());
        let name = match telnet.read_line(connection, &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => Name::parse(&line),
            Err(error) if Error::of(&error).is_some() => None,
            Err(error) => return Err(error.into()),
        };
        let Some(name) = name else { return Ok(connection.write_all(b"invalid\r\n")?) };
        let Name { shown: name, key } = name;
        let Some(_reserved) = self.reserve(key) else {
            return Ok(connection.write_all(b"reuse\r\n")?);
        };
        connection.write_all(b"success\r\n")?;
        let member = self.room.join(connection)?;
        let has_quit = loop {
            line.clear();
            if telnet.read_line(connection, &mut line)? == 0 {
                break false;
            }
            let text = chat_line(&line);
            if text == "quit" {
                break true;
            }
            member.send_to_others(format!("[{}] {name}: {text}\r\n", ctime()));
        };
        // The client receives all lines sent before it left; then `quit`, as the last one.
        member.leave();
        if has_quit {
            connection.write_all(b"quit\r\n")?;
        }
        Ok(())
    }
}

/// A name in use. The drop releases it.
struct Reserved<'chat>(&'chat NamedChat, String);

impl NamedChat {
    fn reserve(&self, key: String) -> Option<Reserved<'_>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(key.clone()).then(|| Reserved(self, key))
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:21567", "A chat for named users: the first line is a name.")
        .try_it("cargo run --example chat_client -- {address} -u ada")
        .without_forking("processes share no memory, so no client would read another's lines")
        .run(|options| options.serve(NamedChat::default()))
}
