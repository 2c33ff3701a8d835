//! A chat for named users, written out: the first line is a user name, which is theirs as long as
//! they stay. Shows what `Broadcast` needs, and a guard that gives the name back however the
//! connection ends.
//!
//! ```sh
//! cargo run --example named_chat
//! cargo run --example chat_client -- 127.0.0.1:21567 -u ada
//! ```

mod common;

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use common::{Example, ctime};
use socketserver::services::printable;
use socketserver::{Broadcast, Connection, Error, HandlerResult, StreamRequestHandler};

#[derive(Default)]
struct NamedChat {
    room: Broadcast,
    names: Mutex<HashSet<String>>,
}

impl StreamRequestHandler for NamedChat {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        let name = match connection.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => valid_name(&line),
            Err(error) if Error::of(&error).is_some() => None,
            Err(error) => return Err(error.into()),
        };
        let Some(name) = name else { return Ok(connection.write_all(b"invalid\r\n")?) };
        let Some(_taken) = self.take(&name) else {
            return Ok(connection.write_all(b"reuse\r\n")?);
        };
        connection.write_all(b"success\r\n")?;
        let member = self.room.join(connection)?;
        let has_quit = loop {
            line.clear();
            if connection.read_line(&mut line)? == 0 {
                break false;
            }
            let text = printable(&line);
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

/// Up to 32 bytes of text without control characters.
fn valid_name(line: &[u8]) -> Option<String> {
    let name = line.strip_suffix(b"\n").unwrap_or(line);
    let name = str::from_utf8(name.strip_suffix(b"\r").unwrap_or(name)).ok()?;
    let fits = !name.is_empty() && name.len() <= 32 && !name.contains(char::is_control);
    fits.then(|| name.to_owned())
}

/// A name in use, free again when this is dropped.
struct Taken<'chat>(&'chat NamedChat, String);

impl NamedChat {
    fn take(&self, name: &str) -> Option<Taken<'_>> {
        let is_new = self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
        is_new.then(|| Taken(self, name.into()))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:21567", "A chat for named users: the first line is a name.")
        .try_it("cargo run --example chat_client -- {address} -u ada")
        .without_forking("processes share no memory, so nobody would hear anybody else")
        .run(|options| options.serve(NamedChat::default()))
}
