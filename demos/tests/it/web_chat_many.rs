//! `web_chat` with many browsers on two fiber workers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::demos::web_chat::{Browser, start};
use crate::support::clients::tcp;
use crate::support::system::{raise_descriptor_limit, status_of};

/// How many; another number for a measurement, which also prints what the server takes:
///
/// ```sh
/// WEB_CHAT_MEMBERS=10000 cargo test --release -p socketserver-demos --test it web_chat_many -- --nocapture
/// ```
fn members() -> usize {
    std::env::var("WEB_CHAT_MEMBERS").map_or(2000, |number| number.parse().unwrap())
}

/// A browser that looks for texts in what it receives, and keeps nothing else.
struct Member {
    stream: TcpStream,
    tail: Vec<u8>,
}

impl Member {
    /// Reads up to the end of this text.
    #[track_caller]
    fn reads(&mut self, text: &str) {
        let mut buffer = [0; 64 * 1024];
        loop {
            let found = self.tail.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                self.tail.drain(..at + text.len());
                return;
            }
            self.tail.drain(..self.tail.len().saturating_sub(text.len()));
            let length = self.stream.read(&mut buffer).unwrap();
            assert!(length > 0, "closed before {text:?}");
            self.tail.extend_from_slice(&buffer[..length]);
        }
    }

    /// Reads all that is there.
    fn catches_up(&mut self) {
        self.stream.set_nonblocking(true).unwrap();
        let error = std::io::copy(&mut self.stream, &mut std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).unwrap();
        self.tail.clear();
    }
}

#[test]
fn many_browsers_read_all_lines_in_order() {
    raise_descriptor_limit();
    let members = members();
    let begin = Instant::now();
    let server = start(&["--mixin", "fibers", "--workers", "2"]);
    let request = "GET /room HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let join = |number: usize| {
        let mut name = Frame::message(format!("member {number}"), OpCode::Data(Data::Text), true);
        name.header_mut().mask = Some([1, 2, 3, 4]);
        let mut bytes = request.as_bytes().to_vec();
        name.format(&mut bytes).unwrap();
        let mut stream = tcp(server.endpoint());
        stream.write_all(&bytes).unwrap();
        Member { stream, tail: Vec::new() }
    };
    let mut all: Vec<Member> = Vec::new();
    while all.len() < members {
        let begin = all.len();
        all.extend((begin..members.min(begin + 100)).map(join));
        for member in &mut all[begin..] {
            member.reads("\"type\":\"welcome\"");
        }
        // What they leave unread would soon take all memory that the system has for TCP.
        all.iter_mut().for_each(Member::catches_up);
    }
    let (mut speaker, welcome) = Browser::join(&server, "speaker");
    // The last ones may have their welcome before the others know.
    let here = welcome["here"].as_u64().unwrap() as usize;
    assert!((members - 2..=members).contains(&here), "{here} of {members}");
    const LINES: [&str; 3] = ["the first", "the second", "the last"];
    for line in LINES {
        speaker.says(line);
    }
    for member in &mut all {
        for line in LINES {
            member.reads(&format!("\"text\":\"{line}\""));
        }
    }
    if std::env::var_os("WEB_CHAT_MEMBERS").is_some() {
        let [memory, threads] = ["VmHWM", "Threads"].map(|field| status_of(server.pid(), field));
        println!(
            "{members} members after {:?}: {memory} kB at most, {threads} threads",
            begin.elapsed()
        );
    }
    // None of them would read that the others leave.
    drop((all, speaker));
    server.stop();
}
