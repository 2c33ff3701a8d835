//! `web_chat` and frames of all kinds, valid or not
//! ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tungstenite::Message;

use super::web_chat::MIXINS;
use crate::demos::site::Answer;
use crate::demos::web_chat::{Browser, start};
use crate::support::clients::{rest_of, tcp};

/// The bits and codes of a frame's first byte.
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x40;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// The longest message, in bytes.
const MAX: usize = 4096;

/// A frame as a client sends it, masked.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let (payload, mask) = (payload.as_ref(), [1, 2, 3, 4]);
    let mut frame = vec![first];
    match payload.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    frame
}

/// The next frame of a server, its first byte and its payload.
#[track_caller]
fn read_frame(mut stream: &TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            u16::from_be_bytes(length).into()
        }
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    (head[0], payload)
}

#[test]
fn a_message_in_fragments_is_one_line() {
    for mixin in MIXINS {
        let server = start(&["--mixin", mixin]);
        let (mut ada, _) = Browser::join(&server, "Ada");
        let (mut ben, _) = Browser::join(&server, "Ben");
        ada.sees("+ Ben");
        // A character is split, and there is a ping in the middle.
        let text = "\u{1f600} caf\u{e9}".as_bytes();
        let bytes = [
            frame(TEXT, &text[..2]),
            frame(CONTINUATION, &text[2..5]),
            frame(FIN | PING, "are you there?"),
            frame(CONTINUATION, ""),
            frame(FIN | CONTINUATION, &text[5..]),
        ];
        // Byte by byte, and all at once.
        ben.socket.get_mut().set_nodelay(true).unwrap();
        for byte in bytes.concat().chunks(1) {
            ben.sends(byte);
        }
        ben.sends(bytes.concat());
        for _ in 0..2 {
            ada.sees("Ben: \u{1f600} caf\u{e9}");
        }
        let (mut pongs, mut texts) = (0, 0);
        while (pongs, texts) != (2, 2) {
            match ben.socket.read().unwrap() {
                Message::Pong(payload) if payload == "are you there?" => pongs += 1,
                Message::Text(text) if text.contains("\u{1f600} caf\u{e9}") => texts += 1,
                other => panic!("{other:?}"),
            }
        }
        server.stop();
    }
}

#[test]
fn what_is_no_message_is_answered_by_a_code() {
    let server = start(&[]);
    let (mut ada, _) = Browser::join(&server, "Ada");
    let mut unmasked = frame(FIN | TEXT, "x");
    unmasked[1] &= 0x7f;
    let longest_of_all = [&[FIN | TEXT, 0xff][..], &[0xff; 8], b"mask"].concat();
    let half = "x".repeat(MAX / 2 + 1);
    for (name, bytes, code) in [
        ("binary", frame(FIN | BINARY, "x"), 1003),
        ("not UTF-8", frame(FIN | TEXT, b"\xc3\x28"), 1007),
        ("a surrogate", frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
        ("too long", frame(FIN | TEXT, "x".repeat(MAX + 1)), 1009),
        ("too long in its head", longest_of_all, 1009),
        (
            "too long in fragments",
            [frame(TEXT, &half), frame(FIN | CONTINUATION, &half)].concat(),
            1009,
        ),
        ("no mask", unmasked, 1002),
        ("a reserved bit", frame(FIN | RESERVED | TEXT, "x"), 1002),
        ("a reserved code", frame(FIN | 3, "x"), 1002),
        ("a reserved control code", frame(FIN | 11, "x"), 1002),
        ("a long ping", frame(FIN | PING, "x".repeat(126)), 1002),
        ("a ping in fragments", frame(PING, "x"), 1002),
        ("no first fragment", frame(FIN | CONTINUATION, "x"), 1002),
        ("two first fragments", [frame(TEXT, "x"), frame(FIN | TEXT, "x")].concat(), 1002),
        ("half a code", frame(FIN | CLOSE, [3]), 1002),
    ] {
        let (mut browser, _) = Browser::join(&server, "Ben");
        ada.sees("+ Ben");
        browser.sends([bytes, frame(FIN | TEXT, "not read")].concat());
        assert_eq!(browser.is_closed(), Some(code), "{name}");
        ada.sees("- Ben");
    }
    ada.says("x".repeat(MAX).as_str());
    ada.sees(&format!("Ada: {}", "x".repeat(MAX)));
    server.stop();
}

#[test]
fn the_close_handshake_is_answered_and_nothing_follows() {
    for mixin in MIXINS {
        let server = start(&["--mixin", mixin]);
        // Another member talks all the time, but not more than a browser can read.
        let mut speaker = tcp(server.endpoint());
        let talk = thread::spawn(move || {
            while speaker.write_all(b"hello\n").is_ok() {
                thread::sleep(Duration::from_micros(50));
            }
        });
        // The code is sent back; one that must not be sent is an error.
        let codes: [(&[u8], &[u8]); 4] = [
            (b"", b""),
            (b"\x03\xe8", b"\x03\xe8"),
            (b"\x03\xe9bye", b"\x03\xe9bye"),
            (b"\x03\xed", b"\x03\xeaProtocol violation"),
        ];
        for (sent, answer) in codes.repeat(10) {
            let mut browser = Browser::connect(&server);
            assert_eq!(browser.asks_for("Ben")["type"], "welcome");
            browser.sends([frame(FIN | CLOSE, sent), frame(FIN | TEXT, "not read")].concat());
            let stream = browser.socket.get_ref();
            let closed = loop {
                match read_frame(stream) {
                    (first, _) if first == FIN | TEXT => {}
                    other => break other,
                }
            };
            assert_eq!(closed, (FIN | CLOSE, answer.to_vec()), "{mixin}");
            assert_eq!(rest_of(stream), b"", "{mixin}");
        }
        server.signal(Signal::KILL);
        server.wait();
        talk.join().unwrap();
    }
}

#[test]
fn frames_may_follow_the_handshake_at_once() {
    let server = start(&[]);
    let mut stream = tcp(server.endpoint());
    let request = "GET /room HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let frames = ["Ada", "hello"].map(|text| frame(FIN | TEXT, text)).concat();
    stream.write_all(&[request.as_bytes(), &frames].concat()).unwrap();
    Answer::next(&stream);
    for part in ["\"type\":\"welcome\"", "\"type\":\"join\"", "\"text\":\"hello\""] {
        let (first, payload) = read_frame(&stream);
        assert_eq!(first, FIN | TEXT);
        assert!(str::from_utf8(&payload).unwrap().contains(part), "{}", payload.escape_ascii());
    }
    server.stop();
}
