//! What the members' threads share with the appender and the reader: [`Shared`].

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use socketserver::extend::{LocalMembers, Message};

use crate::outbox::Outbox;

/// The pause after a failed connection; doubled each time.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// How long a shutdown waits for the outbox to be appended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer it waits for the two threads to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) members: LocalMembers,
    state: Mutex<State>,
    /// The outbox is not empty, a connection has failed, or the shutdown begins.
    to_append: Condvar,
    /// The shutdown begins, or a thread exits.
    shutdown: Condvar,
    /// The outbox has space, or a connection has failed.
    space: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) outbox: Outbox,
    /// The id of the reader's connection in Redis.
    pub(crate) reader_client: u64,
    /// The sides whose connections have failed. The appender is among them, too, when the reader
    /// has failed, until it has checked its own connection.
    disconnected: Vec<Side>,
    /// How many messages were lost for want of space meanwhile.
    lost: u64,
    /// When a shutdown gives up appending. `None` before the shutdown.
    deadline: Option<Instant>,
    /// How many threads have exited.
    exited: usize,
}

/// The two connections to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Appending,
    Reading,
}

impl Shared {
    pub(crate) fn new(members: LocalMembers, capacity: usize) -> Shared {
        let outbox = Outbox::new(capacity);
        let state = State {
            outbox,
            reader_client: 0,
            disconnected: Vec::new(),
            lost: 0,
            deadline: None,
            exited: 0,
        };
        Shared {
            members,
            state: Mutex::new(state),
            to_append: Condvar::new(),
            shutdown: Condvar::new(),
            space: Condvar::new(),
        }
    }

    /// Puts a message into the outbox. If that is full, this waits while Redis is connected; else
    /// the message is lost, and the members receive a notice.
    pub(crate) fn publish(&self, mut message: Message) {
        let mut state = self.state.lock();
        while let Err(refused) = state.outbox.try_push(message) {
            if state.disconnected.contains(&Side::Appending) {
                state.lost += 1;
                if state.lost == 1 {
                    drop(state);
                    self.notice("Too much was said meanwhile; from now on it is lost");
                }
                return;
            }
            message = refused;
            self.space.wait(&mut state);
        }
        drop(state);
        self.to_append.notify_one();
    }

    /// Waits until there are messages to append or the shutdown begins, at most until `deadline`.
    /// Also returns when the reader's connection has failed, so that the appender checks its own.
    pub(crate) fn wait_for_work(&self, deadline: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let is_connected = |state: &State| !state.disconnected.contains(&Side::Appending);
        while state.outbox.is_empty() && !state.is_shutting_down() && is_connected(&state) {
            if self.to_append.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state
    }

    /// Removes the messages up to this number, which Redis has, from the outbox.
    pub(crate) fn acknowledge(&self, last: u64) {
        self.state.lock().outbox.acknowledge(last);
        self.space.notify_all();
    }

    /// Calls `session` until it returns without an error, with exponential backoff. A session calls
    /// [`on_connected`](Shared::on_connected) once it is.
    pub(crate) fn keep_connected(
        &self,
        side: Side,
        mut session: impl FnMut() -> redis::RedisResult<()>,
    ) {
        let mut pause = MIN_BACKOFF;
        loop {
            let begin = Instant::now();
            let Err(error) = session() else { break };
            self.on_disconnected(side, &error);
            // A session that fails soon after it has connected does not reset the backoff.
            if begin.elapsed() > MAX_BACKOFF {
                pause = MIN_BACKOFF;
            }
            let mut state = self.state.lock();
            if state.is_past_deadline() || (state.is_shutting_down() && side == Side::Reading) {
                break;
            }
            self.shutdown.wait_for(&mut state, pause);
            drop(state);
            pause = MAX_BACKOFF.min(pause * 2);
        }
    }

    /// Sets the id of the reader's connection, whose `XREAD` the shutdown unblocks.
    pub(crate) fn set_reader_client(&self, client: u64) {
        self.state.lock().reader_client = client;
    }

    pub(crate) fn on_connected(&self, side: Side) {
        let mut state = self.state.lock();
        let was_disconnected = !state.disconnected.is_empty();
        state.disconnected.retain(|other| *other != side);
        if !was_disconnected || !state.disconnected.is_empty() {
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        let lost = if lost > 0 { format!("; {}", lost_lines(lost)) } else { String::new() };
        self.notice(format!("Connected to the other servers again{lost}"));
    }

    fn on_disconnected(&self, side: Side, error: &redis::RedisError) {
        let mut state = self.state.lock();
        let is_first = state.disconnected.is_empty();
        let was_connected = !state.disconnected.contains(&side);
        // The appender may be idle, and notice only at its next heartbeat.
        for side in [side, Side::Appending] {
            if !state.disconnected.contains(&side) {
                state.disconnected.push(side);
            }
        }
        let capacity = state.outbox.capacity();
        drop(state);
        self.to_append.notify_one();
        self.space.notify_all();
        if was_connected {
            log::warn!("chat: {side:?} failed, and is tried again: {error}");
        }
        if is_first {
            self.notice(format!(
                "Cut off from the other servers; what is said is kept, up to {capacity} bytes"
            ));
        }
    }

    /// Logs a notice, and delivers it to this server's members.
    pub(crate) fn notice(&self, text: impl fmt::Display) {
        log::warn!("chat: {text}");
        self.members.deliver(&format!("* {text}"), None);
    }

    /// Has the threads append what is in the outbox and exit. Returns whether this many threads
    /// have exited in time.
    pub(crate) fn shut_down(&self, threads: usize) -> bool {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.state.lock();
        state.deadline = Some(deadline);
        self.to_append.notify_all();
        self.shutdown.notify_all();
        let are_running = |state: &mut State| state.exited < threads;
        !self
            .shutdown
            .wait_while_until(&mut state, are_running, deadline + EXIT_TIMEOUT)
            .timed_out()
    }

    /// Called by each thread at its end.
    pub(crate) fn thread_exited(&self) {
        self.state.lock().exited += 1;
        self.shutdown.notify_all();
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.state.lock().is_shutting_down()
    }
}

/// As in `2 lines were lost`.
pub(crate) fn lost_lines(lines: u64) -> String {
    match lines {
        1 => "1 line was lost".to_owned(),
        _ => format!("{lines} lines were lost"),
    }
}

impl State {
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.deadline.is_some()
    }

    /// Whether the shutdown has given up appending.
    pub(crate) fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}
