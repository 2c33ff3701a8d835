//! Clients of the example chats.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use crate::support::clients::{line_of, reset, rest_of, tcp};
use crate::support::process::Server;

pub(crate) const GREETING: &str = "You're connected to the chat server\r\n";

/// A client of a chat.
pub(crate) struct Member {
    pub(crate) stream: TcpStream,
    /// Its name in the chat.
    pub(crate) name: String,
}

impl Member {
    #[track_caller]
    pub(crate) fn connect(server: &Server) -> Member {
        let stream = tcp(server.endpoint());
        let name = stream.local_addr().unwrap().to_string();
        Member { stream, name }
    }

    /// Connects, and returns when the server has printed that it has joined.
    #[track_caller]
    pub(crate) fn join(server: &Server) -> Member {
        let member = Member::connect(server);
        member.reads(GREETING);
        assert_eq!(server.line(), member.joined());
        member
    }

    #[track_caller]
    pub(crate) fn sends(&self, bytes: impl AsRef<[u8]>) {
        (&self.stream).write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, with its end, is this one.
    #[track_caller]
    pub(crate) fn reads(&self, line: &str) {
        assert_eq!(line_of(&self.stream) + "\n", line, "{}", self.name);
    }

    /// The rest, up to end-of-file, is this.
    #[track_caller]
    pub(crate) fn reads_last(&self, text: &str) {
        assert_eq!(String::from_utf8(rest_of(&self.stream)).unwrap(), text, "{}", self.name);
    }

    pub(crate) fn shut_down_writes(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) fn resets(self) {
        reset(self.stream);
    }

    // What the server tells the others, and prints.

    pub(crate) fn joined(&self) -> String {
        format!("Client joined {}", self.name)
    }

    pub(crate) fn left(&self) -> String {
        format!("Client left {}", self.name)
    }

    pub(crate) fn says(&self, text: &str) -> String {
        format!("[{}] {text}", self.name)
    }
}
