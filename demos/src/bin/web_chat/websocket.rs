//! A WebSocket on a [`Connection`], by `tungstenite`.

use std::io::{self, Write};

use http::{Request, StatusCode};
use socketserver::{Connection, Error};
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, Utf8Bytes};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error as WebSocketError, Message};

/// Less than what makes the connection read past its own buffer, which it frees while it waits.
const READ_BUFFER: usize = 256;

/// The server's side of a WebSocket. It does not own its connection, so that others can write to
/// that, too: a [`Broadcast`](socketserver::Broadcast) of whole frames.
pub(crate) struct WebSocket {
    context: WebSocketContext,
}

/// Why no more messages come.
#[derive(Debug)]
pub(crate) enum End {
    /// The client has begun the close handshake.
    Closed,
    /// The server ends it, with this code.
    Close(CloseCode, &'static str),
    /// The client has gone without the close handshake.
    Gone,
    Broken(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Broken(error)
    }
}

impl WebSocket {
    /// Answers the handshake. A message may have so many bytes.
    ///
    /// # Errors
    /// The status of the response to a request that is no handshake of WebSocket.
    pub(crate) fn accept(
        connection: &mut Connection,
        request: &Request<()>,
        max_message: usize,
    ) -> Result<WebSocket, StatusCode> {
        let response = create_response(request).map_err(|_| StatusCode::UPGRADE_REQUIRED)?;
        write_response(connection, &response).map_err(|_| StatusCode::BAD_REQUEST)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // The connection has a buffer of its own.
            .write_buffer_size(0)
            .max_frame_size(Some(max_message))
            .max_message_size(Some(max_message));
        Ok(WebSocket { context: WebSocketContext::new(Role::Server, Some(config)) })
    }

    /// Reads the next message of text or bytes, and answers pings meanwhile.
    pub(crate) fn receive(&mut self, connection: &mut Connection) -> Result<Message, End> {
        loop {
            let read = connection.with_message_timeout(|connection| self.context.read(connection));
            match read {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => return Ok(message),
                Ok(Message::Close(_)) => return Err(End::Closed),
                Ok(_) => {}
                Err(_) if connection.is_stopping() => {
                    return Err(End::Close(CloseCode::Away, "the server stops"));
                }
                Err(error) => return Err(end(error)),
            }
        }
    }

    /// Writes a message. It is sent before the next one is waited for.
    pub(crate) fn send(
        &mut self,
        connection: &mut Connection,
        message: impl Into<Message>,
    ) -> Result<(), End> {
        self.context.write(connection, message.into()).map_err(end)
    }

    /// Ends the close handshake, or begins it. The caller is to have left all broadcasts: no frame
    /// may follow the one that closes.
    pub(crate) fn close(mut self, connection: &mut Connection, end: End) -> io::Result<()> {
        match end {
            End::Closed => match self.context.flush(connection) {
                Ok(()) | Err(WebSocketError::ConnectionClosed) => Ok(()),
                Err(WebSocketError::Io(error)) => Err(error),
                Err(error) => Err(io::Error::other(error)),
            },
            // Not by the context, which sends nothing more after an error.
            End::Close(code, reason) => {
                let reason = Utf8Bytes::from_static(reason);
                connection.write_all(&bytes(Frame::close(Some(CloseFrame { code, reason }))))
            }
            End::Gone => Ok(()),
            End::Broken(error) => Err(error),
        }
    }
}

/// The codes are those of [RFC 6455, 7.4.1](https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1).
fn end(error: WebSocketError) -> End {
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        WebSocketError::Io(error) => match Error::of(&error) {
            Some(Error::IdleTimeout { .. } | Error::MessageTimeout { .. }) => {
                End::Close(CloseCode::Away, "nothing was received in time")
            }
            _ => End::Broken(error),
        },
        WebSocketError::Protocol(ResetWithoutClosingHandshake) => End::Gone,
        WebSocketError::Capacity(_) => End::Close(CloseCode::Size, "the message is too long"),
        WebSocketError::Utf8(_) => End::Close(CloseCode::Invalid, "the text is not UTF-8"),
        WebSocketError::Protocol(_) => End::Close(CloseCode::Protocol, "a frame is not valid"),
        error => End::Broken(io::Error::other(error)),
    }
}

/// A whole message as its bytes. A server's frames have no mask, so all its clients receive the same.
pub(crate) fn text_frame(text: String) -> Vec<u8> {
    bytes(Frame::message(text, OpCode::Data(Data::Text), true))
}

pub(crate) fn ping_frame() -> Vec<u8> {
    bytes(Frame::ping(&b""[..]))
}

fn bytes(frame: Frame) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame.len());
    frame.format(&mut bytes).expect("a vector takes all bytes");
    bytes
}
