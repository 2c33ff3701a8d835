//! `web_chat` as a process, and members that speak WebSocket.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Request;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

use crate::demos::demo;
use crate::support::clients::{line_of, tcp, tcp_from};
use crate::support::process::Server;

pub(crate) const GREETING: &str = "You're connected to the chat server\r";

#[track_caller]
pub(crate) fn start(flags: &[&str]) -> Server {
    start_at("127.0.0.1:0", flags)
}

#[track_caller]
pub(crate) fn start_at(address: &str, flags: &[&str]) -> Server {
    let mut command = demo("web_chat");
    command.args(["--listen", address]).args(flags);
    Server::spawn(command)
}

/// A line client that says nothing, and was greeted: its address is not that of the browsers.
#[track_caller]
pub(crate) fn line_client(server: &Server) -> TcpStream {
    let stream = tcp_from("127.0.0.2", server.endpoint());
    assert_eq!(line_of(&stream), GREETING);
    stream
}

/// The request of a handshake.
pub(crate) fn handshake(server: &Server) -> Request {
    format!("ws://{}/room", server.address()).into_client_request().unwrap()
}

/// A client that speaks WebSocket.
pub(crate) struct Browser {
    pub(crate) socket: WebSocket<TcpStream>,
    /// Events that came before the welcome, and are not in it.
    early: VecDeque<Value>,
}

impl Browser {
    #[track_caller]
    pub(crate) fn connect(server: &Server) -> Browser {
        Browser::connect_with(server, handshake(server)).unwrap()
    }

    /// The status, if the handshake is refused.
    #[track_caller]
    pub(crate) fn connect_with(server: &Server, request: Request) -> Result<Browser, u16> {
        match tungstenite::client(request, tcp(server.endpoint())) {
            Ok((socket, _)) => Ok(Browser { socket, early: VecDeque::new() }),
            Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects, joins under this name, and reads its own join. Returns the welcome too.
    #[track_caller]
    pub(crate) fn join(server: &Server, name: &str) -> (Browser, Value) {
        let mut browser = Browser::connect(server);
        let welcome = browser.asks_for(name);
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        assert_eq!(browser.next_text(), format!("+ {}", name.lines().next().unwrap().trim()));
        (browser, welcome)
    }

    /// Sends a name, perhaps with a secret. Returns the answer.
    #[track_caller]
    pub(crate) fn asks_for(&mut self, name: &str) -> Value {
        self.says(name);
        let mut early = VecDeque::new();
        let answer = loop {
            let message = self.next();
            match message["type"].as_str() {
                Some("welcome" | "refused") => break message,
                _ => early.push_back(message),
            }
        };
        early.retain(|event| event["id"].as_u64() > answer["id"].as_u64());
        self.early = early;
        answer
    }

    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        self.socket.send(text.into()).unwrap();
    }

    /// The next message; pings are answered.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        if let Some(event) = self.early.pop_front() {
            return event;
        }
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next event, in short: `+ name`, `- name`, `name: text`, `* text`.
    #[track_caller]
    pub(crate) fn next_text(&mut self) -> String {
        in_short(&self.next())
    }

    #[track_caller]
    pub(crate) fn sees(&mut self, event: &str) {
        assert_eq!(self.next_text(), event);
    }

    /// Sends bytes that may be no frame.
    #[track_caller]
    pub(crate) fn sends(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads the code of the frame that closes, and the end of the connection after it.
    #[track_caller]
    pub(crate) fn is_closed(&mut self) -> Option<u16> {
        let code = loop {
            match self.socket.read().unwrap() {
                Message::Close(frame) => break frame.map(|CloseFrame { code, .. }| code.into()),
                Message::Text(_) | Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        };
        match self.socket.read() {
            Err(Error::ConnectionClosed) => code,
            other => panic!("after the close: {other:?}"),
        }
    }

    /// The close handshake, begun by this side.
    #[track_caller]
    pub(crate) fn leaves(mut self) {
        self.socket.close(None).unwrap();
        assert_eq!(self.is_closed(), None);
    }
}

pub(crate) fn in_short(event: &Value) -> String {
    let [name, text] = ["name", "text"].map(|field| event[field].as_str().unwrap_or_default());
    match event["type"].as_str() {
        Some("join") => format!("+ {name}"),
        Some("leave") => format!("- {name}"),
        Some("line") => format!("{name}: {text}"),
        Some("notice") => format!("* {text}"),
        _ => panic!("no event: {event}"),
    }
}
