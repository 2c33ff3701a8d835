//! What the members' threads and the two threads that talk to Redis have in common.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::outbox::Outbox;
use crate::services::{Audience, Message};

/// Between two attempts to connect; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the last words may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) audience: Audience,
    state: Mutex<State>,
    /// There is something to say, or it is all over.
    more: Condvar,
    /// It is all over.
    ended: Condvar,
    /// There is room in the outbox, or nobody who would make it.
    room: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) outbox: Outbox,
    /// What Redis calls the connection that reads.
    pub(super) reader: u64,
    /// Whether whoever appends had better ask at once if Redis is there.
    doubt: bool,
    /// Which sides are cut off.
    cut: Vec<Side>,
    /// How much of what was said while they were did not fit.
    lost: u64,
    /// When the last words are to have been said.
    ends: Option<Instant>,
}

/// Each has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Appending,
    Reading,
}

impl Shared {
    pub(super) fn new(audience: Audience, capacity: usize) -> Shared {
        let outbox = Outbox::new(capacity);
        let state = State { outbox, reader: 0, doubt: false, cut: Vec::new(), lost: 0, ends: None };
        Shared {
            audience,
            state: Mutex::new(state),
            more: Condvar::new(),
            ended: Condvar::new(),
            room: Condvar::new(),
        }
    }

    /// Takes a message to be appended. Where messages come faster than Redis takes them, this
    /// waits; where there is no Redis, and no room, the message is lost, and the room is told.
    pub(super) fn publish(&self, mut message: Message) {
        let mut state = self.state.lock();
        while let Err(refused) = state.outbox.put(message) {
            if state.cut.contains(&Side::Appending) {
                state.lost += 1;
                if state.lost == 1 {
                    drop(state);
                    self.notice("Too much was said meanwhile; from now on it is lost");
                }
                return;
            }
            message = refused;
            self.room.wait(&mut state);
        }
        drop(state);
        self.more.notify_one();
    }

    /// Waits until there is something to say, `until` comes, or the end.
    pub(super) fn wait(&self, until: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while state.outbox.is_empty() && state.ends.is_none() && !std::mem::take(&mut state.doubt) {
            if self.more.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state
    }

    /// Redis has all messages up to this number.
    pub(super) fn acknowledge(&self, last: u64) {
        self.state.lock().outbox.acknowledge(last);
        self.room.notify_all();
    }

    /// Calls `session` again and again until one ends without an error, with longer and longer
    /// pauses. A session says when it is [`connected`](Shared::connected).
    pub(super) fn keep_connected(
        &self,
        side: Side,
        mut session: impl FnMut() -> redis::RedisResult<()>,
    ) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = session() {
            if self.disconnected(side, &error) {
                pause = FIRST_PAUSE;
            }
            let mut state = self.state.lock();
            if state.ends.is_some_and(|ends| ends <= Instant::now() || side == Side::Reading) {
                break;
            }
            self.ended.wait_for(&mut state, pause);
            drop(state);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// As what Redis knows the connection that reads, to end its waiting by.
    pub(super) fn reads_as(&self, client: u64) {
        self.state.lock().reader = client;
    }

    pub(super) fn connected(&self, side: Side) {
        let mut state = self.state.lock();
        let was_cut = !state.cut.is_empty();
        state.cut.retain(|cut| *cut != side);
        if !was_cut || !state.cut.is_empty() {
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        let lost = match lost {
            0 => String::new(),
            1 => "; 1 line was lost".to_owned(),
            _ => format!("; {lost} lines were lost"),
        };
        self.notice(format!("Connected to the other servers again{lost}"));
    }

    /// Whether it was connected until now.
    fn disconnected(&self, side: Side, error: &redis::RedisError) -> bool {
        let mut state = self.state.lock();
        let is_first = state.cut.is_empty();
        let is_news = !state.cut.contains(&side);
        if is_news {
            state.cut.push(side);
        }
        let capacity = state.outbox.capacity();
        // It may have nothing to say for a while, and so not notice.
        state.doubt = side == Side::Reading;
        drop(state);
        self.more.notify_one();
        self.room.notify_all();
        if is_news {
            log::warn!("chat: {side:?} on Redis failed, and is tried again: {error}");
        }
        if is_first {
            self.notice(format!(
                "Cut off from the other servers; what is said is kept, up to {capacity} bytes"
            ));
        }
        is_news
    }

    /// For everybody at this server, and the log.
    pub(super) fn notice(&self, text: impl fmt::Display) {
        log::warn!("chat: {text}");
        self.audience.deliver(&format!("* {text}"), None);
    }

    /// From now on nothing is waited for but that what was said reaches Redis.
    pub(super) fn end(&self) {
        self.state.lock().ends = Some(Instant::now() + FAREWELL);
        self.more.notify_all();
        self.ended.notify_all();
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.state.lock().ends.is_some()
    }
}
