//! Good clients of stream servers: what comes back must be, byte by byte, what they sent.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::servers::REFUSAL;
use crate::tally::Fate;
use crate::target::{Stopping, Target};
use crate::{PATIENCE, Soak};

/// No more is sent before the answers are read than fits into the system's buffers: the server
/// would else wait for its client, as the client for it.
const AT_ONCE: usize = 8;
const LONGEST: usize = 4096;

/// Comes again and again until it is over.
pub(crate) fn run(soak: &Soak, target: &Target, random: &mut Rng) {
    while !soak.is_over() {
        let Some(mut session) = Session::open(target) else {
            target.count.add(Fate::Refused, 1);
            continue;
        };
        let manner = random.u8(..3);
        for _ in 0..random.usize(1..=20) {
            match manner {
                0 => session.ask(1, random),
                1 => session.ask(random.usize(2..=5), random),
                _ => (0..AT_ONCE).for_each(|_| session.ask(1, random)),
            }
            session.hear();
        }
        if random.bool() {
            (0..random.usize(..AT_ONCE)).for_each(|_| session.ask(1, random));
            session.half_close();
        }
        session.end();
    }
}

/// A connection, and what went over it.
pub(crate) struct Session<'a> {
    target: &'a Target,
    socket: Socket,
    stopping: Stopping,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// Where each request ends, and whether it was promised an answer.
    requests: Vec<(usize, bool)>,
    /// The server has not waited for the next request for longer than since then.
    since: Instant,
    /// Once this client was too slow, the server may have given it up.
    late: bool,
    over: bool,
}

impl<'a> Session<'a> {
    /// `None` where there is no server just now.
    pub(crate) fn open(target: &'a Target) -> Option<Session<'a>> {
        let since = Instant::now();
        let (socket, stopping) = target.connect()?;
        let (sent, received, requests) = Default::default();
        let (late, over) = (false, false);
        Some(Session { target, socket, stopping, sent, received, requests, since, late, over })
    }

    /// Sends one request, in so many pieces.
    pub(crate) fn ask(&mut self, pieces: usize, random: &mut Rng) {
        if self.over {
            return;
        }
        let longest = if random.u8(..) < 8 { LONGEST } else { 100 };
        let text = format!("{} {}", self.requests.len(), "x".repeat(random.usize(..longest)));
        let request = self.target.kind.request(&text);
        self.sent.extend(&request);
        let mut rest = &request[..];
        for _ in 1..pieces {
            let (piece, more) = rest.split_at(random.usize(..=rest.len()));
            // If it fails, so does the last one.
            let _ = self.socket.write_all(piece);
            thread::sleep(Duration::from_micros(random.u64(..500)));
            rest = more;
        }
        let begun = Instant::now();
        let (gate, promised) = self.target.gate(&self.stopping);
        let sent = self.socket.write_all(rest);
        drop(gate);
        self.late |= self.since.elapsed() > self.target.kind.limit();
        self.since = begun;
        self.requests.push((self.sent.len(), promised && !self.late));
        // There may be answers, or a refusal, all the same.
        if sent.is_err() {
            self.hear_to_the_end();
        }
    }

    /// Waits for the answers to all that was asked.
    fn hear(&mut self) {
        while !self.over && self.received.len() < self.sent.len() {
            self.receive();
        }
        if !self.is_right() {
            self.hear_to_the_end();
        }
    }

    pub(crate) fn half_close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        self.hear_to_the_end();
    }

    fn hear_to_the_end(&mut self) {
        while !self.over {
            self.receive();
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.over = true,
            Ok(length) => self.received.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                if error.kind() == ErrorKind::WouldBlock {
                    self.target.complain(format!("nothing came for {PATIENCE:?}"));
                }
                self.over = true;
            }
        }
    }

    fn is_right(&self) -> bool {
        self.sent.starts_with(&self.received)
    }

    /// Closes, and settles what became of each request.
    pub(crate) fn end(self) {
        let refused = self.target.kind.refuses && self.received == REFUSAL;
        if !refused && !self.is_right() {
            self.target.complain(format!("wrong answer: {}", self.received.escape_ascii()));
        }
        for (end, promised) in &self.requests {
            let fate = match () {
                () if refused => Fate::Refused,
                () if *end <= self.received.len() => Fate::Answered,
                () if *promised => Fate::Lost,
                () => Fate::Excused,
            };
            self.target.count.add(fate, 1);
        }
    }
}
