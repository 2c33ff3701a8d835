//! Names in `named_chat`: what is a name, and which names are one.

#[path = "../../examples/common/names.rs"]
mod names;

use std::io::Write;
use std::net::TcpStream;

use names::Name;

use crate::examples::without_time;
use crate::harness::{Test, tests};
use crate::support::clients::{line_of, rest_of, tcp};
use crate::support::process::Server;
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![
    a_name_that_looks_like_another_is_taken,
    names_that_look_alike_have_one_key,
    a_name_has_something_to_see_and_passes_for_nothing_else,
];

/// Sends a name as the first line; returns the connection and the answer.
fn enter(server: &Server, name: &str) -> (TcpStream, String) {
    let mut stream = tcp(server.endpoint());
    stream.write_all(format!("{name}\r\n").as_bytes()).unwrap();
    let answer = line_of(&stream);
    (stream, answer)
}

fn a_name_that_looks_like_another_is_taken() {
    let server = Server::start("named_chat", "127.0.0.1:0", &[]);
    let (ada, answer) = enter(&server, "ada");
    assert_eq!(answer, "success\r");
    for name in ["ada ", " ada", "\u{200b}ada", "a\u{200d}da", "\u{ff41}da", "\u{430}da"] {
        let (stream, answer) = enter(&server, name);
        assert_eq!(answer, "reuse\r", "{name:?}");
        assert_eq!(rest_of(stream), b"");
    }
    for name in ["\u{202e}ada", "\u{200b}", "ada: hi"] {
        let (stream, answer) = enter(&server, name);
        assert_eq!(answer, "invalid\r", "{name:?}");
        assert_eq!(rest_of(stream), b"");
    }
    // The name is free again whichever form it had, and others see it without blanks around it.
    (&ada).write_all(b"quit\n").unwrap();
    assert_eq!(rest_of(&ada), b"quit\r\n");
    let (ada, answer) = enter(&server, "  ada  ");
    assert_eq!(answer, "success\r");
    assert_eq!(enter(&server, "ada").1, "reuse\r");
    let (ben, answer) = enter(&server, "ben");
    assert_eq!(answer, "success\r");
    wait_until("that both are in the room", || {
        (&ada).write_all(b"hello  \t  there\n").unwrap();
        ben.set_nonblocking(true).unwrap();
        let has_arrived = ben.peek(&mut [0]).is_ok();
        ben.set_nonblocking(false).unwrap();
        has_arrived
    });
    assert_eq!(without_time(&line_of(&ben)), "ada: hello there\r");
    server.stop();
}

#[track_caller]
fn key(name: &str) -> String {
    Name::parse(name.as_bytes()).unwrap_or_else(|| panic!("{name:?} is no name")).key
}

fn names_that_look_alike_have_one_key() {
    for (name, others) in [
        (
            "ada",
            &[
                "ada\r\n",
                "\tada",
                "\u{a0}ada\u{3000}",
                "ada\u{2800}",
                "\u{3164}ada",
                // Invisible: a soft hyphen, a joiner, a variation selector, a byte order mark, a
                // tag.
                "a\u{ad}da",
                "ad\u{34f}a",
                "ada\u{fe0f}",
                "\u{feff}ada",
                "ada\u{e0061}",
                // Wide letters, mathematical letters, Cyrillic letters.
                "\u{ff41}\u{ff44}\u{ff41}",
                "\u{1d41a}da",
                "\u{430}d\u{430}",
            ][..],
        ),
        ("Ben Jr.", &["Ben  Jr.", "Ben\u{2003}Jr.", "Ben\u{2800}Jr.", "Ben Jr\u{2024}"]),
        ("fi", &["\u{fb01}"]),
        ("\u{e9}", &["e\u{301}"]),
        ("l0l", &["I0I", "1O1", "lOl"]),
    ] {
        for other in others {
            assert_eq!(key(other), key(name), "{other:?} and {name:?}");
        }
    }
    for (one, other) in [
        ("ada", "Ada"),
        ("ada", "ad\u{e0}"),
        ("a b", "ab"),
        ("\u{5d0}\u{5d1}", "\u{5d1}\u{5d0}"),
        ("\u{915}\u{941}", "\u{915}\u{942}"),
        ("\u{1f980}", "\u{1f40d}"),
    ] {
        assert_ne!(key(one), key(other), "{one} and {other}");
    }
}

fn a_name_has_something_to_see_and_passes_for_nothing_else() {
    for name in [
        "",
        " ",
        "\u{a0}\u{3000}",
        "\u{2800}",
        "\u{3164}",
        "\u{200b}\u{200d}",
        "\u{ad}",
        "\u{fe0f}",
        "\u{202e}ada",
        "ad\u{200e}a",
        "\u{200f}ada",
        "\u{61c}ada",
        "\u{2066}ada",
        "\u{fffd}",
        // It would be drawn on the text before it.
        "\u{301}ada",
        // A text with a colon looks like a name and what it says.
        "ada: hi",
        "ada\u{ff1a} hi",
        "ada\u{2236} hi",
    ] {
        assert!(Name::parse(name.as_bytes()).is_none(), "{name:?}");
    }
    for name in ["x", "two words", "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}", "\u{5d0}-\u{5d1}"]
    {
        assert_eq!(Name::parse(name.as_bytes()).expect(name).shown, name);
    }
}
