//! What a delivered line says.

use serde_json::{Value, json};

/// A line of the room, taken apart.
///
/// Lines are all that servers of one room exchange. No member can forge one: what it writes is one
/// line behind its name in brackets, and a browser's name has no brackets.
#[derive(Debug, PartialEq)]
pub(crate) enum Event<'a> {
    Join {
        name: &'a str,
    },
    Leave {
        name: &'a str,
    },
    Line {
        name: &'a str,
        text: &'a str,
    },
    /// From the server, or its backplane.
    Notice {
        text: &'a str,
    },
}

impl<'a> Event<'a> {
    pub(crate) fn parse(line: &'a str) -> Event<'a> {
        if let Some(name) = line.strip_prefix("Client joined ") {
            return Event::Join { name };
        }
        if let Some(name) = line.strip_prefix("Client left ") {
            return Event::Leave { name };
        }
        // After the first `] `: an IPv6 address has brackets, but no blank.
        match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((name, text)) => Event::Line { name, text },
            None => Event::Notice { text: line.strip_prefix("* ").unwrap_or(line) },
        }
    }

    /// As the page reads it. `at` is in milliseconds since 1970.
    pub(crate) fn json(&self, id: u64, at: u64) -> Value {
        match self {
            Event::Join { name } => json!({"type": "join", "id": id, "at": at, "name": name}),
            Event::Leave { name } => json!({"type": "leave", "id": id, "at": at, "name": name}),
            Event::Line { name, text } => {
                json!({"type": "line", "id": id, "at": at, "name": name, "text": text})
            }
            Event::Notice { text } => json!({"type": "notice", "id": id, "at": at, "text": text}),
        }
    }
}
