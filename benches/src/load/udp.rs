//! What is sent comes back, or not: datagrams may be lost, but neither damaged nor repeated.

use std::collections::HashSet;
use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::net::{Events, Poller, no_wait};
use super::payload::Payload;
use super::window::Window;
use super::{Figures, Outcome, Target, of};

/// What has not come back by then is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

pub(crate) fn run(sockets: usize, in_flight: usize, target: Target) -> Outcome {
    let poller = Poller::new().map_err(|error| error.to_string())?;
    let open = |index| of(index, Socket::open(index, in_flight, target, &poller));
    let mut sockets = (0..sockets).map(open).collect::<Result<Vec<_>, _>>()?;
    let mut window = Window::open(target);
    let mut events = Events::new();
    let payload = Payload::new(64);
    for socket in &mut sockets {
        socket.fill(&payload)?;
    }
    let mut looked = Instant::now();
    loop {
        let open = window.is_open()?;
        if !open && sockets.iter().all(|socket| socket.missing.is_empty()) {
            break;
        }
        let patience = window.patience().min(LOST_AFTER);
        poller.wait(&mut events, patience).map_err(|error| error.to_string())?;
        for ready in events.iter() {
            let socket = &mut sockets[ready.index];
            while let Some((sent, now)) = socket.receive(&payload)? {
                window.count(sent, now);
            }
            if open {
                socket.fill(&payload)?;
            }
        }
        if looked.elapsed() > LOST_AFTER / 4 {
            looked = Instant::now();
            for socket in &mut sockets {
                socket.give_up_on_the_lost(looked);
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
    /// What is on its way, and since when: in the order of sending, so that the first is the next
    /// to be given up.
    missing: Vec<(u32, Instant)>,
    /// What was given up, and may come after all.
    lost: HashSet<u32>,
}

impl Socket {
    fn open(index: usize, in_flight: usize, target: Target, poller: &Poller) -> io::Result<Socket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(target.address)?;
        socket.set_nonblocking(true)?;
        poller.add(&socket, index)?;
        let (missing, lost) = (Vec::with_capacity(in_flight), HashSet::new());
        Ok(Socket { socket, index, in_flight, next: 0, missing, lost })
    }

    /// Sends until as many are on their way as may be.
    fn fill(&mut self, payload: &Payload) -> Result<(), String> {
        let mut datagram = Vec::with_capacity(payload.size());
        while self.missing.len() < self.in_flight {
            datagram.clear();
            payload.append(self.index, self.next, &mut datagram);
            if of(self.index, no_wait(self.socket.send(&datagram)))?.is_none() {
                return Ok(());
            }
            self.missing.push((self.next, Instant::now()));
            self.next += 1;
        }
        Ok(())
    }

    /// Takes one datagram, if there is one, and compares: when it was sent, and when it came.
    fn receive(&mut self, payload: &Payload) -> Result<Option<(Instant, Instant)>, String> {
        let index = self.index;
        let mut datagram = [0; 2048];
        loop {
            let Some(length) = of(index, no_wait(self.socket.recv(&mut datagram)))? else {
                return Ok(None);
            };
            let now = Instant::now();
            let message = datagram[..length].strip_suffix(b"\n").unwrap_or_default();
            let number = match payload.identify(message) {
                Some((sender, number)) if sender == index => number,
                Some((sender, number)) => {
                    return Err(format!("socket {index} got datagram {number} of socket {sender}"));
                }
                None => return Err(format!("socket {index} got a datagram that nobody sent")),
            };
            if let Some(at) = self.missing.iter().position(|(missing, _)| *missing == number) {
                return Ok(Some((self.missing.remove(at).1, now)));
            }
            // Late, and not lost; but it is not counted as an operation either.
            if !self.lost.remove(&number) {
                return Err(format!("socket {index} got datagram {number} twice"));
            }
        }
    }

    fn give_up_on_the_lost(&mut self, now: Instant) {
        let given_up = |sent: Instant| now.saturating_duration_since(sent) > LOST_AFTER;
        let lost = self.missing.extract_if(.., |(_, sent)| given_up(*sent));
        self.lost.extend(lost.map(|(number, _)| number));
    }
}
