//! What a chat passes on: lines that are safe to show, each from whom it says it is.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;

use libfuzzer_sys::fuzz_target;
use socketserver::services::{Chat, printable};
use socketserver::{Address, Connection, StreamRequestHandler, UnixName};

fuzz_target!(|data: &[u8]| {
    becomes_printable(data);
    let Some((&[limit, kind, length], rest)) = data.split_first_chunk() else { return };
    let (name, said) = rest.split_at(rest.len().min(usize::from(length) % 108));
    is_passed_on(said, peer(kind, name), limit.into());
});

fn becomes_printable(line: &[u8]) {
    let shown = printable(line);
    assert_eq!(shown, by_hand(line));
    assert!(!shown.contains(is_control));
    assert_eq!(printable(shown.as_bytes()), shown);
    // At most, each byte becomes a replacement character, which has three.
    assert!(shown.len() <= 3 * line.len());
}

/// The line as others are to see it.
fn by_hand(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
    let mut shown = String::new();
    for chunk in line.utf8_chunks() {
        shown.extend(chunk.valid().chars().map(|c| if is_control(c) { '\u{fffd}' } else { c }));
        shown.extend((!chunk.invalid().is_empty()).then_some('\u{fffd}'));
    }
    shown
}

/// The sets C0, less tab, and C1 of ECMA-48, and DEL; what ends lines, and turns their direction,
/// in Unicode.
fn is_control(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0a'..='\x1f' | '\x7f'..='\u{9f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Somebody says something, and somebody else is there and sees it.
fn is_passed_on(said: &[u8], peer: Address, limit: usize) {
    let (sender, observed) = mpsc::channel();
    let chat = Chat::new().greeting("Hi!\r\n").on_message(move |line| {
        sender.send(line.to_owned()).unwrap();
    });
    let mut witness = Connection::in_memory("");
    let _member = chat.room().join(witness.as_mut()).unwrap();
    let mut speaker = Connection::in_memory(said).with_peer(peer);
    let connection = speaker.as_mut();
    connection.set_max_line_length(limit);
    chat.handle(connection).unwrap();

    let seen = String::from_utf8(witness.output()).unwrap();
    let seen: Vec<_> = seen.strip_suffix("\r\n").unwrap().split("\r\n").collect();
    let name = match connection.peer_addr() {
        Address::Tcp(address) => address.to_string(),
        _ => format!("unix#{}", connection.id()),
    };
    let lines = said.split_inclusive(|byte| *byte == b'\n');
    let fit = lines.clone().take_while(|line| line.len() <= limit);
    let mut expected = vec![format!("Client joined {name}")];
    expected.extend(fit.clone().map(|line| format!("[{name}] {}", by_hand(line))));
    expected.push(format!("Client left {name}"));
    assert_eq!(seen, expected);
    assert!(!name.is_empty() && !name.contains(is_control), "{name:?}");
    assert_eq!(observed.try_iter().collect::<Vec<_>>(), expected);

    let too_long = if fit.count() < lines.count() { "line too long\r\n" } else { "" };
    assert_eq!(speaker.output(), format!("Hi!\r\n{too_long}").into_bytes());
}

/// A client's address. On a Unix socket it chooses that itself.
fn peer(kind: u8, name: &[u8]) -> Address {
    // A path ends at a NUL.
    let path = name.split(|byte| *byte == 0).next().unwrap_or_default();
    match kind % 5 {
        0 => Address::Tcp("192.0.2.1:4000".parse().unwrap()),
        1 => Address::Tcp("[2001:db8::1]:4000".parse().unwrap()),
        2 if !path.is_empty() => Address::Unix(UnixName::Path(OsStr::from_bytes(path).into())),
        3 => Address::Unix(UnixName::Abstract(name.to_vec())),
        _ => Address::Unix(UnixName::Unnamed),
    }
}
