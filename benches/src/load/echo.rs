//! Clients of an echo: the bytes that were sent must come back, in order, and nothing else.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::net::{Connection, Events, Poller};
use super::payload::Payload;
use super::window::Window;
use super::{Outcome, PROGRESS_TIMEOUT, Target, on_connection};

/// How many connections may be waiting for their first answer.
const MAX_UNANSWERED: usize = 64;

pub(crate) fn run(connections: usize, size: usize, in_flight: usize, target: Target) -> Outcome {
    Clients::connect(0..connections, size, target)?.exchange(in_flight, target)?.figures()
}

/// Connections to a server that sends back each line.
pub(crate) struct Clients {
    poller: Poller,
    payload: Payload,
    /// The number of the first client. The clients of another thread have other numbers.
    first: usize,
    clients: Vec<Client>,
    in_flight: usize,
    /// The lines of one write.
    output: Vec<u8>,
    /// The bytes of one read.
    buffer: Vec<u8>,
}

struct Client {
    connection: Option<Connection>,
    sent: u32,
    received: u32,
    /// How many bytes of the next line have arrived.
    partial: usize,
    sent_at: VecDeque<Instant>,
}

impl Clients {
    /// Connects the clients with these numbers, and exchanges one line with each.
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
            output: Vec::new(),
            buffer: vec![0; 256 * 1024],
        };
        clients.round_trip_on_each(count, |clients, index| {
            let opened = Connection::open(target.address, index, &clients.poller);
            let connection = on_connection(clients.first + index, opened)?;
            clients.clients.push(Client {
                connection: Some(connection),
                sent: 0,
                received: 0,
                partial: 0,
                sent_at: VecDeque::new(),
            });
            Ok(())
        })?;
        Ok(clients)
    }

    /// Exchanges lines until the window closes, with `in_flight` of them on each connection. Then
    /// closes the connections.
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
            self.poller
                .wait(&mut events, window.poll_timeout())
                .map_err(|error| error.to_string())?;
            if events.is_empty() && !open {
                return Err(format!("{} lines never came back", self.in_flight));
            }
            for ready in events.iter() {
                if ready.writable {
                    self.flush(ready.index)?;
                }
                if ready.readable {
                    let received =
                        self.receive(ready.index, |sent, now| window.count(sent, now))?;
                    self.send(ready.index, if open { received } else { 0 })?;
                }
            }
        }
        self.close()?;
        Ok(window)
    }

    /// One round trip on each connection.
    pub(crate) fn exchange_one(&mut self) -> Result<(), String> {
        self.round_trip_on_each(self.clients.len(), |_, _| Ok(()))
    }

    fn round_trip_on_each(
        &mut self,
        count: usize,
        prepare: impl Fn(&mut Clients, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut events = Events::new();
        let mut next = 0;
        while next < count || self.in_flight > 0 {
            while next < count && self.in_flight < MAX_UNANSWERED {
                prepare(self, next)?;
                self.send(next, 1)?;
                next += 1;
            }
            self.poller.wait(&mut events, PROGRESS_TIMEOUT).map_err(|error| error.to_string())?;
            if events.is_empty() {
                return Err(format!("{} of {next} connections got no answer", self.in_flight));
            }
            for ready in events.iter() {
                self.receive(ready.index, |_, _| ())?;
            }
        }
        Ok(())
    }

    /// Sends lines on a connection with one write.
    fn send(&mut self, index: usize, lines: usize) -> Result<(), String> {
        let number = self.first + index;
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return Ok(()) };
        if lines == 0 {
            return Ok(());
        }
        self.output.clear();
        let now = Instant::now();
        for _ in 0..lines {
            self.payload.append(number, client.sent, &mut self.output);
            client.sent = client.sent.wrapping_add(1);
            client.sent_at.push_back(now);
        }
        self.in_flight += lines;
        on_connection(number, connection.send(&self.output, index, &self.poller))
    }

    fn flush(&mut self, index: usize) -> Result<(), String> {
        match &mut self.clients[index].connection {
            Some(connection) => {
                on_connection(self.first + index, connection.flush(index, &self.poller))
            }
            None => Ok(()),
        }
    }

    /// Reads and compares. Returns how many lines became complete, and calls `done` for each with
    /// the times at which it was sent and received.
    fn receive(
        &mut self,
        index: usize,
        mut done: impl FnMut(Instant, Instant),
    ) -> Result<usize, String> {
        let number = self.first + index;
        let client = &mut self.clients[index];
        let Some(connection) = &mut client.connection else { return Ok(0) };
        let length = match on_connection(number, connection.read(&mut self.buffer))? {
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
        let mut lines = 0;
        let mut rest = &self.buffer[..length];
        while !rest.is_empty() {
            if client.sent_at.is_empty() {
                let more = rest.len();
                return Err(format!("connection {number}: {more} bytes more than were sent"));
            }
            let (part, after) = rest.split_at(rest.len().min(self.payload.size() - client.partial));
            if !self.payload.continues(number, client.received, client.partial, part) {
                let line = client.received;
                return Err(format!("connection {number}: line {line} is not what was sent"));
            }
            client.partial += part.len();
            rest = after;
            if client.partial == self.payload.size() {
                client.partial = 0;
                client.received = client.received.wrapping_add(1);
                lines += 1;
                done(client.sent_at.pop_front().unwrap_or(now), now);
            }
        }
        self.in_flight -= lines;
        Ok(lines)
    }

    /// Half-closes each connection: EOF must come back, and nothing before it.
    fn close(mut self) -> Result<(), String> {
        for (index, client) in self.clients.iter().enumerate() {
            if let Some(connection) = &client.connection {
                on_connection(self.first + index, connection.finish_sending())?;
            }
        }
        self.wait_for_eof(None).map(drop)
    }

    /// Closes all connections with an RST.
    pub(crate) fn reset(self) -> Result<(), String> {
        let connections = self.clients.into_iter().enumerate();
        connections.filter_map(|(index, client)| Some((index, client.connection?))).try_for_each(
            |(index, connection)| on_connection(self.first + index, connection.reset()),
        )
    }

    /// Waits for EOF on each connection, and for the exit of `process`, a pidfd. Returns the time
    /// of that exit.
    pub(crate) fn wait_for_eof(
        &mut self,
        process: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Instant>, String> {
        let mut events = Events::new();
        let mut open = self.clients.len();
        let mut exited = None;
        if let Some(process) = process {
            // No connection has this index.
            self.poller.add(process, open).map_err(|error| error.to_string())?;
        }
        while open > 0 || exited.is_some() != process.is_some() {
            self.poller.wait(&mut events, PROGRESS_TIMEOUT).map_err(|error| error.to_string())?;
            if events.is_empty() {
                return Err(match open {
                    0 => "the server has not exited".to_owned(),
                    _ => format!("{open} connections were not closed"),
                });
            }
            for ready in events.iter() {
                if let (true, Some(process)) = (ready.index == self.clients.len(), process) {
                    exited = Some(Instant::now());
                    self.poller.remove(process).map_err(|error| error.to_string())?;
                } else if self.read_eof(ready.index)? {
                    open -= 1;
                }
            }
        }
        Ok(exited)
    }

    /// Returns whether EOF has arrived. Data is an error.
    fn read_eof(&mut self, index: usize) -> Result<bool, String> {
        let number = self.first + index;
        let slot = &mut self.clients[index].connection;
        let Some(connection) = slot else { return Ok(false) };
        match on_connection(number, connection.read(&mut self.buffer))? {
            None => Ok(false),
            Some(0) => {
                on_connection(number, self.poller.remove(&*connection))?;
                slot.take()
                    .map_or(Ok(()), |connection| on_connection(number, connection.reset()))?;
                Ok(true)
            }
            Some(more) => Err(format!("connection {number}: {more} bytes before EOF")),
        }
    }
}
