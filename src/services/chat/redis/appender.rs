//! The thread that appends what this server's members say to the room's stream, and says that the
//! server is alive.

use std::sync::Arc;
use std::time::Instant;

use redis::{Connection, RedisResult, Script, ScriptInvocation};

use super::Settings;
use super::shared::{Shared, Side};
use crate::services::chat::backplane::{Message, Presence};

/// The most messages that are appended at a time: Redis does nothing else meanwhile.
const BATCH: usize = 512;

pub(super) struct Appender {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    script: Script,
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
        self.enter(&mut connection)?;
        let mut beat = Instant::now();
        loop {
            self.shared.connected(Side::Appending);
            let state = self.shared.wait(beat);
            if state.is_over() {
                return Ok(());
            }
            if state.is_ending() && state.outbox.is_empty() {
                drop(state);
                return self.leave(&mut connection);
            }
            let call = self.call(false, state.outbox.first(), state.outbox.messages().take(BATCH));
            drop(state);
            beat = Instant::now() + self.settings.expiry / 4;
            if !self.invoke(&call, &mut connection)? {
                log::warn!("chat: this server was taken for dead, or Redis has forgotten it");
                self.enter(&mut connection)?;
            }
        }
    }

    /// Makes this server one of the room's. If it was one, and was taken for dead, its members
    /// were said to have left: they join again.
    pub(super) fn enter(&self, connection: &mut Connection) -> RedisResult<()> {
        loop {
            let state = self.shared.state();
            let call = self.call(true, state.outbox.first(), state.outbox.announced());
            drop(state);
            if self.invoke(&call, connection)? {
                return Ok(());
            }
        }
    }

    /// Nobody has to find out that it is gone.
    fn leave(&self, connection: &mut Connection) -> RedisResult<()> {
        let Settings { keys, server, .. } = &*self.settings;
        let mut pipe = redis::pipe();
        pipe.cmd("ZREM").arg(&[&keys.servers, server]);
        pipe.cmd("DEL").arg(&[&keys.members, &keys.sequence, &keys.watch]);
        pipe.cmd("CLIENT").arg("UNBLOCK").arg(self.shared.state().reader_client);
        pipe.exec(connection)
    }

    fn call<'message>(
        &self,
        enters: bool,
        first: u64,
        messages: impl Iterator<Item = &'message Message>,
    ) -> ScriptInvocation<'_> {
        let Settings { keys, server, expiry, history, .. } = &*self.settings;
        let mut call = self.script.prepare_invoke();
        call.key(&[&keys.stream, &keys.servers, &keys.count]);
        call.key(&[&keys.members, &keys.sequence, &keys.watch]);
        call.arg(server).arg(expiry.as_millis() as u64).arg(history).arg(enters).arg(first);
        for Message { author, line, presence } in messages {
            let (presence, parting) = match presence {
                Presence::Joins { parting } => ("joins", parting.as_str()),
                Presence::Stays => ("stays", ""),
                Presence::Leaves => ("leaves", ""),
            };
            call.arg(u64::from(*author)).arg(line).arg(presence).arg(parting);
        }
        call
    }

    /// Whether this server is in the room. It is not if it was silent for too long, or entered
    /// with members of whom Redis knows more.
    fn invoke(
        &self,
        call: &ScriptInvocation<'_>,
        connection: &mut Connection,
    ) -> RedisResult<bool> {
        let (is_in, last) = call.invoke(connection)?;
        self.shared.acknowledge(last);
        Ok(is_in)
    }
}
