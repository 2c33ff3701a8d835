//! Clients of a datagram echo: datagrams may be lost, but not damaged or repeated.

use std::collections::HashSet;
use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::net::{Events, Poller, none_if_blocked};
use super::payload::Payload;
use super::window::Window;
use super::{Figures, Outcome, Target, on_connection};

/// A datagram without an answer counts as lost after this time.
const LOST_AFTER: Duration = Duration::from_millis(500);

pub(crate) fn run(sockets: usize, in_flight: usize, target: Target) -> Outcome {
    let poller = Poller::new().map_err(|error| error.to_string())?;
    let open = |index| on_connection(index, Socket::open(index, in_flight, target, &poller));
    let mut sockets = (0..sockets).map(open).collect::<Result<Vec<_>, _>>()?;
    let mut window = Window::open(target);
    let mut events = Events::new();
    let payload = Payload::new(64);
    for socket in &mut sockets {
        socket.fill(&payload)?;
    }
    let mut checked = Instant::now();
    loop {
        let open = window.is_open()?;
        if !open && sockets.iter().all(|socket| socket.pending.is_empty()) {
            break;
        }
        let timeout = window.poll_timeout().min(LOST_AFTER);
        poller.wait(&mut events, timeout).map_err(|error| error.to_string())?;
        for ready in events.iter() {
            let socket = &mut sockets[ready.index];
            while let Some((sent, now)) = socket.receive(&payload)? {
                window.count(sent, now);
            }
            if open {
                socket.fill(&payload)?;
            }
        }
        if checked.elapsed() > LOST_AFTER / 4 {
            checked = Instant::now();
            for socket in &mut sockets {
                socket.expire(checked);
                if open {
                    socket.fill(&payload)?;
                }
            }
        }
    }
    let lost = sockets.iter().map(|socket| socket.lost.len() as u64).sum();
    Ok(Figures { lost, ..window.figures()? })
}

struct Socket {
    socket: UdpSocket,
    index: usize,
    in_flight: usize,
    next: u32,
    /// The unanswered datagrams and when each was sent, oldest first.
    pending: Vec<(u32, Instant)>,
    /// The datagrams that count as lost. Their answers may still arrive.
    lost: HashSet<u32>,
}

impl Socket {
    fn open(index: usize, in_flight: usize, target: Target, poller: &Poller) -> io::Result<Socket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(target.address)?;
        socket.set_nonblocking(true)?;
        poller.add(&socket, index)?;
        let (pending, lost) = (Vec::with_capacity(in_flight), HashSet::new());
        Ok(Socket { socket, index, in_flight, next: 0, pending, lost })
    }

    /// Sends until `in_flight` datagrams are unanswered.
    fn fill(&mut self, payload: &Payload) -> Result<(), String> {
        let mut datagram = Vec::with_capacity(payload.size());
        while self.pending.len() < self.in_flight {
            datagram.clear();
            payload.append(self.index, self.next, &mut datagram);
            if on_connection(self.index, none_if_blocked(self.socket.send(&datagram)))?.is_none() {
                return Ok(());
            }
            self.pending.push((self.next, Instant::now()));
            self.next += 1;
        }
        Ok(())
    }

    /// Receives and compares one datagram, if there is one. Returns the times at which it was sent
    /// and received.
    fn receive(&mut self, payload: &Payload) -> Result<Option<(Instant, Instant)>, String> {
        let index = self.index;
        let mut datagram = [0; 2048];
        loop {
            let Some(length) =
                on_connection(index, none_if_blocked(self.socket.recv(&mut datagram)))?
            else {
                return Ok(None);
            };
            let now = Instant::now();
            let message = datagram[..length].strip_suffix(b"\n").unwrap_or_default();
            let number = match payload.identify(message) {
                Some((sender, number)) if sender == index => number,
                Some((sender, number)) => {
                    return Err(format!("socket {index} got datagram {number} of socket {sender}"));
                }
                None => return Err(format!("socket {index} got a datagram that was not sent")),
            };
            if let Some(at) = self.pending.iter().position(|(pending, _)| *pending == number) {
                return Ok(Some((self.pending.remove(at).1, now)));
            }
            // A late answer counts neither as lost nor as an operation.
            if !self.lost.remove(&number) {
                return Err(format!("socket {index} got datagram {number} twice"));
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let expired = |sent: Instant| now.saturating_duration_since(sent) > LOST_AFTER;
        let lost = self.pending.extract_if(.., |(_, sent)| expired(*sent));
        self.lost.extend(lost.map(|(number, _)| number));
    }
}
