//! Random bytes in pieces of random sizes, at random paces, come out as they went in.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use socketserver::*;

use super::{as_it_is, on_every_gateway, read_exactly};
use crate::support::clients::{Client, line_of, rest_of};

/// xorshift64, for bytes that both ends compute.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

/// The pieces of a writer or a reader: long runs of small ones, which are copied, and of large ones,
/// which are spliced.
struct Pieces {
    random: Random,
    largest: usize,
    left_of_run: usize,
}

impl Pieces {
    fn new(seed: u64) -> Pieces {
        Pieces { random: Random(seed), largest: 1, left_of_run: 0 }
    }

    fn next(&mut self) -> usize {
        if self.left_of_run == 0 {
            self.left_of_run = 1 + self.random.below(40);
            self.largest = [64, 1500, 20_000, 300_000][self.random.below(4)];
            if self.random.below(8) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.left_of_run -= 1;
        1 + self.random.below(self.largest)
    }
}

fn write_all(mut stream: &Client, bytes: &[u8], seed: u64) {
    let (mut pieces, mut rest) = (Pieces::new(seed), bytes);
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(pieces.next().min(rest.len()));
        stream.write_all(piece).unwrap();
        rest = behind;
    }
    stream.shutdown(Shutdown::Write);
}

fn read_all(mut stream: &Client, seed: u64) -> Vec<u8> {
    let (mut pieces, mut all) = (Pieces::new(seed), Vec::new());
    let mut buffer = vec![0; 300_000];
    loop {
        let length = stream.read(&mut buffer[..pieces.next()]).unwrap();
        if length == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..length]);
    }
}

#[test]
fn random_bytes_come_out_as_they_went_in() {
    on_every_gateway((), as_it_is, |gateway| {
        for seed in 1..=3 {
            let (client, upstream) = gateway.pair();
            let mut random = Random(seed);
            let lengths = [0; 2].map(|_| random.below(6 * 1024 * 1024));
            let [up, down] = lengths.map(|length| random.bytes(length));
            thread::scope(|scope| {
                scope.spawn(|| write_all(&client, &up, 10 + seed));
                scope.spawn(|| write_all(&upstream, &down, 20 + seed));
                let received = scope.spawn(|| read_all(&client, 30 + seed));
                assert!(read_all(&upstream, 40 + seed) == up, "{gateway}, seed {seed}");
                assert!(received.join().unwrap() == down, "{gateway}, seed {seed}");
            });
            drop((client, upstream));
            let relayed = gateway.relayed().unwrap();
            let [sent, received] = [&up, &down].map(|bytes| bytes.len() as u64);
            assert_eq!((relayed.sent, relayed.received), (sent, received), "{gateway}");
        }
        gateway.stops_clean();
    });
}

#[test]
fn much_small_traffic_after_bulk_is_carried_too() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        for round in 0..4 {
            let bulk = vec![b'a' + round; 700_000];
            thread::scope(|scope| {
                scope.spawn(|| client.send(&bulk));
                assert!(read_exactly(&upstream, bulk.len()) == bulk, "{gateway}");
            });
            for number in 0..40 {
                client.send(format!("question {number}\n"));
                assert_eq!(line_of(&upstream), format!("question {number}"));
                upstream.send("answer\n");
                assert_eq!(line_of(&client), "answer");
            }
        }
        drop(client);
        assert_eq!(rest_of(&upstream), b"");
        drop(upstream);
        assert_eq!(gateway.relayed().unwrap().ended_first, RelayEnd::Client);
        gateway.stops_clean();
    });
}
