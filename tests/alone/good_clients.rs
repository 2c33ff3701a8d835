//! A hundred clients that mean well: they speak at a moderate pace, and hear each other out. All
//! of them live on the thread of the test.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::common::TIMEOUT;

/// Who of them is to hear what another one says.
pub(crate) type Hears = fn(listener: usize, speaker: usize) -> bool;

pub(crate) struct GoodOnes {
    ones: Vec<Good>,
    hears: Hears,
    /// How many times a line has yet to be heard.
    owed: usize,
    /// How long each time took.
    latencies: Vec<Duration>,
    /// Who has come and not gone, as far as the first of them was told: how many of each name.
    guests: HashMap<String, i32>,
}

struct Good {
    name: String,
    stream: BufReader<TcpStream>,
    /// What has come of a line.
    line: Vec<u8>,
    /// When each line that it has said was due, and the line.
    said: Vec<(Instant, String)>,
    /// How many lines it has heard, of each of them.
    heard: Vec<usize>,
}

impl GoodOnes {
    /// Takes so many of them, who `join` one after the other.
    pub(crate) fn join(number: usize, hears: Hears, join: impl Fn() -> TcpStream) -> GoodOnes {
        let new = |_| {
            let stream = join();
            stream.set_nonblocking(true).unwrap();
            Good {
                name: stream.local_addr().unwrap().to_string(),
                stream: BufReader::new(stream),
                line: Vec::new(),
                said: Vec::new(),
                heard: vec![0; number],
            }
        };
        let ones = (0..number).map(new).collect();
        GoodOnes { ones, hears, owed: 0, latencies: Vec::new(), guests: HashMap::new() }
    }

    /// One after the other says something, each of them once in every `pace`, for so long, and
    /// until all is heard. Returns how long 99 of 100 took at the most.
    ///
    /// A line counts from when it was due, said or not: a server that keeps somebody waiting does
    /// not keep the others from coming.
    pub(crate) fn talk(&mut self, pace: Duration, time: Duration) -> Duration {
        let begin = Instant::now();
        let interval = pace / self.ones.len() as u32;
        self.latencies.clear();
        for (number, speaker) in (0..self.ones.len()).cycle().enumerate() {
            let due = begin + interval * number as u32;
            if due > begin + time {
                break;
            }
            // At least once, so that whoever is late does not become later still.
            while {
                self.listen(due);
                Instant::now() < due
            } {}
            self.say(speaker, due, "");
        }
        self.hear_out();
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100]
    }

    /// One of them says so much, a long line at a time, each once all others have heard the one
    /// before.
    pub(crate) fn say_much(&mut self, speaker: usize, bytes: usize, line: usize) {
        let text = "x".repeat(line);
        for _ in 0..bytes.div_ceil(line) {
            self.say(speaker, Instant::now(), &text);
            self.hear_out();
        }
    }

    /// Listens until what is said of who is there is so.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, is_so: impl Fn(&HashMap<String, i32>) -> bool) {
        let give_up = Instant::now() + TIMEOUT;
        while !is_so(&self.guests) {
            assert!(Instant::now() < give_up, "in vain: {what}");
            self.listen(give_up);
        }
    }

    #[track_caller]
    fn hear_out(&mut self) {
        let give_up = Instant::now() + TIMEOUT;
        while self.owed > 0 {
            assert!(Instant::now() < give_up, "{} lines have not come", self.owed);
            self.listen(give_up);
        }
    }

    fn say(&mut self, speaker: usize, due: Instant, text: &str) {
        let number = self.ones.len();
        let one = &mut self.ones[speaker];
        let line = format!("good {speaker} {} {text}", one.said.len());
        let mut bytes = format!("{line}\n").into_bytes();
        one.said.push((due, line));
        while !bytes.is_empty() {
            match one.stream.get_ref().write(&bytes) {
                Ok(length) => drop(bytes.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut room = [PollFd::new(one.stream.get_ref(), PollFlags::OUT)];
                    poll(&mut room, Some(&timeout(Instant::now() + TIMEOUT))).unwrap();
                    assert!(!room[0].revents().is_empty(), "nobody takes what {} says", one.name);
                }
                Err(error) => panic!("{}: {error}", one.name),
            }
        }
        self.owed += (0..number).filter(|listener| (self.hears)(*listener, speaker)).count();
    }

    /// Takes what has come, or comes until then.
    fn listen(&mut self, until: Instant) {
        let streams = self.ones.iter().map(|one| one.stream.get_ref());
        let mut fds: Vec<_> = streams.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        poll(&mut fds, Some(&timeout(until))).unwrap();
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for listener in (0..ready.len()).filter(|listener| ready[*listener]) {
            self.take_lines(listener);
        }
    }

    fn take_lines(&mut self, listener: usize) {
        let now = Instant::now();
        loop {
            let one = &mut self.ones[listener];
            match one.stream.read_until(b'\n', &mut one.line) {
                Ok(_) if one.line.ends_with(b"\n") => {
                    let line = String::from_utf8(std::mem::take(&mut one.line)).unwrap();
                    self.hear(listener, line.trim_end_matches(['\r', '\n']), now);
                }
                Ok(_) => panic!("the connection of {} was ended", one.name),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{}: {error}", one.name),
            }
        }
    }

    /// Each line of another one comes, once, and in the order in which they were said.
    fn hear(&mut self, listener: usize, line: &str, now: Instant) {
        // In a chat there is a name before it.
        let named = line.strip_prefix('[').and_then(|line| line.split_once("] "));
        let (name, text) = named.map_or((None, line), |(name, text)| (Some(name), text));
        let Some(words) = text.strip_prefix("good ") else {
            return self.note(listener, line);
        };
        let speaker: usize = words.split(' ').next().unwrap().parse().unwrap();
        assert!((self.hears)(listener, speaker), "{listener} heard {text:?}");
        let number = self.ones[listener].heard[speaker];
        self.ones[listener].heard[speaker] += 1;
        let Some((due, said)) = self.ones[speaker].said.get(number) else {
            panic!("{listener} heard {text:.40?} once too often");
        };
        // Most often they are short; where they are not, a failure should be.
        assert!(text == said, "{listener} heard {text:.40?} instead of {said:.40?}");
        assert!(name.is_none_or(|name| name == self.ones[speaker].name), "{line:.60?}");
        self.latencies.push(now.saturating_duration_since(*due));
        self.owed -= 1;
    }

    fn note(&mut self, listener: usize, line: &str) {
        if listener > 0 {
            return;
        }
        if let Some(name) = line.strip_prefix("Client joined ") {
            *self.guests.entry(name.to_owned()).or_default() += 1;
        } else if let Some(name) = line.strip_prefix("Client left ") {
            *self.guests.entry(name.to_owned()).or_default() -= 1;
        }
    }
}

fn timeout(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}
