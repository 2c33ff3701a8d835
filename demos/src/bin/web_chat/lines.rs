//! A line client in the room.

use std::io::Write;

use socketserver::services::{Chat, Telnet};
use socketserver::{Connection, Error, HandlerResult};

use crate::backplane::Publisher;
use crate::guest::Guest;

const GREETING: &[u8] = b"You're connected to the chat server\r\n";

/// Serves line clients, by the protocol of [`Chat`].
pub(crate) struct LineClients {
    pub(crate) chat: Chat,
    pub(crate) publisher: Publisher,
}

impl LineClients {
    /// Serves one, whose first line begins with bytes that were read.
    pub(crate) fn serve(&self, connection: &mut Connection, begin: &[u8]) -> HandlerResult {
        connection.write_all(GREETING)?;
        let member = self.chat.room().join(connection)?;
        let name = match connection.peer_addr().socket_addr() {
            Some(address) => address.to_string(),
            None => format!("unix#{}", connection.id()),
        };
        let guest = Guest::join(&self.publisher, member.id(), name);
        let result = publish_lines(connection, &guest, begin);
        drop(guest);
        member.leave();
        result
    }
}

/// Publishes the client's lines, until it leaves.
fn publish_lines(connection: &mut Connection, guest: &Guest<'_>, begin: &[u8]) -> HandlerResult {
    let (mut telnet, mut line, mut is_first) = (Telnet::new(), begin.to_vec(), true);
    loop {
        match telnet.read_line(connection, &mut line) {
            Ok(0) if line.is_empty() => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(Error::of(&error), Some(Error::LineTooLong { .. })) => {
                return Ok(connection.write_all(b"line too long\r\n")?);
            }
            Err(error) => {
                // A client that closes its socket with unread input sends RST after its last line,
                // which may lack its end.
                if Error::is_disconnect(&error) && !line.is_empty() {
                    guest.say(&line);
                }
                return Err(error.into());
            }
        }
        if is_first && is_request(&line) {
            log::info!("{}: a browser, among line clients", connection.peer_addr());
            return Ok(());
        }
        guest.say(&line);
        line.clear();
        is_first = false;
    }
}

/// Whether this is the first line of an HTTP request: of a browser that had been silent for too
/// long, or in which the page of another site posts here. What follows is no line for the room: the
/// header has the browser's cookies for this host.
fn is_request(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    [&b" HTTP/1.0"[..], b" HTTP/1.1"].iter().any(|version| line.ends_with(version))
}
