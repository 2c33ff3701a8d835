//! The thread that appends this server's messages to the room's stream, and sends its heartbeat.

use std::sync::Arc;
use std::time::Instant;

use redis::{Connection, RedisResult, Script, ScriptInvocation};
use socketserver::extend::{Kind, Message};

use crate::config::RoomConfig;
use crate::shared::{Shared, Side};

/// The most messages in one call of the script, during which Redis does nothing else.
const BATCH: usize = 512;

pub(crate) struct Appender {
    config: Arc<RoomConfig>,
    shared: Arc<Shared>,
    script: Script,
}

impl Appender {
    pub(crate) fn new(config: Arc<RoomConfig>, shared: Arc<Shared>) -> Appender {
        Appender { config, shared, script: Script::new(include_str!("append.lua")) }
    }

    pub(crate) fn run(self) {
        self.shared.keep_connected(Side::Appending, || self.session());
        let state = self.shared.state();
        if !state.outbox.is_empty() {
            log::error!("chat: {} messages did not reach Redis", state.outbox.len());
        }
    }

    /// One connection, until the shutdown or an error.
    fn session(&self) -> RedisResult<()> {
        let mut connection = self.config.connect()?;
        self.register(&mut connection)?;
        let mut next_heartbeat = Instant::now();
        loop {
            self.shared.on_connected(Side::Appending);
            let state = self.shared.wait_for_work(next_heartbeat);
            if state.is_past_deadline() {
                return Ok(());
            }
            if state.is_shutting_down() && state.outbox.is_empty() {
                drop(state);
                return self.unregister(&mut connection);
            }
            let call =
                self.script_call(false, state.outbox.first(), state.outbox.messages().take(BATCH));
            drop(state);
            next_heartbeat = Instant::now() + self.config.expiry / 4;
            if !self.invoke(&call, &mut connection)? {
                log::warn!("chat: this server expired, or Redis lost its data; it registers again");
                self.register(&mut connection)?;
            }
        }
    }

    /// Registers this server and its members with the room. If the server had expired, its members
    /// join again.
    pub(crate) fn register(&self, connection: &mut Connection) -> RedisResult<()> {
        loop {
            let state = self.shared.state();
            let call = self.script_call(true, state.outbox.first(), state.outbox.announced());
            drop(state);
            if self.invoke(&call, connection)? {
                return Ok(());
            }
        }
    }

    /// Removes this server from the room, so that it need not expire.
    fn unregister(&self, connection: &mut Connection) -> RedisResult<()> {
        let RoomConfig { keys, server, .. } = &*self.config;
        let mut pipe = redis::pipe();
        pipe.cmd("ZREM").arg(&[&keys.servers, server]);
        pipe.cmd("DEL").arg(&[&keys.members, &keys.sequence, &keys.alive_since]);
        pipe.cmd("CLIENT").arg("UNBLOCK").arg(self.shared.state().reader_client);
        pipe.exec(connection)
    }

    fn script_call<'message>(
        &self,
        is_registration: bool,
        first: u64,
        messages: impl Iterator<Item = &'message Message>,
    ) -> ScriptInvocation<'_> {
        let RoomConfig { keys, server, expiry, history, .. } = &*self.config;
        let mut call = self.script.prepare_invoke();
        call.key(&[&keys.stream, &keys.servers, &keys.count]);
        call.key(&[&keys.members, &keys.sequence, &keys.alive_since]);
        call.arg(server)
            .arg(expiry.as_millis() as u64)
            .arg(history)
            .arg(is_registration)
            .arg(first);
        for Message { author, line, kind, .. } in messages {
            let (kind, leave_message) = match kind {
                Kind::Join { leave_message, .. } => ("join", leave_message.as_str()),
                Kind::Leave => ("leave", ""),
                _ => ("message", ""),
            };
            call.arg(u64::from(*author)).arg(line).arg(kind).arg(leave_message);
        }
        call
    }

    /// Calls the script. False if this server is not registered: it has expired, or it registers
    /// with members from before its last appended message.
    fn invoke(
        &self,
        call: &ScriptInvocation<'_>,
        connection: &mut Connection,
    ) -> RedisResult<bool> {
        let (is_registered, last) = call.invoke(connection)?;
        self.shared.acknowledge(last);
        Ok(is_registered)
    }
}
