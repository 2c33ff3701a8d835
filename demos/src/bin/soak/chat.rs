//! Good members of a chat: each says numbered things, and hears what each other says, all of it,
//! once, and in order.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::tally::Fate;
use crate::target::{Stopping, Target};
use crate::{PATIENCE, Soak};

const MEMBERS: usize = 4;

pub(crate) fn run(soak: &Soak, target: &Target, random: &mut Rng) {
    while !soak.is_over() {
        let Some(mut party) = Party::meet(target, random) else { continue };
        for _ in 0..random.u32(1..200) {
            if soak.is_over() || !party.round(random.u64(1..=8)) {
                break;
            }
        }
    }
}

/// Some members of one room; the others in it are none of their business.
struct Party<'a> {
    target: &'a Target,
    stopping: Stopping,
    members: Vec<Member>,
    /// Marks what they say.
    token: u32,
    /// How many things each has said.
    said: u64,
    /// When they last spoke, and whether they were ever too slow for the server.
    since: Instant,
    late: bool,
}

impl<'a> Party<'a> {
    /// Connects all, and has each say that it is there until each other has heard it. `None` when
    /// the server did not live so long.
    fn meet(target: &'a Target, random: &mut Rng) -> Option<Party<'a>> {
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
        let mut party = Party { target, stopping, members, token, said: 0, since, late: false };
        party.wait_at_most(Duration::from_millis(5));
        while party.lacking() > 0 {
            party.say(0..=0);
            for me in 0..MEMBERS {
                match party.hear(me) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => {
                        party.is_excused(&error);
                        return None;
                    }
                    _ => {}
                }
            }
            if since.elapsed() > PATIENCE {
                target.complain("the members do not meet");
                return None;
            }
        }
        party.wait_at_most(PATIENCE);
        Some(party)
    }

    /// Each says so many things, and hears as many from each other. Whether the chat goes on.
    fn round(&mut self, things: u64) -> bool {
        self.say(self.said + 1..=self.said + things);
        self.said += things;
        let heard = (0..MEMBERS).try_for_each(|me| {
            while self.members[me].lacking(me, self.said) > 0 {
                self.hear(me)?;
            }
            io::Result::Ok(())
        });
        let (all, lacking) = ((MEMBERS * (MEMBERS - 1)) as u64 * things, self.lacking());
        self.target.count.add(Fate::Answered, all - lacking);
        let Err(error) = heard else { return true };
        let fate = if self.is_excused(&error) { Fate::Excused } else { Fate::Lost };
        self.target.count.add(fate, lacking);
        false
    }

    /// Whether the end may have come so. A stop lets each handler read to the end, but not stay
    /// until each other has: the first to leave misses the last words of the last.
    fn is_excused(&self, error: &io::Error) -> bool {
        let may_end = self.stopping.load(SeqCst) || self.late;
        let is_excused = may_end && error.kind() != ErrorKind::InvalidData;
        if !is_excused {
            self.target.complain(error);
        }
        is_excused
    }

    fn say(&mut self, numbers: RangeInclusive<u64>) {
        for (me, member) in self.members.iter_mut().enumerate() {
            let say = |number| format!("#{}.{me}.{number}\n", self.token);
            let things: String = numbers.clone().map(say).collect();
            // Whoever cannot speak will hear so.
            let _ = member.input.get_mut().write_all(things.as_bytes());
        }
        self.late |= self.since.elapsed() > self.target.kind.limit();
        self.since = Instant::now();
    }

    fn hear(&mut self, me: usize) -> io::Result<()> {
        self.members[me].hear(me, self.token)
    }

    fn lacking(&self) -> u64 {
        let members = self.members.iter().enumerate();
        members.map(|(me, member)| member.lacking(me, self.said)).sum()
    }

    fn wait_at_most(&self, time: Duration) {
        for member in &self.members {
            let _ = member.input.get_ref().set_read_timeout(Some(time));
        }
    }
}

struct Member {
    input: BufReader<Socket>,
    line: Vec<u8>,
    /// How many things it has heard from each: one that only says that it is there, and then the
    /// numbered ones.
    heard: [u64; MEMBERS],
}

impl Member {
    fn new(socket: Socket) -> Member {
        Member { input: BufReader::new(socket), line: Vec::new(), heard: [0; MEMBERS] }
    }

    /// How much it has not heard yet of what the others have said.
    fn lacking(&self, me: usize, said: u64) -> u64 {
        let others = self.heard.iter().enumerate().filter(|(other, _)| *other != me);
        others.map(|(_, heard)| said + 1 - heard).sum()
    }

    /// Takes one more line.
    fn hear(&mut self, me: usize, token: u32) -> io::Result<()> {
        self.input.read_until(b'\n', &mut self.line)?;
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if !line.ends_with('\n') {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // As in `[127.0.0.1:40000] #1234567.0.17`.
        let Some((_, said)) = line.split_once(&format!("] #{token}.")) else { return Ok(()) };
        let (from, number) = said.trim_end().split_once('.').unwrap_or_default();
        let (from, number) = (from.parse().unwrap_or(me), number.parse().unwrap_or(u64::MAX));
        let heard = self.heard.get_mut(from).filter(|_| from != me);
        match heard {
            Some(heard) if number == *heard => *heard += 1,
            Some(1) if number == 0 => {}
            _ => {
                let what = format!("{line:?} comes after {:?}", self.heard);
                return Err(io::Error::new(ErrorKind::InvalidData, what));
            }
        }
        Ok(())
    }
}
