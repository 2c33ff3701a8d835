//! What the room knows, and its broadcast to browsers.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};
use socketserver::{Broadcast, Connection, Member, Result};

use crate::event::Event;
use crate::websocket;

/// How many lines a browser is shown when it joins.
const HISTORY: usize = 50;

/// How many names it is told then. The names of all others it learns from what they do.
const MAX_NAMES: usize = 500;

/// The last lines, who is here, and the broadcast to browsers, all in the order of the chat.
pub(crate) struct Room {
    /// Of whole frames.
    browsers: Broadcast,
    state: Mutex<State>,
    /// Differs from that of other servers, and of this one when it is started again: the numbers of
    /// events are its own.
    epoch: String,
}

#[derive(Default)]
struct State {
    /// The number of the last event.
    last_id: u64,
    history: VecDeque<Value>,
    /// How often each name is here: servers do not know each other's names.
    here: BTreeMap<String, usize>,
}

impl Room {
    pub(crate) fn new() -> Room {
        let epoch = format!("{:016x}", fastrand::u64(..));
        Room { browsers: Broadcast::new(), state: Mutex::default(), epoch }
    }

    /// Takes in a line, and sends it to all browsers. The chat calls it with each line, in the order
    /// in which all members receive them.
    pub(crate) fn record(&self, line: &str) {
        let event = Event::parse(line);
        let event = self.state.lock().record(&event);
        self.browsers.send(websocket::text_frame(event.to_string()));
    }

    /// Makes a browser a member. An event that is recorded meanwhile is in the
    /// [`welcome`](Room::welcome) after it as well as sent to the browser, which drops it by its number.
    pub(crate) fn join(&self, connection: &mut Connection) -> Result<Member> {
        self.browsers.join(connection)
    }

    /// The first message to a member.
    pub(crate) fn welcome(&self, name: &str) -> String {
        let state = self.state.lock();
        let names: Vec<&String> = state.here.keys().take(MAX_NAMES).collect();
        json!({
            "type": "welcome",
            "epoch": self.epoch,
            "you": name,
            "id": state.last_id,
            "here": state.here.values().sum::<usize>(),
            "names": names,
            "history": state.history,
        })
        .to_string()
    }

    /// Pings all browsers. Their answers show that they are there, and keep proxies and mobile
    /// networks from closing the connections.
    pub(crate) fn ping(&self) {
        self.browsers.send(websocket::ping_frame());
    }
}

impl State {
    fn record(&mut self, event: &Event<'_>) -> Value {
        self.last_id += 1;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let json = event.json(self.last_id, since_1970.as_millis() as u64);
        match *event {
            Event::Join { name } => *self.here.entry(name.to_owned()).or_default() += 1,
            Event::Leave { name } => self.leave(name),
            Event::Line { name, .. } => {
                // One that has joined another server before this one was started.
                if !self.here.contains_key(name) {
                    self.here.insert(name.to_owned(), 1);
                }
                self.keep(&json);
            }
            Event::Notice { .. } => self.keep(&json),
        }
        json
    }

    fn leave(&mut self, name: &str) {
        if let Some(times) = self.here.get_mut(name) {
            *times -= 1;
            if *times == 0 {
                self.here.remove(name);
            }
        }
    }

    fn keep(&mut self, event: &Value) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(event.clone());
    }
}
