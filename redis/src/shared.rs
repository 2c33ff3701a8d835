//! What the members' threads and the two threads that talk to Redis have in common.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use socketserver::services::{Audience, Message};

use crate::outbox::Outbox;

/// Between two attempts to connect; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the last words may take at the end, and how much longer whoever speaks them.
const FAREWELL: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) audience: Audience,
    state: Mutex<State>,
    /// There is something to say, or it is all over.
    more: Condvar,
    /// It is all over, or a thread is done.
    ended: Condvar,
    /// There is room in the outbox, or nobody who would make it.
    room: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) outbox: Outbox,
    /// What Redis calls the connection that reads.
    pub(crate) reader_client: u64,
    /// Which sides are cut off, or may be.
    cut: Vec<Side>,
    /// How much of what was said while they were did not fit.
    lost: u64,
    /// When the last words are to have been said.
    ends: Option<Instant>,
    /// How many threads are done.
    done: usize,
}

/// Each has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Appending,
    Reading,
}

impl Shared {
    pub(crate) fn new(audience: Audience, capacity: usize) -> Shared {
        let outbox = Outbox::new(capacity);
        let state =
            State { outbox, reader_client: 0, cut: Vec::new(), lost: 0, ends: None, done: 0 };
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
    pub(crate) fn publish(&self, mut message: Message) {
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

    /// Waits until there is something to say, `until` comes, or the end; or a doubt whether Redis
    /// is there.
    pub(crate) fn wait(&self, until: Instant) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let is_sure = |state: &State| !state.cut.contains(&Side::Appending);
        while state.outbox.is_empty() && !state.is_ending() && is_sure(&state) {
            if self.more.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state
    }

    /// Redis has all messages up to this number.
    pub(crate) fn acknowledge(&self, last: u64) {
        self.state.lock().outbox.acknowledge(last);
        self.room.notify_all();
    }

    /// Calls `session` again and again until one ends without an error, with longer and longer
    /// pauses. A session says when it is [`connected`](Shared::connected).
    pub(crate) fn keep_connected(
        &self,
        side: Side,
        mut session: impl FnMut() -> redis::RedisResult<()>,
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begin = Instant::now();
            let Err(error) = session() else { break };
            self.disconnected(side, &error);
            // One that fails as soon as it is connected is not to be hurried.
            if begin.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let mut state = self.state.lock();
            if state.is_over() || (state.is_ending() && side == Side::Reading) {
                break;
            }
            self.ended.wait_for(&mut state, pause);
            drop(state);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// As what Redis knows the connection that reads, to end its waiting by.
    pub(crate) fn reader_is(&self, client: u64) {
        self.state.lock().reader_client = client;
    }

    pub(crate) fn connected(&self, side: Side) {
        let mut state = self.state.lock();
        let was_cut = !state.cut.is_empty();
        state.cut.retain(|cut| *cut != side);
        if !was_cut || !state.cut.is_empty() {
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        let lost = if lost > 0 { format!("; {}", losing(lost)) } else { String::new() };
        self.notice(format!("Connected to the other servers again{lost}"));
    }

    fn disconnected(&self, side: Side, error: &redis::RedisError) {
        let mut state = self.state.lock();
        let is_first = state.cut.is_empty();
        let is_news = !state.cut.contains(&side);
        // The other side may have nothing to say for a while, and so not notice.
        for side in [side, Side::Appending] {
            if !state.cut.contains(&side) {
                state.cut.push(side);
            }
        }
        let capacity = state.outbox.capacity();
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
    }

    /// For everybody at this server, and the log.
    pub(crate) fn notice(&self, text: impl fmt::Display) {
        log::warn!("chat: {text}");
        self.audience.deliver(&format!("* {text}"), None);
    }

    /// From now on nothing is waited for but that what was said reaches Redis. Whether so many
    /// threads were done with that in time.
    pub(crate) fn end(&self, threads: usize) -> bool {
        let ends = Instant::now() + FAREWELL;
        let mut state = self.state.lock();
        state.ends = Some(ends);
        self.more.notify_all();
        self.ended.notify_all();
        let works = |state: &mut State| state.done < threads;
        !self.ended.wait_while_until(&mut state, works, ends + GRACE).timed_out()
    }

    /// One of the threads is done.
    pub(crate) fn done(&self) {
        self.state.lock().done += 1;
        self.ended.notify_all();
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.state.lock().is_ending()
    }
}

/// What a notice says of so many lines.
pub(crate) fn losing(lines: u64) -> String {
    match lines {
        1 => "1 line was lost".to_owned(),
        _ => format!("{lines} lines were lost"),
    }
}

impl State {
    /// Whether only last words are to be said.
    pub(crate) fn is_ending(&self) -> bool {
        self.ends.is_some()
    }

    /// Whether it is too late even for those.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }
}
