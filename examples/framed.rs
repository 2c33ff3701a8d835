//! Length-prefixed binary messages: each is a list of numbers, and is answered by their sum.
//!
//! A message is its length in bytes (32 bits) and numbers of that total length (32 bits, signed).
//! An answer is its length, which is 8, and the sum (64 bits, signed, so that it cannot overflow).
//! All of it is big-endian. To add 1 and 2:
//!
//! ```sh
//! cargo run --example framed
//! printf '\0\0\0\10\0\0\0\1\0\0\0\2' | nc -N 127.0.0.1 21569 | od -An -tx1
//! ```
//!
//! Or, with Python (to send -1, 0 and 3):
//!
//! ```sh
//! python3 -c 'import socket, struct
//! s = socket.create_connection(("127.0.0.1", 21569))
//! s.sendall(struct.pack("!Liii", 12, -1, 0, 3)); print(struct.unpack("!Lq", s.recv(12)))'
//! ```
//!
//! A message that is too long, or no list of numbers, ends its connection.

mod common;

use std::process::ExitCode;

use common::Example;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::{Connection, HandlerResult, StreamRequestHandler};

/// A longer message is an error as soon as its length is read.
const FRAMES: LengthPrefixed = LengthPrefixed::new(Prefix::U32).max_length(4096);

struct Adder;

impl StreamRequestHandler for Adder {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut message = Vec::new();
        while connection.read_message(&FRAMES, &mut message)? {
            let (numbers, []) = message.as_chunks() else {
                return Err(format!("{} bytes are no list of numbers", message.len()).into());
            };
            let sum: i64 = numbers.iter().map(|bytes| i64::from(i32::from_be_bytes(*bytes))).sum();
            connection.write_message(&FRAMES, &sum.to_be_bytes())?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:21569", "Adds up the numbers of each length-prefixed message.")
        .try_it(r"printf '\0\0\0\10\0\0\0\1\0\0\0\2' | nc -N {nc} | od -An -tx1")
        .run(|options| options.serve(Adder))
}
