//! Good clients of datagram servers: each datagram is sent once, and must be answered once.

use std::io::{ErrorKind, Read};

use fastrand::Rng;

use crate::Soak;
use crate::tally::Fate;
use crate::target::Target;

/// How many are under way at a time: so few that they, and their answers, fit into every buffer. A
/// Unix datagram socket holds ten.
const WINDOW: usize = 4;

/// Comes again and again until it is over.
pub(crate) fn run(soak: &Soak, target: &Target, random: &mut Rng) {
    while !soak.is_over() {
        session(target, random);
    }
}

fn session(target: &Target, random: &mut Rng) {
    let Some((mut socket, stopping)) = target.connect() else {
        return target.count.add(Fate::Refused, 1);
    };
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    let mut unsent = random.u32(1..500);
    let mut buffer = [0; 2048];
    while unsent > 0 || !waiting.is_empty() {
        if unsent > 0 && waiting.len() < WINDOW {
            let (_gate, is_open) = target.gate(&stopping);
            // No word to a server that may be gone: at that the system throws away the answers that
            // a Unix socket has not read yet.
            if !is_open {
                unsent = 0;
                continue;
            }
            let text = format!("{unsent} {}", "x".repeat(random.usize(..1000)));
            let request = target.kind.request(&text);
            match socket.send(&request) {
                Ok(_) => waiting.push(request),
                Err(error) => target.complain(format!("cannot send: {error}")),
            }
            unsent -= 1;
            continue;
        }
        match socket.read(&mut buffer) {
            Ok(length) => match waiting.iter().position(|sent| *sent == buffer[..length]) {
                Some(at) => {
                    waiting.swap_remove(at);
                    target.count.add(Fate::Answered, 1);
                }
                None => target.complain("an answer to nothing"),
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    target.count.add(Fate::Lost, waiting.len() as u64);
}
