//! A hundred clients that send lines at a moderate rate and read all that they get. All of them run on
//! the thread of the test.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::TIMEOUT;

/// Whether a client receives what another one sends.
pub(crate) type Hears = fn(listener: usize, speaker: usize) -> bool;

pub(crate) struct GoodClients {
    clients: Vec<Good>,
    hears: Hears,
    /// The number of lines that have yet to be received, for each that receives them.
    owed: usize,
    /// How long each took.
    latencies: Vec<Duration>,
    /// The members that the server has announced to the first client: how many of each name.
    members: HashMap<String, i32>,
}

struct Good {
    name: String,
    stream: BufReader<TcpStream>,
    /// The part of a line that has been received.
    line: Vec<u8>,
    /// The lines that it has sent, and when each was due.
    sent: Vec<(Instant, String)>,
    /// The number of lines that it has received from each client.
    received: Vec<usize>,
}

impl GoodClients {
    /// So many clients, which `join` one after the other.
    pub(crate) fn join(number: usize, hears: Hears, join: impl Fn() -> TcpStream) -> GoodClients {
        let new = |_| {
            let stream = join();
            stream.set_nonblocking(true).unwrap();
            Good {
                name: stream.local_addr().unwrap().to_string(),
                stream: BufReader::new(stream),
                line: Vec::new(),
                sent: Vec::new(),
                received: vec![0; number],
            }
        };
        let clients = (0..number).map(new).collect();
        GoodClients { clients, hears, owed: 0, latencies: Vec::new(), members: HashMap::new() }
    }

    /// One after the other sends a line, each of them once in every `interval`, for so long, and until
    /// all is received. Returns how long 99 of 100 took at most.
    ///
    /// The time of a line counts from when it was due, sent or not: otherwise a server that delays one
    /// client would keep the others from sending.
    pub(crate) fn talk(&mut self, interval: Duration, time: Duration) -> Duration {
        let begin = Instant::now();
        let step = interval / self.clients.len() as u32;
        self.latencies.clear();
        for (number, speaker) in (0..self.clients.len()).cycle().enumerate() {
            let due = begin + step * number as u32;
            if due > begin + time {
                break;
            }
            // At least once, so that a delay does not grow.
            while {
                self.receive(due);
                Instant::now() < due
            } {}
            self.send(speaker, due, "");
        }
        self.receive_all();
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100]
    }

    /// One of them sends so many bytes in long lines, each when the one before has been received by
    /// all.
    pub(crate) fn send_much(&mut self, speaker: usize, bytes: usize, line: usize) {
        let text = "x".repeat(line);
        for _ in 0..bytes.div_ceil(line) {
            self.send(speaker, Instant::now(), &text);
            self.receive_all();
        }
    }

    /// Receives until the announced members meet a condition.
    #[track_caller]
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        condition: impl Fn(&HashMap<String, i32>) -> bool,
    ) {
        let deadline = Instant::now() + TIMEOUT;
        while !condition(&self.members) {
            assert!(Instant::now() < deadline, "timed out: {what}");
            self.receive(deadline);
        }
    }

    #[track_caller]
    fn receive_all(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        while self.owed > 0 {
            assert!(Instant::now() < deadline, "{} lines have not arrived", self.owed);
            self.receive(deadline);
        }
    }

    fn send(&mut self, speaker: usize, due: Instant, text: &str) {
        let number = self.clients.len();
        let client = &mut self.clients[speaker];
        let line = format!("good {speaker} {} {text}", client.sent.len());
        let mut bytes = format!("{line}\n").into_bytes();
        client.sent.push((due, line));
        while !bytes.is_empty() {
            match client.stream.get_ref().write(&bytes) {
                Ok(length) => drop(bytes.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(client.stream.get_ref(), PollFlags::OUT)];
                    poll(&mut fds, Some(&timeout(Instant::now() + TIMEOUT))).unwrap();
                    assert!(!fds[0].revents().is_empty(), "{} cannot send", client.name);
                }
                Err(error) => panic!("{}: {error}", client.name),
            }
        }
        self.owed += (0..number).filter(|listener| (self.hears)(*listener, speaker)).count();
    }

    /// Receives what has arrived, or waits for it until the deadline.
    fn receive(&mut self, deadline: Instant) {
        let streams = self.clients.iter().map(|client| client.stream.get_ref());
        let mut fds: Vec<_> = streams.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        poll(&mut fds, Some(&timeout(deadline))).unwrap();
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for listener in (0..ready.len()).filter(|listener| ready[*listener]) {
            self.read_lines(listener);
        }
    }

    fn read_lines(&mut self, listener: usize) {
        let now = Instant::now();
        loop {
            let client = &mut self.clients[listener];
            match client.stream.read_until(b'\n', &mut client.line) {
                Ok(_) if client.line.ends_with(b"\n") => {
                    let line = String::from_utf8(std::mem::take(&mut client.line)).unwrap();
                    self.check(listener, line.trim_end_matches(['\r', '\n']), now);
                }
                Ok(_) => panic!("the connection of {} was closed", client.name),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{}: {error}", client.name),
            }
        }
    }

    /// Each line of another client is received once, and in the order in which they were sent.
    fn check(&mut self, listener: usize, line: &str, now: Instant) {
        // In a chat, the line begins with a name.
        let named = line.strip_prefix('[').and_then(|line| line.split_once("] "));
        let (name, text) = named.map_or((None, line), |(name, text)| (Some(name), text));
        let Some(words) = text.strip_prefix("good ") else {
            return self.note_member(listener, line);
        };
        let speaker: usize = words.split(' ').next().unwrap().parse().unwrap();
        assert!((self.hears)(listener, speaker), "{listener} received {text:?}");
        let number = self.clients[listener].received[speaker];
        self.clients[listener].received[speaker] += 1;
        let Some((due, sent)) = self.clients[speaker].sent.get(number) else {
            panic!("{listener} received {text:.40?} twice");
        };
        assert!(text == sent, "{listener} received {text:.40?} instead of {sent:.40?}");
        assert!(name.is_none_or(|name| name == self.clients[speaker].name), "{line:.60?}");
        self.latencies.push(now.saturating_duration_since(*due));
        self.owed -= 1;
    }

    fn note_member(&mut self, listener: usize, line: &str) {
        if listener > 0 {
            return;
        }
        if let Some(name) = line.strip_prefix("Client joined ") {
            *self.members.entry(name.to_owned()).or_default() += 1;
        } else if let Some(name) = line.strip_prefix("Client left ") {
            *self.members.entry(name.to_owned()).or_default() -= 1;
        }
    }
}

fn timeout(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
}
