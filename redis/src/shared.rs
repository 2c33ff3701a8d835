//! What the members' threads and the two threads that talk to Redis have in common.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use socketserver::services::{LocalMembers, Message};

use crate::outbox::Outbox;

/// Between two attempts to connect; doubled each time.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// How long the last words may take at the end, and how much longer whoever speaks them.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) members: LocalMembers,
    state: Mutex<State>,
    /// There is something to say, or it is all over.
    to_append: Condvar,
    /// It is all over, or a thread is done.
    shutdown: Condvar,
    /// There is room in the outbox, or nobody who would make it.
    space: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) outbox: Outbox,
    /// What Redis calls the connection that reads.
    pub(crate) reader_client: u64,
    /// Which sides are cut off, or may be.
    disconnected: Vec<Side>,
    /// How much of what was said while they were did not fit.
    lost: u64,
    /// When the last words are to have been said.
    deadline: Option<Instant>,
    /// How many threads are done.
    exited: usize,
}

/// Each has a connection of its own.
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

    /// Takes a message to be appended. Where messages come faster than Redis takes them, this
    /// waits; where there is no Redis, and no room, the message is lost, and the room is told.
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

    /// Waits until there is something to say, `until` comes, or the end; or a doubt whether Redis
    /// is there.
    pub(crate) fn wait_for_work(&self, deadline: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let is_sure = |state: &State| !state.disconnected.contains(&Side::Appending);
        while state.outbox.is_empty() && !state.is_shutting_down() && is_sure(&state) {
            if self.to_append.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state
    }

    /// Redis has all messages up to this number.
    pub(crate) fn acknowledge(&self, last: u64) {
        self.state.lock().outbox.acknowledge(last);
        self.space.notify_all();
    }

    /// Calls `session` again and again until one ends without an error, with longer and longer
    /// pauses. A session says when it is [`connected`](Shared::on_connected).
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
            // One that fails as soon as it is connected is not to be hurried.
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

    /// As what Redis knows the connection that reads, to end its waiting by.
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
        let is_news = !state.disconnected.contains(&side);
        // The other side may have nothing to say for a while, and so not notice.
        for side in [side, Side::Appending] {
            if !state.disconnected.contains(&side) {
                state.disconnected.push(side);
            }
        }
        let capacity = state.outbox.capacity();
        drop(state);
        self.to_append.notify_one();
        self.space.notify_all();
        if is_news {
            log::warn!("chat: {side:?} on Redis failed, and is tried again: {error}");
        }
        if is_first {
            self.notice(format!(
                "Cut off from the other servers; what is said is kept, up to {capacity} bytes"
            ));
        }
    }

    /// For everybody at this server, and the log.
    pub(crate) fn notice(&self, text: impl fmt::Display) {
        log::warn!("chat: {text}");
        self.members.deliver(&format!("* {text}"), None);
    }

    /// From now on nothing is waited for but that what was said reaches Redis. Whether so many
    /// threads were done with that in time.
    pub(crate) fn shut_down(&self, threads: usize) -> bool {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.state.lock();
        state.deadline = Some(deadline);
        self.to_append.notify_all();
        self.shutdown.notify_all();
        let works = |state: &mut State| state.exited < threads;
        !self.shutdown.wait_while_until(&mut state, works, deadline + EXIT_TIMEOUT).timed_out()
    }

    /// One of the threads is done.
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

/// What a notice says of so many lines.
pub(crate) fn lost_lines(lines: u64) -> String {
    match lines {
        1 => "1 line was lost".to_owned(),
        _ => format!("{lines} lines were lost"),
    }
}

impl State {
    /// Whether only last words are to be said.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.deadline.is_some()
    }

    /// Whether it is too late even for those.
    pub(crate) fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}
