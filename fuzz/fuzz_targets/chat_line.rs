//! The lines of a chat: safe for a terminal, and under their sender's name.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;

use libfuzzer_sys::fuzz_target;
use socketserver::services::{Chat, chat_line, printable};
use socketserver::{Address, Connection, StreamRequestHandler, UnixName};
use unicode_normalization::char::is_combining_mark;
use unicode_width::UnicodeWidthChar;

fuzz_target!(|data: &[u8]| {
    check_printable(data);
    let Some((&[limit, kind, length], rest)) = data.split_first_chunk() else { return };
    let (name, input) = rest.split_at(rest.len().min(usize::from(length) % 108));
    // Telnet's IAC, and the NUL behind a CR, are for the target `telnet`.
    let is_telnet = |byte: &u8| matches!(byte, 0 | 255);
    let input: Vec<u8> = input.iter().copied().filter(|byte| !is_telnet(byte)).collect();
    // A limit of zero counts as one.
    check_chat(&input, peer(kind, name), limit.max(1).into());
});

fn check_printable(line: &[u8]) {
    let shown = printable(line);
    assert!(!shown.contains(is_control));
    assert_eq!(printable(shown.as_bytes()), shown);
    // At most, each byte becomes a replacement character, which has three.
    assert!(shown.len() <= 3 * line.len());

    // Nothing is left out but marks and invisible characters, of runs of more than eight.
    let mut rest = shown.chars().peekable();
    let mut run = 0;
    for c in printable_model(line).chars() {
        run = if takes_no_place(c) { run + 1 } else { 0 };
        assert!(rest.next_if_eq(&c).is_some() || run > 8, "{c:?} is missing");
    }
    assert_eq!(rest.next(), None);

    let in_chat = chat_line(line);
    assert_eq!(chat_line(in_chat.as_bytes()), in_chat);
    assert_eq!(without_blanks(&in_chat), without_blanks(&shown));
    let seen: Vec<char> = in_chat.chars().filter(|c| !"\u{200b}\u{fe0f}".contains(*c)).collect();
    assert!(!seen.windows(2).any(|two| two.iter().all(|c| c.is_whitespace())), "{in_chat:?}");
}

/// The line without a limit on marks.
fn printable_model(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
    let mut text = String::new();
    for chunk in line.utf8_chunks() {
        text.extend(chunk.valid().chars().map(|c| if is_control(c) { '\u{fffd}' } else { c }));
        text.extend((!chunk.invalid().is_empty()).then_some('\u{fffd}'));
    }
    text
}

/// The sets C0 (without tab) and C1 of ECMA-48, and DEL; Unicode's line ends and direction marks.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0a'..='\x1f' | '\x7f'..='\u{9f}')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Marks, and characters without a width; more than `printable` may leave out.
fn takes_no_place(c: char) -> bool {
    is_combining_mark(c)
        || c.width().unwrap_or(0) == 0
        || matches!(c, '\u{ad}' | '\u{ff9e}' | '\u{ff9f}')
}

fn without_blanks(text: &str) -> String {
    text.replace(
        |c: char| {
            c.is_whitespace()
                || c.width() == Some(0)
                || "\u{2800}\u{3164}\u{ffa0}\u{115f}".contains(c)
        },
        "",
    )
}

/// One client sends the input, and another member must get its lines.
fn check_chat(input: &[u8], peer: Address, limit: usize) {
    let (log, logged) = mpsc::channel();
    let chat = Chat::new().greeting("Hi!\r\n").on_message(move |line| {
        log.send(line.to_owned()).unwrap();
    });
    let mut listener = Connection::in_memory("");
    let _member = chat.room().join(listener.as_mut()).unwrap();
    let mut sender = Connection::in_memory(input).with_peer(peer);
    let connection = sender.as_mut();
    connection.set_max_line_length(limit);
    chat.handle(connection).unwrap();

    let received = String::from_utf8(listener.output()).unwrap();
    let received: Vec<_> = received.strip_suffix("\r\n").unwrap().split("\r\n").collect();
    let name = match connection.peer_addr() {
        Address::Tcp(address) => address.to_string(),
        _ => format!("unix#{}", connection.id()),
    };
    let lines = input.split_inclusive(|byte| *byte == b'\n');
    let fit = lines.clone().take_while(|line| line.len() <= limit);
    let mut expected = vec![format!("Client joined {name}")];
    expected.extend(fit.clone().map(|line| format!("[{name}] {}", chat_line(line))));
    expected.push(format!("Client left {name}"));
    assert_eq!(received, expected);
    assert!(!name.is_empty() && !name.contains(is_control), "{name:?}");
    assert_eq!(logged.try_iter().collect::<Vec<_>>(), expected);

    let too_long = if fit.count() < lines.count() { "line too long\r\n" } else { "" };
    assert_eq!(sender.output(), format!("Hi!\r\n{too_long}").into_bytes());
}

/// A client's address. On a Unix socket the client chooses it.
fn peer(kind: u8, name: &[u8]) -> Address {
    // A NUL ends a path.
    let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
    match kind % 5 {
        0 => Address::Tcp("192.0.2.1:4000".parse().unwrap()),
        1 => Address::Tcp("[2001:db8::1]:4000".parse().unwrap()),
        2 if !path.is_empty() => Address::Unix(UnixName::Path(OsStr::from_bytes(path).into())),
        3 => Address::Unix(UnixName::Abstract(name.to_vec())),
        _ => Address::Unix(UnixName::Unnamed),
    }
}
