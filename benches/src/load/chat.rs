//! Members of a chat room: each line must reach all members but its sender, once, whole, and in the
//! order in which it was sent.
//!
//! A line arrives as `[HOST:PORT] line`, with the sender's address. A member also gets a greeting,
//! and a notice when another one joins.

use std::io::BufRead;
use std::time::{Duration, Instant};

use super::net::{Connection, Events, Poller};
use super::order::{Line, Order};
use super::payload::Payload;
use super::window::Window;
use super::{Outcome, PROGRESS_TIMEOUT, Target, on_connection};

/// How many members may be waiting for their greeting.
const MAX_UNGREETED: usize = 32;
/// The time after which a probe reaches no further members.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// A room is taken for broken when a member does not get lines after this time. When a thousand members join,
/// CPython's threads write half a million lines, one at a time.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
const GREETING: &[u8] = b"You're connected to the chat server\r\n";

pub(crate) fn run(members: usize, senders: usize, in_flight: usize, target: Target) -> Outcome {
    let mut room = Room::new(members, senders, in_flight)?;
    room.join(&[target])?;
    room.exchange(in_flight, Window::open(target))
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
    /// Deliveries that are outstanding.
    missing: u64,
    /// Checks that all members read the lines in one order.
    order: Option<Order>,
}

struct Member {
    connection: Connection,
    /// `[HOST:PORT] `, which precedes its lines.
    prefix: Vec<u8>,
    greeted: bool,
    /// A line whose end has not arrived.
    partial: Vec<u8>,
    /// For each sender, the number of the next line; `None` before the first one, which may have
    /// any number while the member joins.
    next: Vec<Option<u32>>,
}

#[derive(Default)]
struct Sender {
    sent: u32,
    /// The lines in flight, each at its number modulo the length: when it was sent, and how many
    /// members lack it.
    lines: Vec<Option<(Instant, usize)>>,
}

impl Room {
    pub(super) fn new(members: usize, senders: usize, in_flight: usize) -> Result<Room, String> {
        assert!((2..=members).contains(&senders), "at least two members send, for the probes");
        let sender = || Sender { sent: 0, lines: vec![None; in_flight] };
        Ok(Room {
            poller: Poller::new().map_err(|error| error.to_string())?,
            events: Events::new(),
            buffer: vec![0; 256 * 1024],
            payload: Payload::new(64),
            size: members,
            members: Vec::with_capacity(members),
            senders: (0..senders).map(|_| sender()).collect(),
            greeted: 0,
            missing: 0,
            order: None,
        })
    }

    /// Connects the members, evenly spread over the servers, and waits until all of them get every
    /// line.
    pub(super) fn join(&mut self, servers: &[Target]) -> Result<(), String> {
        self.connect(servers)?;
        self.probe_members()
    }

    /// From now on, all members must read the lines in one order.
    pub(super) fn expect_one_order(&mut self) {
        self.order = Some(Order::new(self.size, self.senders.len()));
    }

    /// Keeps `in_flight` lines of each sender in flight until the window closes. Then all
    /// deliveries must arrive.
    pub(super) fn exchange(&mut self, in_flight: usize, mut window: Window) -> Outcome {
        let senders = 0..self.senders.len();
        for sender in senders.clone() {
            self.send(sender, in_flight)?;
        }
        while window.is_open()? {
            let mut complete = Vec::new();
            self.receive_counted(&mut window, &mut complete)?;
            for sender in complete {
                self.send(sender, 1)?;
            }
        }
        self.receive_all()?;
        // A repeated line would arrive before these.
        for sender in senders {
            self.send(sender, 1)?;
        }
        self.receive_all()?;
        if let Some(order) = &mut self.order {
            order.finish()?;
        }
        window.figures()
    }

    /// Connects the members, and waits for their greetings.
    fn connect(&mut self, servers: &[Target]) -> Result<(), String> {
        while self.greeted < self.size {
            while self.members.len() < self.size
                && self.members.len() - self.greeted < MAX_UNGREETED
            {
                let index = self.members.len();
                let address = servers[index % servers.len()].address;
                let opened = Connection::open(address, index, &self.poller);
                let connection = on_connection(index, opened)?;
                let prefix =
                    format!("[{}] ", on_connection(index, connection.local_addr())?).into_bytes();
                let next = vec![None; self.senders.len()];
                let member =
                    Member { connection, prefix, greeted: false, partial: Vec::new(), next };
                self.members.push(member);
            }
            self.receive(&mut |_, _, _| ())?;
        }
        Ok(())
    }

    /// A greeted member may not have joined the room yet. So two members send probes until every
    /// other member gets them: from then on, no line may be missing.
    fn probe_members(&mut self) -> Result<(), String> {
        let unreached = |room: &Room, sender: usize| {
            let mut members = room.members.iter().enumerate();
            members.any(|(index, member)| index != sender && member.next[sender].is_none())
        };
        for sender in [0, 1] {
            let start = Instant::now();
            self.probe(sender)?;
            while unreached(self, sender) {
                if self.receive_within(PROBE_INTERVAL, &mut |_, _, _| ())? {
                    continue;
                }
                if start.elapsed() > JOIN_TIMEOUT {
                    return Err(format!("not every member gets the lines of client {sender}"));
                }
                self.probe(sender)?;
            }
        }
        while self.is_behind(&[0, 1]) {
            self.receive(&mut |_, _, _| ())?;
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

    /// Whether a member lacks the last line of one of these senders.
    fn is_behind(&self, senders: &[usize]) -> bool {
        self.members.iter().enumerate().any(|(index, member)| {
            let has_last = |&sender: &usize| member.next[sender] == Some(self.senders[sender].sent);
            !senders.iter().all(|sender| *sender == index || has_last(sender))
        })
    }

    /// Sends a line that members may miss.
    fn probe(&mut self, sender: usize) -> Result<(), String> {
        let mut line = Vec::new();
        self.payload.append(sender, self.senders[sender].sent, &mut line);
        self.senders[sender].sent += 1;
        on_connection(sender, self.members[sender].connection.send(&line, sender, &self.poller))
    }

    /// Sends lines that all other members must get.
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
        on_connection(sender, self.members[sender].connection.send(&lines, sender, &self.poller))
    }

    /// Receives lines and counts their deliveries. Adds the sender of each line that all members
    /// have now.
    fn receive_counted(
        &mut self,
        window: &mut Window,
        complete: &mut Vec<usize>,
    ) -> Result<(), String> {
        self.receive_within(window.poll_timeout(), &mut |sender, all, times| {
            if let Some((sent, now)) = times {
                window.count(sent, now);
            }
            if all {
                complete.push(sender);
            }
        })?;
        Ok(())
    }

    fn receive_all(&mut self) -> Result<(), String> {
        while self.missing > 0 {
            self.receive(&mut |_, _, _| ())
                .map_err(|error| format!("{error}; {} deliveries are missing", self.missing))?;
        }
        Ok(())
    }

    /// Receives lines. It is an error if nothing arrives.
    fn receive(&mut self, on_line: &mut OnLine<'_>) -> Result<(), String> {
        if self.receive_within(PROGRESS_TIMEOUT, on_line)? {
            Ok(())
        } else {
            Err(format!("nothing was received for {PROGRESS_TIMEOUT:?}"))
        }
    }

    /// Waits for events, reads and compares. Returns whether there was an event.
    fn receive_within(
        &mut self,
        timeout: Duration,
        on_line: &mut OnLine<'_>,
    ) -> Result<bool, String> {
        let mut events = std::mem::replace(&mut self.events, Events::placeholder());
        self.poller.wait(&mut events, timeout).map_err(|error| error.to_string())?;
        for ready in events.iter() {
            let index = ready.index;
            if ready.writable {
                on_connection(index, self.members[index].connection.flush(index, &self.poller))?;
            }
            if ready.readable {
                self.read(index, on_line)?;
            }
        }
        let any = !events.is_empty();
        self.events = events;
        Ok(any)
    }

    fn read(&mut self, index: usize, on_line: &mut OnLine<'_>) -> Result<(), String> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let length = match on_connection(index, self.members[index].connection.read(&mut buffer))? {
            Some(0) => return Err(format!("client {index} was disconnected")),
            length => length.unwrap_or(0),
        };
        let now = Instant::now();
        let mut rest = &buffer[..length];
        loop {
            let mut after = rest;
            // A read from memory does not fail.
            let line = &rest[..after.skip_until(b'\n').unwrap_or_default()];
            if !line.ends_with(b"\n") {
                break;
            }
            if self.members[index].partial.is_empty() {
                self.check_line(index, line, now, on_line)?;
            } else {
                let mut whole = std::mem::take(&mut self.members[index].partial);
                whole.extend_from_slice(line);
                self.check_line(index, &whole, now, on_line)?;
                whole.clear();
                self.members[index].partial = whole;
            }
            rest = after;
        }
        self.members[index].partial.extend_from_slice(rest);
        self.buffer = buffer;
        Ok(())
    }

    /// Compares a line, given with its end, with what this member must get next.
    fn check_line(
        &mut self,
        index: usize,
        line: &[u8],
        now: Instant,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), String> {
        let unexpected = || format!("client {index} got {:?}", String::from_utf8_lossy(line));
        if !self.members[index].greeted {
            self.members[index].greeted = true;
            self.greeted += 1;
            return if line == GREETING { Ok(()) } else { Err(unexpected()) };
        }
        let text = line.strip_suffix(b"\r\n").ok_or_else(unexpected)?;
        if text.starts_with(b"Client joined ") {
            return Ok(());
        }
        let at = text.len().saturating_sub(self.payload.size() - 1);
        let (prefix, message) = text.split_at(at);
        let (sender, number) = self.payload.identify(message).ok_or_else(unexpected)?;
        if sender >= self.senders.len() || prefix != self.members[sender].prefix {
            return Err(unexpected());
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
        self.count_delivery(sender, number, now, on_line);
        Ok(())
    }

    fn count_delivery(
        &mut self,
        sender: usize,
        number: u32,
        now: Instant,
        on_line: &mut OnLine<'_>,
    ) {
        let lines = &mut self.senders[sender].lines;
        let slot = number as usize % lines.len();
        let Some((sent, missing)) = &mut lines[slot] else { return on_line(sender, false, None) };
        *missing -= 1;
        self.missing -= 1;
        let (sent, all) = (*sent, *missing == 0);
        if all {
            lines[slot] = None;
        }
        on_line(sender, all, Some((sent, now)));
    }
}

/// Called for each line with its sender, whether all other members have it now, and the times at
/// which it was sent and received.
type OnLine<'a> = dyn FnMut(usize, bool, Option<(Instant, Instant)>) + 'a;
