//! The example `named_chat`: which names it accepts, and which client reads what.

use std::io::{Read, Write};
use std::process::Command;

use rustix::process::Signal;

use crate::examples::without_time;
use crate::harness::{Test, tests};
use crate::members::Member;
use crate::support::clients::line_of;
use crate::support::process::{Process, Server};
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![
    members_read_what_the_others_send,
    a_name_is_taken_while_its_member_is_connected,
    a_line_that_is_too_long_frees_the_name,
    bad_names_are_invalid,
    a_python_script_chats: ["python3"],
];

fn named_chat() -> Server {
    Server::start("named_chat", "127.0.0.1:0", &[])
}

/// Connects and sends a name. Returns the answer.
#[track_caller]
fn enter(server: &Server, name: impl AsRef<[u8]>) -> (Member, String) {
    let member = Member::connect(server);
    member.sends([name.as_ref(), b"\n"].concat());
    let answer = line_of(&member.stream) + "\n";
    (member, answer)
}

#[track_caller]
fn succeeds(server: &Server, name: &str) -> Member {
    let (mut member, answer) = enter(server, name);
    assert_eq!(answer, "success\r\n", "{name}");
    member.name = name.to_owned();
    member
}

#[track_caller]
fn is_turned_away(server: &Server, name: impl AsRef<[u8]>, why: &str) {
    let (member, answer) = enter(server, name);
    assert_eq!(answer, format!("{why}\r\n"));
    member.reads_last("");
}

/// Reads `[Sat Nov 20 23:46:01 2026] NAME: TEXT`, and the time is now.
#[track_caller]
fn reads_stamped(member: &Member, from: &Member, text: &str) {
    let line = line_of(&member.stream);
    assert_eq!(without_time(&line), format!("{}: {text}\r", from.name));
}

/// Returns when all have joined, and have read all that was sent so far.
fn all_meet(members: &[&Member]) {
    for (index, ada) in members.iter().enumerate() {
        for ben in &members[index + 1..] {
            wait_until_heard(ada, ben);
        }
    }
    // Each receives from each. A last line of each ends what is left to read.
    for (index, member) in members.iter().enumerate() {
        member.sends(format!("last of {index}\n"));
        for other in members.iter().filter(|other| other.name != member.name) {
            while !line_of(&other.stream).trim_end().ends_with(&format!("last of {index}")) {}
        }
    }
}

/// Returns when Ben receives from Ada. He may have read a line in part.
fn wait_until_heard(ada: &Member, ben: &Member) {
    let mut number = 0;
    let mut received = String::new();
    wait_until("one receives from the other", || {
        number += 1;
        ada.sends(format!("meet {number}\n"));
        let mut bytes = [0; 4096];
        ben.stream.set_nonblocking(true).unwrap();
        let read = (&ben.stream).read(&mut bytes);
        ben.stream.set_nonblocking(false).unwrap();
        received += str::from_utf8(&bytes[..read.unwrap_or(0)]).unwrap();
        received.contains(&format!(" {}: meet ", ada.name))
    });
}

fn members_read_what_the_others_send() {
    let server = named_chat();
    let (ada, ben) = (succeeds(&server, "ada"), succeeds(&server, "Ben Jr."));
    let cyd = succeeds(&server, "c\u{ff}d");
    all_meet(&[&ada, &ben, &cyd]);
    ada.sends("hi\n");
    reads_stamped(&ben, &ada, "hi");
    reads_stamped(&cyd, &ada, "hi");
    ben.sends("hi, Ada\r\n\nquit?\n");
    for text in ["hi, Ada", "", "quit?"] {
        reads_stamped(&ada, &ben, text);
        reads_stamped(&cyd, &ben, text);
    }
    cyd.sends(b"\x1b[2J\ttab\xfe\r[forged]\n");
    for member in [&ada, &ben] {
        reads_stamped(member, &cyd, "\u{fffd}[2J\ttab\u{fffd}\u{fffd}[forged]");
    }
    ben.sends("my last words");
    ben.shut_down_writes();
    reads_stamped(&ada, &ben, "my last words");
    reads_stamped(&cyd, &ben, "my last words");
    ben.reads_last("");
    // Joining and leaving are not announced.
    let ben = succeeds(&server, "Ben Jr.");
    ben.sends("quit\n");
    ben.reads_last("quit\r\n");
    ada.sends("bye\n");
    reads_stamped(&cyd, &ada, "bye");
    server.stop();
    for member in [ada, cyd] {
        member.reads_last("");
    }
}

fn a_name_is_taken_while_its_member_is_connected() {
    let server = named_chat();
    let mut ada = succeeds(&server, "ada");
    is_turned_away(&server, "ada", "reuse");
    is_turned_away(&server, "ada\r", "reuse");
    let _other = succeeds(&server, "Ada");

    // After each of these it is free at once.
    for end in ["quit\n", "quit\r\n", "quit"] {
        ada.sends(end);
        if end == "quit" {
            ada.shut_down_writes();
        }
        ada.reads_last("quit\r\n");
        ada = succeeds(&server, "ada");
        is_turned_away(&server, "ada", "reuse");
    }
    ada.shut_down_writes();
    ada.reads_last("");
    ada = succeeds(&server, "ada");

    // These ends are not answered. The name is free when the server has noticed.
    is_turned_away(&server, "ada", "reuse");
    drop(ada);
    ada = succeeds_in_the_end(&server, "ada");
    is_turned_away(&server, "ada", "reuse");
    ada.resets();
    ada = succeeds_in_the_end(&server, "ada");
    is_turned_away(&server, "ada", "reuse");
    drop(ada);
    server.stop();
}

fn succeeds_in_the_end(server: &Server, name: &str) -> Member {
    let mut entered = None;
    wait_until("a name that is free again", || {
        let (mut member, answer) = enter(server, name);
        member.name = name.to_owned();
        entered = (answer == "success\r\n").then_some(member);
        entered.is_some()
    });
    entered.unwrap()
}

fn a_line_that_is_too_long_frees_the_name() {
    let server = named_chat();
    let ada = succeeds(&server, "ada");
    ada.sends(vec![b'x'; 64 * 1024 + 1]);
    ada.reads_last("");
    let ada = succeeds(&server, "ada");
    let ben = succeeds(&server, "ben");
    all_meet(&[&ada, &ben]);
    ada.sends("short\n");
    reads_stamped(&ben, &ada, "short");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));
}

fn bad_names_are_invalid() {
    let server = named_chat();
    let long = "x".repeat(33);
    for name in [
        &b""[..],
        b"\r",
        long.as_bytes(),
        // Eleven characters, of three bytes each.
        "\u{20ac}".repeat(11).as_bytes(),
        b"a\tb",
        b"a\rb",
        b"\x1b[2Jada",
        b"a\0",
        b"\x7f",
        b"\xc2\x9b",
        b"\xff",
    ] {
        is_turned_away(&server, name, "invalid");
    }
    is_turned_away(&server, vec![b'x'; 70_000], "invalid");

    for name in [&long[..32], "x", "two words", &"\u{20ac}".repeat(10)] {
        let member = succeeds(&server, name);
        is_turned_away(&server, name, "reuse");
        member.sends("quit\n");
        member.reads_last("quit\r\n");
    }
    // A name may end with end-of-file, but not be empty.
    let member = Member::connect(&server);
    member.sends("ada");
    member.shut_down_writes();
    member.reads_last("success\r\n");
    let member = Member::connect(&server);
    member.shut_down_writes();
    member.reads_last("");
    server.stop();
}

fn a_python_script_chats() {
    const SCRIPT: &str = r#"
import socket, sys
host, port = sys.argv[1:]
sock = socket.create_connection((host, int(port)), timeout=30)
lines = sock.makefile("rw", newline="")
def say(line): lines.write(line + "\n"); lines.flush()
say("py")
print(lines.readline().strip(), flush=True)
say("hello?")
print(lines.readline()[27:].strip(), flush=True)
say("quit")
print(repr(lines.read()))
"#;
    let server = named_chat();
    let mut ada = succeeds(&server, "ada");
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).args(server.host_and_port());
    let python = Process::spawn(command);
    assert_eq!(python.line(), "success");
    let line = line_of(&ada.stream);
    assert!(line.ends_with("] py: hello?\r"), "{line}");
    ada.stream.write_all(b"me\n").unwrap();
    assert_eq!(python.line(), "ada: me");
    assert_eq!(python.line(), r"'quit\r\n'");
    assert_eq!(python.wait().status, Some(0));
    server.stop();
}
