//! One of the threads that fibers run on: it waits for all that concerns them, and for newcomers.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use super::desk::{Message, Team};
use super::on_fiber::serve;
use super::scheduler::Scheduler;
use super::seats::Key;
use crate::control::Control;
use crate::listener::{Accepted, Listener};
use crate::mixin::crew::Crew;
use crate::sys::fiber::Job;
use crate::sys::readiness::Readiness;
use crate::sys::stack::expect_overflow;

/// The most newcomers before those who are here get their turn.
const NEWCOMERS: usize = 16;

/// By how many requests a worker may have more than another and still keep a newcomer: handing
/// over costs more than serving one that never waits, which this leaves where it is.
const SLACK: usize = 1;

/// What a worker waits for besides the streams of its fibers: numbers that are no fiber's.
const BELL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const STOP: u64 = u64::MAX - 2;

pub(super) struct Worker {
    number: usize,
    team: Arc<Team>,
    control: Arc<Control>,
    /// None where it only serves what it is handed.
    listener: Weak<Listener>,
    crew: Arc<Crew<Job>>,
    readiness: Readiness,
}

impl Worker {
    pub(super) fn new(
        number: usize,
        team: Arc<Team>,
        control: Arc<Control>,
        listener: Weak<Listener>,
        crew: Arc<Crew<Job>>,
    ) -> io::Result<Worker> {
        let readiness = Readiness::new()?;
        readiness.watch_input(team.desks[number].bell.as_fd(), BELL)?;
        if let Some(listener) = listener.upgrade() {
            readiness.watch_input(listener.control.stop_signal(), STOP)?;
        }
        Ok(Worker { number, team, control, listener, crew, readiness })
    }

    pub(super) fn work(self, stack_size: usize) {
        let Worker { number, team, control, listener, crew, readiness } = self;
        expect_overflow();
        Scheduler::run(number, team.clone(), crew, readiness, stack_size, |scheduler| {
            let door = Door { scheduler, control, listener, is_open: Cell::new(false) };
            door.open();
            while !(scheduler.desk().is_closed() && scheduler.is_empty()) {
                round(scheduler, &door, &team);
            }
        });
    }
}

/// Waits for whatever comes next, and sees to all that has come.
fn round(scheduler: &Scheduler, door: &Door<'_>, team: &Team) {
    let (mut bell, mut newcomers, mut stop) = (false, false, false);
    scheduler.desk().end_round();
    scheduler.readiness.wait(scheduler.idle_time(), |number, happened| match number {
        BELL => bell = true,
        LISTENER => newcomers = true,
        STOP => stop = true,
        fiber => scheduler.note(Key::of(fiber), happened),
    });
    scheduler.desk().begin_round(team.now());
    scheduler.note_time();
    if bell {
        for message in scheduler.desk().take_messages() {
            match message {
                Message::Request(request) => {
                    team.alarm.give();
                    serve(request, scheduler);
                    // If there was no room for newcomers, there was some for this one.
                    door.open();
                }
                Message::Word(fiber) => scheduler.note_word(fiber),
            }
        }
    }
    scheduler.run_ready();
    if stop {
        door.close_for_good();
    } else if newcomers {
        door.welcome(team);
    }
}

/// A worker's way in for newcomers.
struct Door<'a> {
    scheduler: &'a Scheduler,
    control: Arc<Control>,
    listener: Weak<Listener>,
    is_open: Cell<bool>,
}

impl Door<'_> {
    /// Watches the listener from now on, so that nobody else has to.
    fn open(&self) {
        if self.is_open.get() || self.control.is_stopping() {
            return;
        }
        let Some(listener) = self.listener.upgrade() else { return };
        match self.scheduler.readiness.share_input(listener.as_fd(), LISTENER) {
            Ok(()) => {
                listener.begin_watch();
                self.is_open.set(true);
            }
            // Then whoever has the turn takes them in.
            Err(error) => log::debug!("a worker cannot watch the listener: {error}"),
        }
    }

    fn close(&self) {
        if let (true, Some(listener)) = (self.is_open.replace(false), self.listener.upgrade()) {
            self.scheduler.readiness.forget(listener.as_fd());
            listener.end_watch();
        }
    }

    /// The server stops; what is in the backlog is for whoever has the turn.
    fn close_for_good(&self) {
        self.close();
        self.scheduler.readiness.forget(self.control.stop_signal());
    }

    fn welcome(&self, team: &Team) {
        let Some(listener) = self.listener.upgrade() else { return };
        for _ in 0..NEWCOMERS {
            match listener.accept() {
                Accepted::Request(request) => {
                    let least_busy = team.least_busy();
                    let (me, other) = (self.scheduler.desk(), &team.desks[least_busy]);
                    // Whoever takes newcomers in goes on, even if it has for long.
                    if me.load() > other.load() + SLACK && !team.is_held_up(least_busy) {
                        other.post(Message::Request(request));
                    } else {
                        me.take_on();
                        team.alarm.give();
                        serve(request, self.scheduler);
                    }
                }
                // It may have been turned away, and be looked after until it has read why.
                Accepted::Another => self.control.reconsider(),
                Accepted::Nobody => return,
                Accepted::Closed => {
                    self.close();
                    // Whoever has the turn waits for the end of that.
                    return self.control.reconsider();
                }
            }
        }
    }
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        self.close();
    }
}
