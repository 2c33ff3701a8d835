//! The names of browsers on this server.

#[path = "../../../../examples/common/names.rs"]
mod guest_name;

use std::collections::HashMap;
use std::time::Duration;

use guest_name::Name;
use serde_json::json;
use socketserver::sync::{Condvar, Mutex};
use socketserver::{Connection, ConnectionId, Error};

/// How long the earlier connection of a browser may take to leave.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// The names in use, no two of which look alike.
#[derive(Default)]
pub(crate) struct Names {
    /// By the key of the name.
    holders: Mutex<HashMap<String, Holder>>,
    released: Condvar,
}

struct Holder {
    connection: ConnectionId,
    /// Chosen by the browser. Empty: none.
    secret: String,
}

/// A name in use. The drop releases it.
pub(crate) struct Reserved<'names> {
    names: &'names Names,
    key: String,
    pub(crate) name: String,
}

/// Why a browser cannot have a name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refusal {
    Invalid,
    Taken,
}

impl Names {
    /// Reserves the name in a browser's first message. After the name, on a second line, it may have
    /// a secret, by which the browser takes its name back after its connection was lost, before this
    /// server knows that it was: the earlier connection is closed.
    pub(crate) fn reserve(
        &self,
        message: &str,
        connection: &Connection,
    ) -> Result<Result<Reserved<'_>, Refusal>, Error> {
        let (name, secret) = message.split_once('\n').unwrap_or((message, ""));
        let Some(Name { shown: name, key }) = parse(name) else { return Ok(Err(Refusal::Invalid)) };
        let mut holders = self.holders.lock();
        if let Some(holder) = holders.get(&key) {
            if secret.is_empty() || holder.secret != secret {
                return Ok(Err(Refusal::Taken));
            }
            connection.server().disconnect(holder.connection);
            let is_there = |holders: &mut HashMap<_, _>| holders.contains_key(&key);
            self.released.wait_while_for(&mut holders, is_there, TAKE_OVER_TIMEOUT)?;
            if holders.contains_key(&key) {
                return Ok(Err(Refusal::Taken));
            }
        }
        let holder = Holder { connection: connection.id(), secret: secret.to_owned() };
        holders.insert(key.clone(), holder);
        Ok(Ok(Reserved { names: self, key, name }))
    }
}

/// Without what would make a line of this name look like another: brackets (see
/// [`Event`](crate::event::Event)), and the `unix#1` of a line client.
fn parse(name: &str) -> Option<Name> {
    let name = Name::parse(name.as_bytes())?;
    let has = |text: &str| text.contains(['[', ']', '#']);
    (!has(&name.shown) && !has(&name.key)).then_some(name)
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.names.holders.lock().remove(&self.key);
        self.names.released.notify_all();
    }
}

impl Refusal {
    pub(crate) fn json(self) -> String {
        let reason = match self {
            Refusal::Invalid => "invalid",
            Refusal::Taken => "taken",
        };
        json!({"type": "refused", "reason": reason}).to_string()
    }
}
