//! A browser in the room.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use socketserver::{Connection, HandlerResult, MemberId};
use tungstenite::Message;
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::MAX_LINE;
use crate::backplane::Publisher;
use crate::guest::Guest;
use crate::names::Names;
use crate::page;
use crate::request::is_same_origin;
use crate::room::Room;
use crate::websocket::{End, WebSocket};

/// The first number of a browser as an author. Those of line clients are given by their broadcast,
/// from 1 up.
const FIRST_ID: u64 = 1 << 48;

/// Serves browsers that are members.
pub(crate) struct Browsers {
    pub(crate) room: Arc<Room>,
    pub(crate) names: Names,
    pub(crate) publisher: Publisher,
    /// How long a browser may send nothing, not even the answer to a ping.
    pub(crate) idle_timeout: Duration,
}

impl Browsers {
    /// Serves a WebSocket. The browser's first message is its name, each further one a line. Those
    /// to the browser are JSON, as [`Event::json`](crate::event::Event::json), [`Room::welcome`] and
    /// [`Refusal::json`](crate::names::Refusal::json) have them.
    pub(crate) fn serve(
        &self,
        connection: &mut Connection,
        request: &Request<()>,
    ) -> HandlerResult {
        if !is_same_origin(request) {
            return Ok(page::refuse(connection, StatusCode::FORBIDDEN)?);
        }
        let mut socket = match WebSocket::accept(connection, request, MAX_LINE) {
            Ok(socket) => socket,
            Err(status) => return Ok(page::refuse(connection, status)?),
        };
        connection.set_idle_timeout(self.idle_timeout);
        let Err(end) = self.talk(connection, &mut socket);
        Ok(socket.close(connection, end)?)
    }

    /// Names the browser, and then publishes its lines, until the WebSocket ends.
    fn talk(&self, connection: &mut Connection, socket: &mut WebSocket) -> Result<Infallible, End> {
        let reserved = loop {
            let name = receive_text(connection, socket)?;
            match self.names.reserve(&name, connection).map_err(io::Error::from)? {
                Ok(reserved) => break reserved,
                Err(refusal) => socket.send(connection, refusal.json())?,
            }
        };
        let member = self.room.join(connection).map_err(io::Error::from)?;
        let end = self.publish_lines(connection, socket, &reserved.name);
        // No frame may follow the one that closes.
        member.leave();
        end
    }

    fn publish_lines(
        &self,
        connection: &mut Connection,
        socket: &mut WebSocket,
        name: &str,
    ) -> Result<Infallible, End> {
        socket.send(connection, self.room.welcome(name))?;
        // Before its own join.
        connection.flush()?;
        let id = MemberId::from(FIRST_ID + u64::from(connection.id()));
        let guest = Guest::join(&self.publisher, id, name.to_owned());
        loop {
            let text = receive_text(connection, socket)?;
            if !text.trim().is_empty() {
                guest.say(text.as_bytes());
            }
        }
    }
}

fn receive_text(connection: &mut Connection, socket: &mut WebSocket) -> Result<Utf8Bytes, End> {
    match socket.receive(connection)? {
        Message::Text(text) => Ok(text),
        _ => Err(End::Close(CloseCode::Unsupported, "only text is understood")),
    }
}
