//! What is sent comes back: the same bytes, in the same order, nothing else.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::net::{Connection, Events, Poller};
use super::payload::Payload;
use super::window::Window;
use super::{Outcome, PATIENCE, Target, of};

/// How many connections are opened ahead of those that have been answered.
const OPENING: usize = 64;

pub(crate) fn run(connections: usize, size: usize, in_flight: usize, target: Target) -> Outcome {
    Clients::connect(0..connections, size, target)?.exchange(in_flight, target)?.figures()
}

/// Connections to a server that sends back each line.
pub(crate) struct Clients {
    poller: Poller,
    payload: Payload,
    /// The number of the first of them, by which they are told from those of another thread.
    first: usize,
    clients: Vec<Client>,
    in_flight: usize,
    /// To put together what is sent, and for what comes.
    line: Vec<u8>,
    buffer: Vec<u8>,
}

struct Client {
    connection: Option<Connection>,
    sent: u32,
    received: u32,
    /// How much of the next line has come.
    part: usize,
    sent_at: VecDeque<Instant>,
}

impl Clients {
    /// Connects the clients with these numbers; each has had one line back when this returns.
    pub(crate) fn connect(
        numbers: Range<usize>,
        size: usize,
        target: Target,
    ) -> Result<Clients, String> {
        let count = numbers.len();
        let mut clients = Clients {
            poller: Poller::new().map_err(|error| error.to_string())?,
            payload: Payload::new(size),
            first: numbers.start,
            clients: Vec::with_capacity(count),
            in_flight: 0,
            line: Vec::new(),
            buffer: vec![0; 256 * 1024],
        };
        clients.one_line_each(count, |clients, index| {
            let opened = Connection::open(target.address, index, &clients.poller);
            let connection = of(clients.first + index, opened)?;
            clients.clients.push(Client {
                connection: Some(connection),
                sent: 0,
                received: 0,
                part: 0,
                sent_at: VecDeque::new(),
            });
            Ok(())
        })?;
        Ok(clients)
    }

    /// Lines there and back on all connections, so many of them in flight on each, for as long as
    /// is measured; then the clients leave.
    pub(crate) fn exchange(mut self, in_flight: usize, target: Target) -> Result<Window, String> {
        let mut window = Window::open(target);
        let mut events = Events::new();
        for index in 0..self.clients.len() {
            self.send(index, in_flight)?;
        }
        loop {
            let open = window.is_open()?;
            if !open && self.in_flight == 0 {
                break;
            }
            self.poller.wait(&mut events, window.patience()).map_err(|error| error.to_string())?;
            if events.is_empty() && !open {
                return Err(format!("{} lines never came back", self.in_flight));
            }
            for ready in events.iter() {
                if ready.to_write {
                    self.flush(ready.index)?;
                }
                if ready.to_read {
                    let came = self.receive(ready.index, |sent, now| window.count(sent, now))?;
                    self.send(ready.index, if open { came } else { 0 })?;
                }
            }
        }
        self.leave()?;
        Ok(window)
    }

    /// A line there and back on each connection.
    pub(crate) fn exchange_one(&mut self) -> Result<(), String> {
        self.one_line_each(self.clients.len(), |_, _| Ok(()))
    }

    fn one_line_each(
        &mut self,
        count: usize,
        before: impl Fn(&mut Clients, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut events = Events::new();
        let mut next = 0;
        while next < count || self.in_flight > 0 {
            while next < count && self.in_flight < OPENING {
                before(self, next)?;
                self.send(next, 1)?;
                next += 1;
            }
            self.poller.wait(&mut events, PATIENCE).map_err(|error| error.to_string())?;
            if events.is_empty() {
                return Err(format!("{} of {next} connections have no answer", self.in_flight));
            }
            for ready in events.iter() {
                self.receive(ready.index, |_, _| ())?;
            }
        }
        Ok(())
    }

    /// Sends more lines on a connection, with one write.
    fn send(&mut self, index: usize, lines: usize) -> Result<(), String> {
        let number = self.first + index;
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return Ok(()) };
        if lines == 0 {
            return Ok(());
        }
        self.line.clear();
        let now = Instant::now();
        for _ in 0..lines {
            self.payload.append(number, client.sent, &mut self.line);
            client.sent = client.sent.wrapping_add(1);
            client.sent_at.push_back(now);
        }
        self.in_flight += lines;
        of(number, connection.send(&self.line, index, &self.poller))
    }

    fn flush(&mut self, index: usize) -> Result<(), String> {
        match &mut self.clients[index].connection {
            Some(connection) => of(self.first + index, connection.flush(index, &self.poller)),
            None => Ok(()),
        }
    }

    /// Reads and compares. Returns how many lines have come to their end, and calls `done` for each
    /// with when it was sent, and when it came.
    fn receive(
        &mut self,
        index: usize,
        mut done: impl FnMut(Instant, Instant),
    ) -> Result<usize, String> {
        let number = self.first + index;
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return Ok(0) };
        let length = match of(number, connection.read(&mut self.buffer))? {
            None => return Ok(0),
            Some(0) => {
                let Client { received, sent, .. } = client;
                return Err(format!(
                    "connection {number} was closed after {received} of {sent} lines"
                ));
            }
            Some(length) => length,
        };
        let now = Instant::now();
        let mut came = 0;
        let mut rest = &self.buffer[..length];
        while !rest.is_empty() {
            if client.sent_at.is_empty() {
                let more = rest.len();
                return Err(format!("connection {number}: {more} bytes more than were sent"));
            }
            let (part, after) = rest.split_at(rest.len().min(self.payload.size() - client.part));
            if !self.payload.continues(number, client.received, client.part, part) {
                let line = client.received;
                return Err(format!("connection {number}: line {line} is not what was sent"));
            }
            client.part += part.len();
            rest = after;
            if client.part == self.payload.size() {
                client.part = 0;
                client.received = client.received.wrapping_add(1);
                came += 1;
                done(client.sent_at.pop_front().unwrap_or(now), now);
            }
        }
        self.in_flight -= came;
        Ok(came)
    }

    /// Ends the input of each connection: its end must come back, and nothing before it.
    fn leave(mut self) -> Result<(), String> {
        for (index, client) in self.clients.iter().enumerate() {
            if let Some(connection) = &client.connection {
                of(self.first + index, connection.finish_sending())?;
            }
        }
        self.wait_for_ends(None).map(drop)
    }

    /// Closes all connections, whatever the server does.
    pub(crate) fn close(self) -> Result<(), String> {
        let connections = self.clients.into_iter().enumerate();
        connections
            .filter_map(|(index, client)| Some((index, client.connection?)))
            .try_for_each(|(index, connection)| of(self.first + index, connection.close()))
    }

    /// Waits for the server's end of each connection, and for the end of its process if that is
    /// given; returns when that was.
    pub(crate) fn wait_for_ends(
        &mut self,
        process: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Instant>, String> {
        let mut events = Events::new();
        let mut open = self.clients.len();
        let mut ended = None;
        if let Some(process) = process {
            // Its index is none of a connection.
            self.poller.add(process, open).map_err(|error| error.to_string())?;
        }
        while open > 0 || ended.is_some() != process.is_some() {
            self.poller.wait(&mut events, PATIENCE).map_err(|error| error.to_string())?;
            if events.is_empty() {
                return Err(match open {
                    0 => "the server has not ended".to_owned(),
                    _ => format!("{open} connections were not closed"),
                });
            }
            for ready in events.iter() {
                if let (true, Some(process)) = (ready.index == self.clients.len(), process) {
                    ended = Some(Instant::now());
                    self.poller.remove(process).map_err(|error| error.to_string())?;
                } else if self.has_ended(ready.index)? {
                    open -= 1;
                }
            }
        }
        Ok(ended)
    }

    /// Reads what must be the end of a connection, if anything.
    fn has_ended(&mut self, index: usize) -> Result<bool, String> {
        let number = self.first + index;
        let slot = &mut self.clients[index].connection;
        let Some(connection) = slot else { return Ok(false) };
        match of(number, connection.read(&mut self.buffer))? {
            None => Ok(false),
            Some(0) => {
                of(number, self.poller.remove(&*connection))?;
                slot.take().map_or(Ok(()), |connection| of(number, connection.close()))?;
                Ok(true)
            }
            Some(more) => Err(format!("connection {number}: {more} bytes before its end")),
        }
    }
}
