//! What one member sends all others get: once, whole, in the order in which it was sent.
//!
//! A line comes as `[HOST:PORT] line`, by the sender's address, and nobody gets its own. Besides
//! there are a greeting, and notices of who has joined.

use std::io::BufRead;
use std::time::{Duration, Instant};

use super::net::{Connection, Events, Poller};
use super::order::{Line, Order};
use super::payload::Payload;
use super::window::Window;
use super::{Outcome, PATIENCE, Target, of};

/// How many may have connected and not been greeted yet.
const JOINING: usize = 32;
/// After so long nobody else will hear a call.
const SILENCE: Duration = Duration::from_millis(20);
const GREETING: &[u8] = b"You're connected to the chat server\r\n";

pub(crate) fn run(members: usize, senders: usize, in_flight: usize, target: Target) -> Outcome {
    let mut room = Room::new(members, senders, in_flight)?;
    room.gather(&[target])?;
    room.talk(in_flight, Window::open(target))
}

pub(super) struct Room {
    poller: Poller,
    events: Events,
    buffer: Vec<u8>,
    payload: Payload,
    size: usize,
    members: Vec<Member>,
    senders: Vec<Sender>,
    greeted: usize,
    /// How many lines have not come to somebody to whom they were sent.
    missing: u64,
    /// In which order all are to read the lines, where that is promised.
    order: Option<Order>,
}

struct Member {
    connection: Connection,
    /// What stands before its lines.
    prefix: Vec<u8>,
    greeted: bool,
    /// A line of which the end has not come.
    part: Vec<u8>,
    /// For each sender, the number of the line that comes next. Before it is certain that this is
    /// a member, any may be the first.
    next: Vec<Option<u32>>,
}

#[derive(Default)]
struct Sender {
    sent: u32,
    /// For each line in flight, at its number modulo their number: when it was sent, and how many
    /// do not have it.
    lines: Vec<Option<(Instant, usize)>>,
}

impl Room {
    pub(super) fn new(members: usize, senders: usize, in_flight: usize) -> Result<Room, String> {
        assert!((2..=members).contains(&senders), "two senders find all members");
        let lines = || Sender { sent: 0, lines: vec![None; in_flight] };
        Ok(Room {
            poller: Poller::new().map_err(|error| error.to_string())?,
            events: Events::new(),
            buffer: vec![0; 256 * 1024],
            payload: Payload::new(64),
            size: members,
            members: Vec::with_capacity(members),
            senders: (0..senders).map(|_| lines()).collect(),
            greeted: 0,
            missing: 0,
            order: None,
        })
    }

    /// Everybody comes, as many to each of the servers, and hears everybody.
    pub(super) fn gather(&mut self, servers: &[Target]) -> Result<(), String> {
        self.join(servers)?;
        self.find_each_other()
    }

    /// From now on, all must read the lines in one order.
    pub(super) fn expect_one_order(&mut self) {
        self.order = Some(Order::new(self.size, self.senders.len()));
    }

    /// Everybody who sends has so many lines on their way as long as the window is open; then
    /// everything that was sent must come.
    pub(super) fn talk(&mut self, in_flight: usize, mut window: Window) -> Outcome {
        let senders = 0..self.senders.len();
        for sender in senders.clone() {
            self.send(sender, in_flight)?;
        }
        while window.is_open()? {
            let mut done = Vec::new();
            self.turn(&mut window, &mut done)?;
            for sender in done {
                self.send(sender, 1)?;
            }
        }
        self.hear_everything()?;
        // Whatever was sent twice stands before this.
        for sender in senders {
            self.send(sender, 1)?;
        }
        self.hear_everything()?;
        if let Some(order) = &mut self.order {
            order.settle()?;
        }
        window.figures()
    }

    /// Everybody connects, and is greeted.
    fn join(&mut self, servers: &[Target]) -> Result<(), String> {
        while self.greeted < self.size {
            while self.members.len() < self.size && self.members.len() - self.greeted < JOINING {
                let index = self.members.len();
                let address = servers[index % servers.len()].address;
                let opened = Connection::open(address, index, &self.poller);
                let connection = of(index, opened)?;
                let prefix = format!("[{}] ", of(index, connection.local_addr())?).into_bytes();
                let next = vec![None; self.senders.len()];
                let member = Member { connection, prefix, greeted: false, part: Vec::new(), next };
                self.members.push(member);
            }
            self.hear(&mut |_, _, _| ())?;
        }
        Ok(())
    }

    /// Who has been greeted may not have joined yet. So two of the members send until all others
    /// have heard of them: from then on, nothing may be missing.
    fn find_each_other(&mut self) -> Result<(), String> {
        let unheard = |room: &Room, sender: usize| {
            let mut members = room.members.iter().enumerate();
            members.any(|(index, member)| index != sender && member.next[sender].is_none())
        };
        for sender in [0, 1] {
            let begun = Instant::now();
            self.call(sender)?;
            while unheard(self, sender) {
                if self.hear_for(SILENCE, &mut |_, _, _| ())? {
                    continue;
                }
                if begun.elapsed() > PATIENCE {
                    return Err(format!("not everybody hears client {sender}"));
                }
                self.call(sender)?;
            }
        }
        while self.behind(&[0, 1]) {
            self.hear(&mut |_, _, _| ())?;
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            for (sender, next) in member.next.iter_mut().enumerate() {
                if sender != index {
                    *next = next.or(Some(0));
                }
            }
        }
        Ok(())
    }

    /// Whether somebody has not heard the last of these senders' lines.
    fn behind(&self, senders: &[usize]) -> bool {
        self.members.iter().enumerate().any(|(index, member)| {
            let heard = |&sender: &usize| member.next[sender] == Some(self.senders[sender].sent);
            !senders.iter().all(|sender| *sender == index || heard(sender))
        })
    }

    /// A line that nobody needs to hear.
    fn call(&mut self, sender: usize) -> Result<(), String> {
        let mut line = Vec::new();
        self.payload.append(sender, self.senders[sender].sent, &mut line);
        self.senders[sender].sent += 1;
        of(sender, self.members[sender].connection.send(&line, sender, &self.poller))
    }

    /// Lines that everybody else must get.
    fn send(&mut self, sender: usize, count: usize) -> Result<(), String> {
        let mut lines = Vec::new();
        let now = Instant::now();
        let state = &mut self.senders[sender];
        for _ in 0..count {
            let slot = state.sent as usize % state.lines.len();
            state.lines[slot] = Some((now, self.size - 1));
            self.payload.append(sender, state.sent, &mut lines);
            state.sent += 1;
        }
        self.missing += (count * (self.size - 1)) as u64;
        of(sender, self.members[sender].connection.send(&lines, sender, &self.poller))
    }

    /// Hears what there is, and says whose line everybody has now.
    fn turn(&mut self, window: &mut Window, done: &mut Vec<usize>) -> Result<(), String> {
        self.hear_for(window.patience(), &mut |sender, all, times| {
            if let Some((sent, now)) = times {
                window.count(sent, now);
            }
            if all {
                done.push(sender);
            }
        })?;
        Ok(())
    }

    fn hear_everything(&mut self) -> Result<(), String> {
        while self.missing > 0 {
            self.hear(&mut |_, _, _| ())
                .map_err(|error| format!("{error}; {} deliveries are missing", self.missing))?;
        }
        Ok(())
    }

    /// As [`hear_for`](Room::hear_for), where it is an error if nothing comes.
    fn hear(&mut self, heard: &mut Heard<'_>) -> Result<(), String> {
        if self.hear_for(PATIENCE, heard)? {
            Ok(())
        } else {
            Err(format!("nothing was heard for {PATIENCE:?}"))
        }
    }

    /// Waits for what comes, reads it and compares. Returns whether anything could be done.
    fn hear_for(&mut self, limit: Duration, heard: &mut Heard<'_>) -> Result<bool, String> {
        let mut events = std::mem::replace(&mut self.events, Events::none());
        self.poller.wait(&mut events, limit).map_err(|error| error.to_string())?;
        for ready in events.iter() {
            let index = ready.index;
            if ready.to_write {
                of(index, self.members[index].connection.flush(index, &self.poller))?;
            }
            if ready.to_read {
                self.read(index, heard)?;
            }
        }
        let any = !events.is_empty();
        self.events = events;
        Ok(any)
    }

    fn read(&mut self, index: usize, heard: &mut Heard<'_>) -> Result<(), String> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let length = match of(index, self.members[index].connection.read(&mut buffer))? {
            Some(0) => return Err(format!("client {index} was disconnected")),
            length => length.unwrap_or(0),
        };
        let now = Instant::now();
        let mut rest = &buffer[..length];
        loop {
            let mut after = rest;
            // Reading from memory does not fail.
            let line = &rest[..after.skip_until(b'\n').unwrap_or_default()];
            if !line.ends_with(b"\n") {
                break;
            }
            if self.members[index].part.is_empty() {
                self.line(index, line, now, heard)?;
            } else {
                let mut whole = std::mem::take(&mut self.members[index].part);
                whole.extend_from_slice(line);
                self.line(index, &whole, now, heard)?;
                whole.clear();
                self.members[index].part = whole;
            }
            rest = after;
        }
        self.members[index].part.extend_from_slice(rest);
        self.buffer = buffer;
        Ok(())
    }

    /// Compares one line, its end included, with what must come to this client now.
    fn line(
        &mut self,
        index: usize,
        line: &[u8],
        now: Instant,
        heard: &mut Heard<'_>,
    ) -> Result<(), String> {
        let nobody_sent = || format!("client {index} got {:?}", String::from_utf8_lossy(line));
        if !self.members[index].greeted {
            self.members[index].greeted = true;
            self.greeted += 1;
            return if line == GREETING { Ok(()) } else { Err(nobody_sent()) };
        }
        let text = line.strip_suffix(b"\r\n").ok_or_else(nobody_sent)?;
        if text.starts_with(b"Client joined ") {
            return Ok(());
        }
        let at = text.len().saturating_sub(self.payload.size() - 1);
        let (prefix, message) = text.split_at(at);
        let (sender, number) = self.payload.identify(message).ok_or_else(nobody_sent)?;
        if sender >= self.senders.len() || prefix != self.members[sender].prefix {
            return Err(nobody_sent());
        }
        if sender == index {
            return Err(format!("client {index} got its own line {number}"));
        }
        let next = &mut self.members[index].next[sender];
        match *next {
            Some(expected) if number < expected => {
                return Err(format!("client {index} got line {number} of client {sender} again"));
            }
            Some(expected) if number > expected => {
                return Err(format!(
                    "client {index} got line {number} of client {sender}, and not line {expected}"
                ));
            }
            _ => *next = Some(number + 1),
        }
        if let Some(order) = &mut self.order {
            order.read(index, Line { sender, number })?;
        }
        self.delivered(sender, number, now, heard);
        Ok(())
    }

    fn delivered(&mut self, sender: usize, number: u32, now: Instant, heard: &mut Heard<'_>) {
        let lines = &mut self.senders[sender].lines;
        let slot = number as usize % lines.len();
        let Some((sent, missing)) = &mut lines[slot] else { return heard(sender, false, None) };
        *missing -= 1;
        self.missing -= 1;
        let (sent, all) = (*sent, *missing == 0);
        if all {
            lines[slot] = None;
        }
        heard(sender, all, Some((sent, now)));
    }
}

/// Is told whose line somebody got, whether all others have it, and when it was sent and came.
type Heard<'a> = dyn FnMut(usize, bool, Option<(Instant, Instant)>) + 'a;
