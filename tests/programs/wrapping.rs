//! What `chat_client` shows on a terminal: at the left margin begin lines, and no parts of lines.
//!
//! The terminal is the one that `script` (of util-linux) opens.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::thread;

use crate::harness::{Test, tests};
use crate::support::TIMEOUT;
use crate::support::clients::{line_of, tcp};
use crate::support::process::{Process, Server, example};

pub(crate) const TESTS: &[Test] = tests![
    a_row_that_continues_a_line_is_indented: ["script"],
    rows_are_measured_in_columns: ["script"],
    the_rest_of_a_line_that_is_shown_in_pieces_is_indented: ["script"],
    a_run_of_blanks_moves_nothing_to_the_left_margin,
];

/// A client at a terminal of 40 columns. It has an input that is empty, so it has no prompt.
fn client(address: &str) -> Process {
    let program = example("chat_client");
    let program = program.get_program().to_str().unwrap();
    let mut command = Command::new("script");
    let words = format!("stty cols 40; exec {program} {address} < /dev/null");
    command.args(["-q", "-e", "-c", &words, "/dev/null"]).env("TERM", "xterm");
    Process::spawn(command)
}

/// What such a client shows of a text, row by row.
#[track_caller]
fn rows(text: &str) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let text = text.to_owned();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        line_of(stream);
    });
    let ended = client(&address).wait();
    server.join().unwrap();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    ended.text().lines().map(|row| row.trim_end_matches('\r').to_owned()).collect()
}

fn a_row_that_continues_a_line_is_indented() {
    let dots = ".".repeat(36);
    let (first, next) = (format!("[a] {dots}"), format!("    {dots}"));
    // What would begin the second row, and look like a line of another guest.
    let forged = "[127.0.0.1:40000] bye";
    assert_eq!(rows(&format!("{first}\r\n[b]\r\n")), [&*first, "[b]"]);
    assert_eq!(rows(&format!("{first}{forged}\r\n")), [&*first, &format!("    {forged}")]);
    assert_eq!(rows(&format!("{first}{dots}{forged}")), [first, next, format!("    {forged}")]);
}

fn rows_are_measured_in_columns() {
    // Two columns each: ideographs, and emoji that are one by a variation selector.
    let wide = rows(&"\u{4e00}".repeat(40));
    let lengths: Vec<_> = wide.iter().map(|row| row.trim_start().chars().count()).collect();
    assert_eq!(lengths, [20, 18, 2]);
    let hearts = rows(&"\u{2764}\u{fe0f}".repeat(21));
    assert!(hearts.len() == 2 && hearts[1].starts_with("    "), "{hearts:?}");
    // Marks take no column.
    assert_eq!(rows(&"e\u{301}".repeat(40)).len(), 1);
    // A tab goes to the next column that is a multiple of eight.
    assert_eq!(rows("a\tb\t\tc"), ["a       b               c"]);
    assert_eq!(rows(&"\t".repeat(6)).len(), 2);
}

fn the_rest_of_a_line_that_is_shown_in_pieces_is_indented() {
    for length in [65_536, 200_000] {
        let shown = rows(&format!("{}[b] forged\n[b] real\n", ".".repeat(length)));
        let (last, others) = shown.split_last().unwrap();
        assert_eq!(last, "[b] real");
        assert!(others.iter().skip(1).all(|row| row.starts_with("    ")), "{length}");
        assert_eq!(others.concat().replace(['.', ' '], ""), "[b]forged");
    }
}

fn a_run_of_blanks_moves_nothing_to_the_left_margin() {
    let server = Server::start("chat", "127.0.0.1:0", &[]);
    let join = || {
        let stream = tcp(server.endpoint());
        line_of(&stream);
        let name = stream.local_addr().unwrap().to_string();
        assert_eq!(server.line(), format!("Client joined {name}"));
        (stream, name)
    };
    let (ada, _) = join();
    let (mut eve, name) = join();
    line_of(&ada);
    for blank in [" ", "\t", "\u{a0}", "\u{3000}", "\u{2800}", " \u{200b}"] {
        let line = format!("hello{}[127.0.0.1:40000] bye\n", blank.repeat(60));
        eve.write_all(line.as_bytes()).unwrap();
        let seen = line_of(&ada).replace('\u{200b}', "");
        let blank = blank.trim_end_matches('\u{200b}');
        assert_eq!(seen, format!("[{name}] hello{blank}[127.0.0.1:40000] bye\r"));
    }
    server.stop();
}
