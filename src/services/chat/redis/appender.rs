//! The thread that appends what this server's members say to the room's stream, and says that the
//! server is alive.

use std::sync::Arc;
use std::time::Instant;

use redis::{Connection, RedisResult, Script, ScriptInvocation};

use super::Settings;
use super::shared::{Shared, Side};
use crate::services::{Message, Presence};

/// The most messages that are appended at a time: Redis does nothing else meanwhile.
const BATCH: usize = 512;

pub(super) struct Appender {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    script: Script,
}

/// What the script answers.
struct Answer {
    /// Whether the server is one of the room's; it is not if it was silent for too long.
    is_known: bool,
    /// The number of the last of its messages that was appended.
    last: u64,
}

impl Appender {
    pub(super) fn new(settings: Arc<Settings>, shared: Arc<Shared>) -> Appender {
        Appender { settings, shared, script: Script::new(include_str!("append.lua")) }
    }

    pub(super) fn run(self) {
        self.shared.keep_connected(Side::Appending, || self.session());
        let state = self.shared.state();
        if !state.outbox.is_empty() {
            log::error!("chat: {} messages never reached Redis", state.outbox.len());
        }
    }

    /// Until the end, or an error.
    fn session(&self) -> RedisResult<()> {
        let mut connection = self.settings.connect()?;
        let begin = Instant::now();
        self.enter(&mut connection)?;
        self.shared.connected(Side::Appending);
        let mut beat = begin;
        loop {
            let is_ending = self.shared.is_ending();
            let state = self.shared.wait(beat);
            if is_ending && state.outbox.is_empty() {
                drop(state);
                return self.leave(&mut connection);
            }
            // Everybody else has had the time to come back too, in case that Redis was away.
            let sweeps = begin.elapsed() > self.settings.expiry;
            let (first, messages) = state.outbox.messages();
            let call = self.call(sweeps, first, messages.take(BATCH));
            drop(state);
            beat = Instant::now() + self.settings.expiry / 4;
            let answer = invoke(&call, &mut connection)?;
            self.shared.acknowledge(answer.last);
            if !answer.is_known {
                log::warn!("chat: this server was silent for so long that its members were gone");
                self.enter(&mut connection)?;
            }
        }
    }

    /// Makes this server one of the room's. If it was one, and was taken for dead, its members
    /// were said to have left: they join again.
    fn enter(&self, connection: &mut Connection) -> RedisResult<()> {
        let last: Option<u64> =
            redis::cmd("GET").arg(&self.settings.keys.sequence).query(connection)?;
        self.shared.acknowledge(last.unwrap_or(0));
        let call = self.call(false, 0, self.shared.state().outbox.announced());
        invoke(&call, connection).map(drop)
    }

    /// Nobody has to find out that it is gone.
    fn leave(&self, connection: &mut Connection) -> RedisResult<()> {
        let Settings { keys, server, .. } = &*self.settings;
        let mut pipe = redis::pipe();
        pipe.cmd("ZREM").arg(&[&keys.servers, server]);
        pipe.cmd("DEL").arg(&[&keys.members, &keys.sequence]);
        pipe.cmd("CLIENT").arg("UNBLOCK").arg(self.shared.state().reader);
        pipe.exec(connection)
    }

    fn call<'message>(
        &self,
        sweeps: bool,
        first: u64,
        messages: impl Iterator<Item = &'message Message>,
    ) -> ScriptInvocation<'_> {
        let Settings { keys, server, expiry, history, .. } = &*self.settings;
        let mut call = self.script.prepare_invoke();
        call.key(&[&keys.stream, &keys.servers, &keys.count, &keys.members, &keys.sequence]);
        call.arg(server).arg(expiry.as_millis() as u64).arg(history).arg(sweeps).arg(first);
        for Message { author, line, presence } in messages {
            let (presence, parting) = match presence {
                Presence::Joins { parting } => ("joins", parting.as_str()),
                Presence::Stays => ("stays", ""),
                Presence::Leaves => ("leaves", ""),
            };
            call.arg(author).arg(line).arg(presence).arg(parting);
        }
        call
    }
}

fn invoke(call: &ScriptInvocation<'_>, connection: &mut Connection) -> RedisResult<Answer> {
    let (is_known, last) = call.invoke(connection)?;
    Ok(Answer { is_known, last })
}
