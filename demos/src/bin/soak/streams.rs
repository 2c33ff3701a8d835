//! Good clients of stream servers. The answers must be the bytes that they have sent.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::servers::REFUSAL;
use crate::tally::Outcome;
use crate::target::{Stopping, Target};
use crate::{Soak, TIMEOUT};

/// The most requests that are sent before the answers are read. They have to fit into the socket
/// buffers, or the client and the server would block in writes, each waiting for the other.
const MAX_PIPELINED: usize = 8;
const MAX_LENGTH: usize = 4096;

/// For one read. When it finds nothing, the server has not answered yet.
const READ_SLICE: Duration = Duration::from_millis(20);

/// Runs sessions until the end.
pub(crate) fn run(soak: &Soak, target: &Target, random: &mut Rng) {
    while !soak.is_over() {
        let Some(mut session) = Session::open(target) else {
            target.count.add(Outcome::Refused, 1);
            continue;
        };
        let manner = random.u8(..3);
        for _ in 0..random.usize(1..=20) {
            match manner {
                0 => session.ask(1, random),
                1 => session.ask(random.usize(2..=5), random),
                _ => (0..MAX_PIPELINED).for_each(|_| session.ask(1, random)),
            }
            session.read_answers();
        }
        if random.bool() {
            (0..random.usize(..MAX_PIPELINED)).for_each(|_| session.ask(1, random));
            session.half_close();
        }
        session.end();
    }
}

/// A connection, and what has been sent and received.
pub(crate) struct Session<'a> {
    target: &'a Target,
    socket: Socket,
    stopping: Stopping,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// The end of each request in `sent`, and whether the server must answer it.
    requests: Vec<(usize, bool)>,
    /// When the last request was begun, or a later time at which it had not been answered: the server
    /// has waited for the next one since then at most.
    since: Instant,
    /// Whether the client has exceeded the limits of the server, which may have closed then.
    too_slow: bool,
    has_ended: bool,
}

impl<'a> Session<'a> {
    /// `None` between a stop and the next start of the server.
    pub(crate) fn open(target: &'a Target) -> Option<Session<'a>> {
        let since = Instant::now();
        let (socket, stopping) = target.connect()?;
        socket.set_read_timeout(Some(READ_SLICE)).ok()?;
        let (sent, received, requests) = Default::default();
        let (too_slow, has_ended) = (false, false);
        Some(Session {
            target,
            socket,
            stopping,
            sent,
            received,
            requests,
            since,
            too_slow,
            has_ended,
        })
    }

    /// Sends a request, in this many pieces.
    pub(crate) fn ask(&mut self, pieces: usize, random: &mut Rng) {
        if self.has_ended {
            return;
        }
        let longest = if random.u8(..) < 8 { MAX_LENGTH } else { 100 };
        let text = format!("{} {}", self.requests.len(), "x".repeat(random.usize(..longest)));
        let request = self.target.kind.request(&text);
        self.sent.extend(&request);
        let mut rest = &request[..];
        for _ in 1..pieces {
            let (piece, more) = rest.split_at(random.usize(..=rest.len()));
            // If it fails, so does the last write.
            let _ = self.socket.write_all(piece);
            thread::sleep(Duration::from_micros(random.u64(..500)));
            rest = more;
        }
        let begun = Instant::now();
        let (gate, promised) = self.target.gate(&self.stopping);
        let sent = self.socket.write_all(rest);
        drop(gate);
        self.too_slow |= self.since.elapsed() > self.target.kind.limit();
        self.since = begun;
        self.requests.push((self.sent.len(), promised && !self.too_slow));
        // There may be answers or a refusal to read.
        if sent.is_err() {
            self.read_to_end();
        }
    }

    /// Reads the answers to all requests.
    fn read_answers(&mut self) {
        while !self.has_ended && self.received.len() < self.sent.len() {
            self.receive();
        }
        if !self.is_correct() {
            self.read_to_end();
        }
    }

    pub(crate) fn half_close(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
        self.read_to_end();
    }

    fn read_to_end(&mut self) {
        while !self.has_ended {
            self.receive();
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let begun = Instant::now();
            match self.socket.read(&mut buffer) {
                Ok(0) => self.has_ended = true,
                Ok(length) => self.received.extend(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock && begun < deadline => {
                    self.since = begun;
                    continue;
                }
                Err(error) => {
                    if error.kind() == ErrorKind::WouldBlock {
                        self.target.record_failure(format!("nothing came for {TIMEOUT:?}"));
                    }
                    self.has_ended = true;
                }
            }
            return;
        }
    }

    fn is_correct(&self) -> bool {
        self.sent.starts_with(&self.received)
    }

    /// Closes the connection, and counts the outcome of each request.
    pub(crate) fn end(self) {
        let refused = self.target.kind.refuses && self.received == REFUSAL;
        if !refused && !self.is_correct() {
            self.target.record_failure(format!("wrong answer: {}", self.received.escape_ascii()));
        }
        for (end, promised) in &self.requests {
            let outcome = match () {
                () if refused => Outcome::Refused,
                () if *end <= self.received.len() => Outcome::Answered,
                () if *promised => Outcome::Lost,
                () => Outcome::Excused,
            };
            self.target.count.add(outcome, 1);
        }
    }
}
