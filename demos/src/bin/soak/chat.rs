//! Good members of a chat. Each sends numbered messages, and must receive those of each other
//! member: all of them, once, and in order.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::tally::Outcome;
use crate::target::{Stopping, Target};
use crate::{Soak, TIMEOUT};

const MEMBERS: usize = 4;

pub(crate) fn run(soak: &Soak, target: &Target, random: &mut Rng) {
    while !soak.is_over() {
        let Some(mut group) = Group::connect(target, random) else { continue };
        for _ in 0..random.u32(1..200) {
            if soak.is_over() || !group.round(random.u64(1..=8)) {
                break;
            }
        }
    }
}

/// Some members of one room, who ignore its other members.
struct Group<'a> {
    target: &'a Target,
    stopping: Stopping,
    members: Vec<Member>,
    /// Marks the messages of this group.
    token: u32,
    /// How many numbered messages each member has sent.
    sent: u64,
    /// When the members last sent a message.
    since: Instant,
    /// Whether they have exceeded the limits of the server, which may have closed then.
    too_slow: bool,
}

impl<'a> Group<'a> {
    /// Connects the members. Each sends message 0 until each other member has received it. `None`
    /// if the server is stopped meanwhile.
    fn connect(target: &'a Target, random: &mut Rng) -> Option<Group<'a>> {
        let since = Instant::now();
        let (first, stopping) = target.connect()?;
        let mut members = vec![Member::new(first)];
        while members.len() < MEMBERS {
            let (socket, same) = target.connect()?;
            members.push(Member::new(socket));
            if !Arc::ptr_eq(&stopping, &same) {
                return None;
            }
        }
        let token = random.u32(..);
        let mut group = Group { target, stopping, members, token, sent: 0, since, too_slow: false };
        group.set_read_timeout(Duration::from_millis(5));
        while group.missing() > 0 {
            group.send(0..=0);
            for me in 0..MEMBERS {
                match group.receive(me) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => {
                        group.is_excused(&error);
                        return None;
                    }
                    _ => {}
                }
            }
            if since.elapsed() > TIMEOUT {
                target.record_failure("the members do not meet");
                return None;
            }
        }
        group.set_read_timeout(TIMEOUT);
        Some(group)
    }

    /// Each member sends this many messages, and receives as many of each other. Whether the group
    /// is still connected.
    fn round(&mut self, count: u64) -> bool {
        self.send(self.sent + 1..=self.sent + count);
        self.sent += count;
        let received = (0..MEMBERS).try_for_each(|me| {
            while self.members[me].missing(me, self.sent) > 0 {
                self.receive(me)?;
            }
            io::Result::Ok(())
        });
        let (all, missing) = ((MEMBERS * (MEMBERS - 1)) as u64 * count, self.missing());
        self.target.count.add(Outcome::Answered, all - missing);
        let Err(error) = received else { return true };
        let outcome = if self.is_excused(&error) { Outcome::Excused } else { Outcome::Lost };
        self.target.count.add(outcome, missing);
        false
    }

    /// Whether the server may end the connections with this error. In a stop, each handler reads
    /// its input to the end, but does not wait for the other members: the first to leave misses
    /// their last messages. Members that wait for messages send nothing meanwhile: if the server is
    /// frozen before it passes those on, they are idle when it goes on.
    fn is_excused(&self, error: &io::Error) -> bool {
        let are_idle = self.since.elapsed() > self.target.kind.limit();
        let may_end = self.stopping.load(SeqCst) || self.too_slow || are_idle;
        let is_excused = may_end && error.kind() != ErrorKind::InvalidData;
        if !is_excused {
            self.target.record_failure(error);
        }
        is_excused
    }

    fn send(&mut self, numbers: RangeInclusive<u64>) {
        for (me, member) in self.members.iter_mut().enumerate() {
            let message = |number| format!("#{}.{me}.{number}\n", self.token);
            let messages: String = numbers.clone().map(message).collect();
            // After an error, reading fails too.
            let _ = member.input.get_mut().write_all(messages.as_bytes());
        }
        self.too_slow |= self.since.elapsed() > self.target.kind.limit();
        self.since = Instant::now();
    }

    fn receive(&mut self, me: usize) -> io::Result<()> {
        self.members[me].receive(me, self.token)
    }

    fn missing(&self) -> u64 {
        let members = self.members.iter().enumerate();
        members.map(|(me, member)| member.missing(me, self.sent)).sum()
    }

    fn set_read_timeout(&self, timeout: Duration) {
        for member in &self.members {
            let _ = member.input.get_ref().set_read_timeout(Some(timeout));
        }
    }
}

struct Member {
    input: BufReader<Socket>,
    line: Vec<u8>,
    /// How many messages of each member it has received; message 0 counts once.
    received: [u64; MEMBERS],
}

impl Member {
    fn new(socket: Socket) -> Member {
        Member { input: BufReader::new(socket), line: Vec::new(), received: [0; MEMBERS] }
    }

    /// How many messages of the others it has not received yet.
    fn missing(&self, me: usize, sent: u64) -> u64 {
        let others = self.received.iter().enumerate().filter(|(other, _)| *other != me);
        others.map(|(_, received)| sent + 1 - received).sum()
    }

    /// Reads one line.
    fn receive(&mut self, me: usize, token: u32) -> io::Result<()> {
        self.input.read_until(b'\n', &mut self.line)?;
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if !line.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // As in `[127.0.0.1:40000] #1234567.0.17`.
        let Some((_, sent)) = line.split_once(&format!("] #{token}.")) else { return Ok(()) };
        let (from, number) = sent.trim_end().split_once('.').unwrap_or_default();
        let (from, number) = (from.parse().unwrap_or(me), number.parse().unwrap_or(u64::MAX));
        let received = self.received.get_mut(from).filter(|_| from != me);
        match received {
            Some(received) if number == *received => *received += 1,
            Some(1) if number == 0 => {}
            _ => {
                let what = format!("{line:?} comes after {:?}", self.received);
                return Err(io::Error::new(ErrorKind::InvalidData, what));
            }
        }
        Ok(())
    }
}
