//! The fibers of one worker: which of them may go on, and how the others wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::desk::{Desk, Team};
use super::seats::{Awaits, Key, Seat, Seats};
use crate::mixin::crew::Crew;
use crate::stream::{Interest, Stream};
use crate::sys::fiber::{self, Fiber, Job};
use crate::sys::prefetch::Span;
use crate::sys::readiness::{Happened, Readiness};
use crate::sys::stack::{Stack, give_back};

/// How many reads and writes a fiber may do before it is another one's turn, if there is one: a
/// client that never ceases to send keeps the others waiting for no longer than these take.
const TURN: u32 = 8;

/// How many stacks are kept for fibers to come, besides one for every four that are in use. When
/// there are twice as many, the rest is given back.
const SPARE_STACKS: usize = 64;

thread_local! {
    static HERE: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };

    /// How many more reads and writes the fiber may do that this thread runs.
    static LEFT_OF_TURN: Cell<u32> = const { Cell::new(0) };
}

/// That of this thread, if it is a worker.
pub(super) fn here() -> Option<Rc<Scheduler>> {
    HERE.with_borrow(Option::clone)
}

/// Whether the fiber that this thread runs may do one more read or write in its turn; `false` where
/// there is none.
pub(super) fn goes_on() -> bool {
    let left = LEFT_OF_TURN.get().checked_sub(1);
    left.inspect(|left| LEFT_OF_TURN.set(*left)).is_some()
}

/// Everything of a worker's that its fibers change.
pub(super) struct Scheduler {
    pub(super) number: usize,
    pub(super) team: Arc<Team>,
    pub(super) crew: Arc<Crew<Job>>,
    pub(super) readiness: Readiness,
    stack_size: usize,
    stacks: RefCell<Vec<Stack>>,
    seats: RefCell<Seats>,
    /// Those that may go on,
    ready: RefCell<VecDeque<Key>>,
    /// and behind them, whoever comes meanwhile, those that have given way.
    gave_way: RefCell<VecDeque<Key>>,
    timers: RefCell<BTreeSet<(Instant, Key)>>,
    running: Cell<Option<Key>>,
    /// How many threads do something for a fiber,
    pub(super) helpers: Cell<usize>,
    /// and the fibers that wait for one of them.
    pub(super) queue: RefCell<VecDeque<Key>>,
}

impl Scheduler {
    /// Makes this thread a worker until `work` returns.
    pub(super) fn run(
        number: usize,
        team: Arc<Team>,
        crew: Arc<Crew<Job>>,
        readiness: Readiness,
        stack_size: usize,
        work: impl FnOnce(&Scheduler),
    ) {
        let scheduler = Rc::new(Scheduler {
            number,
            team,
            crew,
            readiness,
            stack_size,
            stacks: RefCell::default(),
            seats: RefCell::default(),
            ready: RefCell::default(),
            gave_way: RefCell::default(),
            timers: RefCell::default(),
            running: Cell::new(None),
            helpers: Cell::new(0),
            queue: RefCell::default(),
        });
        HERE.set(Some(scheduler.clone()));
        work(&scheduler);
        HERE.set(None);
    }

    pub(super) fn desk(&self) -> &Desk {
        &self.team.desks[self.number]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seats.borrow().count() == 0
    }

    /// A stack for a fiber to come; an error when the system has none.
    pub(super) fn stack(&self) -> io::Result<Stack> {
        let spare = self.stacks.borrow_mut().pop();
        spare.map_or_else(|| Stack::new(self.stack_size), Ok)
    }

    /// Begins a fiber for a request, and gives it its first turn. `prepare` says what it will need,
    /// besides its stack, whenever its turn comes, and what it does.
    pub(super) fn begin<F>(
        &self,
        request: u64,
        stack: Stack,
        prepare: impl FnOnce(Key) -> ([Span; 3], F),
    ) where
        F: FnOnce() + 'static,
    {
        let key = self.seats.borrow_mut().insert(request);
        let (needs, run) = prepare(key);
        let fiber = Fiber::new(stack, run);
        if let Some(seat) = self.seats.borrow_mut().find(key) {
            (seat.fiber, seat.needs) = (Some(fiber), needs);
        }
        self.resume(key);
    }

    /// Gives each of those that may go on now one turn. Whoever has become ready last is the first,
    /// since what the system has just written for it is still in the processor's caches; and since
    /// it is one turn each, nobody waits for longer than it takes to go round twice.
    pub(super) fn run_ready(&self) {
        let mut ready = self.ready.borrow_mut();
        ready.make_contiguous().reverse();
        ready.append(&mut self.gave_way.borrow_mut());
        let count = ready.len();
        drop(ready);
        for _ in 0..count {
            let mut ready = self.ready.borrow_mut();
            let next = ready.pop_front();
            self.seats.borrow_mut().prepare([ready.front(), ready.get(1)]);
            drop(ready);
            next.inspect(|next| self.resume(*next));
        }
    }

    fn resume(&self, key: Key) {
        let taken = self
            .seats
            .borrow_mut()
            .find(key)
            .and_then(|seat| seat.fiber.take().map(|fiber| (fiber, seat.request)));
        let Some((mut fiber, request)) = taken else { return };
        self.running.set(Some(key));
        LEFT_OF_TURN.set(TURN);
        self.desk().begin_turn(request);
        let has_ended = fiber.resume();
        self.desk().end_turn();
        self.running.set(None);
        if has_ended {
            self.end(key, fiber);
        } else if let Some(seat) = self.seats.borrow_mut().find(key) {
            seat.fiber = Some(fiber);
        }
    }

    fn end(&self, key: Key, fiber: Fiber) {
        let mut seats = self.seats.borrow_mut();
        if let Some(timer) = seats.remove(key).and_then(|seat| seat.timer) {
            self.timers.borrow_mut().remove(&(timer, key));
        }
        let mut stacks = self.stacks.borrow_mut();
        stacks.extend(fiber.into_stack());
        let most = SPARE_STACKS + seats.count() / 4;
        if stacks.len() > 2 * most {
            // Those that have been here longest: the others are still in the caches.
            let too_many = stacks.len() - most;
            give_back(stacks.drain(..too_many));
        }
        drop((seats, stacks));
        self.desk().is_done_with_one();
    }

    /// How long there is nothing to do unless something happens; `None`: for ever.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        if !(self.ready.borrow().is_empty() && self.gave_way.borrow().is_empty()) {
            return Some(Duration::ZERO);
        }
        let timers = self.timers.borrow();
        timers.first().map(|(timer, _)| timer.saturating_duration_since(Instant::now()))
    }

    /// Something has happened to a fiber's stream.
    pub(super) fn note(&self, key: Key, happened: Happened) {
        if let Some(seat) = self.seats.borrow_mut().find(key) {
            seat.note(happened);
            if let Awaits::Stream(interest) = seat.awaits
                && seat.take_readiness(interest)
            {
                seat.awaits = Awaits::Turn;
                self.ready.borrow_mut().push_back(key);
            }
        }
    }

    /// A fiber has got word. It may have noticed by itself, and be at something else.
    pub(super) fn note_word(&self, key: Key) {
        self.wake(key, Awaits::Word);
    }

    /// Lets a fiber go on if it still awaits this.
    pub(super) fn wake(&self, key: Key, awaits: Awaits) {
        if let Some(seat) = self.seats.borrow_mut().find(key)
            && seat.awaits == awaits
        {
            seat.awaits = Awaits::Turn;
            self.ready.borrow_mut().push_back(key);
        }
    }

    /// Wakes those whose time has come.
    pub(super) fn note_time(&self) {
        let mut timers = self.timers.borrow_mut();
        if timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((timer, key)) = timers.first().copied().filter(|(timer, _)| *timer <= now) {
            timers.remove(&(timer, key));
            let mut seats = self.seats.borrow_mut();
            let Some(seat) = seats.find(key) else { continue };
            seat.timer = None;
            match seat.until {
                // It was set for what came in time, and now something else is waited for.
                Some(until) if seat.awaits != Awaits::Turn && until > now => {
                    seat.timer = Some(until);
                    timers.insert((until, key));
                }
                Some(_) if seat.awaits != Awaits::Turn => {
                    seat.is_late = true;
                    seat.awaits = Awaits::Turn;
                    self.ready.borrow_mut().push_back(key);
                }
                _ => {}
            }
        }
    }

    // What follows is done by fibers.

    /// Whose turn it is.
    pub(super) fn running(&self) -> Option<Key> {
        self.running.get()
    }

    /// Puts the running fiber aside until it gets what it awaits; `false` when it did not until
    /// `until` (`None`: for ever).
    pub(super) fn put_aside(&self, key: Key, awaits: Awaits, until: Option<Instant>) -> bool {
        if let Some(seat) = self.seats.borrow_mut().find(key) {
            seat.awaits = awaits;
            seat.until = until;
            if let Some(until) = until {
                self.set_timer(key, seat, until);
            }
        }
        fiber::suspend();
        let mut seats = self.seats.borrow_mut();
        !seats.find(key).is_some_and(|seat| std::mem::take(&mut seat.is_late))
    }

    // Not a part of its caller, whose frame is in memory as long as the fiber waits.
    #[inline(never)]
    fn set_timer(&self, key: Key, seat: &mut Seat, until: Instant) {
        if seat.timer.is_none_or(|timer| until < timer) {
            let mut timers = self.timers.borrow_mut();
            if let Some(timer) = seat.timer.replace(until) {
                timers.remove(&(timer, key));
            }
            timers.insert((until, key));
        }
    }

    pub(super) fn wait_for(
        &self,
        key: Key,
        stream: &dyn Stream,
        interest: Interest,
        until: Option<Instant>,
    ) -> io::Result<()> {
        let Some(fd) = stream.as_fd() else { return Ok(()) };
        if let Some(seat) = self.seats.borrow_mut().find(key) {
            if seat.take_readiness(interest) {
                return Ok(());
            }
            if !seat.is_watched {
                self.readiness.watch(fd, key.number())?;
                seat.is_watched = true;
            }
        }
        match self.put_aside(key, Awaits::Stream(interest), until) {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// It is another one's turn.
    pub(super) fn give_way(&self, key: Key) {
        self.gave_way.borrow_mut().push_back(key);
        self.put_aside(key, Awaits::Turn, None);
    }
}
