//! Good clients of datagram servers. Each datagram is sent once, and must be answered once.

use std::io::{ErrorKind, Read};

use fastrand::Rng;

use crate::Soak;
use crate::tally::Outcome;
use crate::target::Target;

/// The most datagrams in flight. They and their answers have to fit into every buffer; a Unix
/// datagram socket holds ten.
const WINDOW: usize = 4;

/// Runs sessions until the end.
pub(crate) fn run(soak: &Soak, target: &Target, random: &mut Rng) {
    while !soak.is_over() {
        session(target, random);
    }
}

fn session(target: &Target, random: &mut Rng) {
    let Some((mut socket, stopping)) = target.connect() else {
        return target.count.add(Outcome::Refused, 1);
    };
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    let mut unsent = random.u32(1..500);
    let mut buffer = [0; 2048];
    while unsent > 0 || !waiting.is_empty() {
        if unsent > 0 && waiting.len() < WINDOW {
            let (_gate, is_open) = target.gate(&stopping);
            // Sending to a closed Unix socket would make the kernel drop the answers that have not
            // been read yet.
            if !is_open {
                unsent = 0;
                continue;
            }
            let text = format!("{unsent} {}", "x".repeat(random.usize(..1000)));
            let request = target.kind.request(&text);
            match socket.send(&request) {
                Ok(_) => waiting.push(request),
                Err(error) => target.record_failure(format!("cannot send: {error}")),
            }
            unsent -= 1;
            continue;
        }
        match socket.read(&mut buffer) {
            Ok(length) => match waiting.iter().position(|sent| *sent == buffer[..length]) {
                Some(at) => {
                    waiting.swap_remove(at);
                    target.count.add(Outcome::Answered, 1);
                }
                None => target.record_failure("an answer to nothing"),
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    target.count.add(Outcome::Lost, waiting.len() as u64);
}
