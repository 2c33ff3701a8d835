//! The chats as processes of their own, with several clients each: who reads what, line by line.


use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::{abstract_name, line_of, rest_of, tcp, unix, wait_until};
use process::{Process, Server, example, run, without_time};
use rustix::process::Signal;
use socket2::SockRef;

const GREETING: &str = "You're connected to the chat server\r\n";

/// Somebody in the chat.
struct Guest {
    stream: TcpStream,
    /// What the chat calls them.
    name: String,
}

impl Guest {
    #[track_caller]
    fn connect(server: &Server) -> Guest {
        let stream = tcp(server.endpoint());
        let name = stream.local_addr().unwrap().to_string();
        Guest { stream, name }
    }

    /// Connects, and is a member when this returns: the server has said so on standard output.
    #[track_caller]
    fn join(server: &Server) -> Guest {
        let guest = Guest::connect(server);
        guest.reads(GREETING);
        assert_eq!(server.line(), guest.joined());
        guest
    }

    #[track_caller]
    fn sends(&self, bytes: impl AsRef<[u8]>) {
        (&self.stream).write_all(bytes.as_ref()).unwrap();
    }

    /// The next line, with its end, is this one.
    #[track_caller]
    fn reads(&self, line: &str) {
        assert_eq!(line_of(&self.stream) + "\n", line, "{}", self.name);
    }

    /// What is left is this, and then the end.
    #[track_caller]
    fn reads_last(&self, text: &str) {
        assert_eq!(String::from_utf8(rest_of(&self.stream)).unwrap(), text, "{}", self.name);
    }

    fn half_closes(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Gone without a goodbye: the server is told that the connection was reset.
    fn resets(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    // What others are told, and the transcript shows.

    fn joined(&self) -> String {
        format!("Client joined {}", self.name)
    }

    fn left(&self) -> String {
        format!("Client left {}", self.name)
    }

    fn says(&self, text: &str) -> String {
        format!("[{}] {text}", self.name)
    }
}

/// A line on the server's standard output, and the same to each of these guests.
#[track_caller]
fn all_read(server: &Server, guests: &[&Guest], line: &str) {
    assert_eq!(server.line(), line);
    for guest in guests {
        guest.reads(&format!("{line}\r\n"));
    }
}

fn chat(flags: &[&str]) -> Server {
    Server::start("chat", "127.0.0.1:0", flags)
}

#[test]
fn three_guests_read_what_the_others_say_and_who_comes_and_goes() {
    let server = chat(&[]);
    let ada = Guest::join(&server);
    let ben = Guest::join(&server);
    ada.reads(&(ben.joined() + "\r\n"));
    let cyd = Guest::join(&server);
    ada.reads(&(cyd.joined() + "\r\n"));
    ben.reads(&(cyd.joined() + "\r\n"));

    ada.sends("hello, you two\n");
    all_read(&server, &[&ben, &cyd], &ada.says("hello, you two"));
    ben.sends("hello, Ada\r\nhello, Cyd\r\n");
    all_read(&server, &[&ada, &cyd], &ben.says("hello, Ada"));
    all_read(&server, &[&ada, &cyd], &ben.says("hello, Cyd"));
    cyd.sends("\n");
    all_read(&server, &[&ada, &ben], &cyd.says(""));
    cyd.sends("in two ");
    cyd.sends("pieces\nand one more\n");
    all_read(&server, &[&ada, &ben], &cyd.says("in two pieces"));
    all_read(&server, &[&ada, &ben], &cyd.says("and one more"));

    // Whoever is done sending reads no more than what was said until then.
    ben.sends("good");
    ben.sends("bye");
    ben.half_closes();
    all_read(&server, &[&ada, &cyd], &ben.says("goodbye"));
    all_read(&server, &[&ada, &cyd], &ben.left());
    ben.reads_last("");

    let (ada_left, ada_said) = (ada.left(), ada.says("me too"));
    ada.sends("me too");
    drop(ada);
    all_read(&server, &[&cyd], &ada_said);
    all_read(&server, &[&cyd], &ada_left);

    let dot = Guest::join(&server);
    cyd.reads(&(dot.joined() + "\r\n"));
    dot.sends("anybody there?\n");
    all_read(&server, &[&cyd], &dot.says("anybody there?"));
    let transcript = server.stops();
    // Both leave, in any order, and nobody is told anything else.
    let mut lines: Vec<_> = transcript.text().lines().collect();
    lines.sort();
    let mut left = [cyd.left(), dot.left()];
    left.sort();
    assert_eq!(lines, left);
    for (guest, other) in [(&cyd, &dot), (&dot, &cyd)] {
        let rest = String::from_utf8(rest_of(&guest.stream)).unwrap();
        assert!(rest.is_empty() || rest == other.left() + "\r\n", "{rest}");
    }
}

#[test]
fn every_guest_reads_the_same_in_the_same_order() {
    const LINES: usize = 200;
    let server = chat(&[]);
    let (ada, ben) = (Guest::join(&server), Guest::join(&server));
    ada.reads(&(ben.joined() + "\r\n"));
    let (cyd, dot) = (Guest::join(&server), Guest::join(&server));
    for guest in [&ada, &ben] {
        guest.reads(&(cyd.joined() + "\r\n"));
        guest.reads(&(dot.joined() + "\r\n"));
    }
    cyd.reads(&(dot.joined() + "\r\n"));
    std::thread::scope(|scope| {
        for guest in [&ada, &ben] {
            scope.spawn(move || (0..LINES).for_each(|line| guest.sends(format!("{line}\n"))));
        }
    });
    let mut own = [0, 0];
    for _ in 0..2 * LINES {
        let line = server.line();
        for guest in [&cyd, &dot] {
            guest.reads(&format!("{line}\r\n"));
        }
        for (guest, other, count) in [(&ada, &ben, 0), (&ben, &ada, 1)] {
            if line == other.says(&own[count].to_string()) {
                guest.reads(&format!("{line}\r\n"));
                own[count] += 1;
            }
        }
    }
    assert_eq!(own, [LINES, LINES]);
    server.stops();
}

#[test]
fn a_guest_that_resets_is_announced_as_left() {
    let server = chat(&[]);
    let ada = Guest::join(&server);
    for said in ["", "not the last word\n"] {
        let ben = Guest::join(&server);
        ada.reads(&(ben.joined() + "\r\n"));
        ben.sends(said);
        if !said.is_empty() {
            all_read(&server, &[&ada], &ben.says("not the last word"));
        }
        let left = ben.left();
        ben.resets();
        all_read(&server, &[&ada], &left);
    }
    let cyd = Guest::join(&server);
    cyd.sends("all well\n");
    ada.reads(&(cyd.joined() + "\r\n"));
    all_read(&server, &[&ada], &cyd.says("all well"));
    server.stops();
}

#[test]
fn nobody_can_forge_a_line_or_drive_a_terminal() {
    let server = chat(&[]);
    let (ada, eve) = (Guest::join(&server), Guest::join(&server));
    ada.reads(&(eve.joined() + "\r\n"));
    for (sent, shown) in [
        (&b"\x1b[2J\x1b]0;owned\x07"[..], "\u{fffd}[2J\u{fffd}]0;owned\u{fffd}"),
        (b"me\r[127.0.0.1:1] you", "me\u{fffd}[127.0.0.1:1] you"),
        (b"a\xff\xfez", "a\u{fffd}\u{fffd}z"),
        (b"\xe2\x82", "\u{fffd}"),
        (b"nul \0, del \x7f, csi \xc2\x9b", "nul \u{fffd}, del \u{fffd}, csi \u{fffd}"),
        (b"a\ttab", "a\ttab"),
        ("gr\u{fc}n \u{1f980}".as_bytes(), "gr\u{fc}n \u{1f980}"),
        (b"two ends\r", "two ends\u{fffd}"),
    ] {
        eve.sends([sent, b"\r\n"].concat());
        all_read(&server, &[&ada], &eve.says(shown));
    }
    server.stops();
}

#[test]
fn a_line_that_is_too_long_ends_its_guest_and_no_other() {
    const LIMIT: usize = 64 * 1024;
    let server = chat(&[]);
    let (ada, ben) = (Guest::join(&server), Guest::join(&server));
    ada.reads(&(ben.joined() + "\r\n"));
    ben.sends([&vec![b'x'; LIMIT - 1][..], b"\n"].concat());
    all_read(&server, &[&ada], &ben.says(&"x".repeat(LIMIT - 1)));
    ben.sends(vec![b'x'; LIMIT + 1]);
    ben.reads_last("line too long\r\n");
    all_read(&server, &[&ada], &ben.left());
    let cyd = Guest::join(&server);
    ada.reads(&(cyd.joined() + "\r\n"));
    ada.sends("short\n");
    all_read(&server, &[&cyd], &ada.says("short"));
    server.stops();
}

#[test]
fn the_greeting_is_replaceable() {
    let server = chat(&["--greeting", "Pssst"]);
    let guest = Guest::connect(&server);
    guest.reads("Pssst\r\n");
    assert_eq!(server.line(), guest.joined());
    server.stops();
}

#[test]
fn a_chat_over_ipv6_or_a_unix_socket() {
    let server = Server::start("chat", "[::1]:0", &[]);
    let (ada, ben) = (Guest::join(&server), Guest::join(&server));
    assert!(ben.name.starts_with("[::1]:"));
    ada.reads(&(ben.joined() + "\r\n"));
    ben.sends("six\n");
    all_read(&server, &[&ada], &ben.says("six"));
    server.stops();

    let server = Server::start("chat", &abstract_name(), &[]);
    let ada = unix(server.endpoint());
    assert_eq!(line_of(&ada) + "\n", GREETING);
    assert_eq!(server.line(), "Client joined unix#1");
    let mut ben = unix(server.endpoint());
    assert_eq!(line_of(&ben) + "\n", GREETING);
    assert_eq!(server.line(), "Client joined unix#2");
    ben.write_all(b"local\nend").unwrap();
    drop(ben);
    for line in ["Client joined unix#2", "[unix#2] local", "[unix#2] end", "Client left unix#2"] {
        assert_eq!(line_of(&ada), format!("{line}\r"));
    }
    server.stops();
}

#[test]
fn a_transcript_that_nobody_reads_holds_nobody_up() {
    // More than the pipe and the server keep.
    const LINES: usize = 13_000;
    let text = "x".repeat(90);
    let (mut server, transcript) = Server::start_unread("chat", "127.0.0.1:0", &[]);
    let (ada, ben) = (Guest::connect(&server), Guest::connect(&server));
    // Nobody says when they have joined but they themselves.
    for guest in [&ada, &ben] {
        guest.reads(GREETING);
    }
    meet(&ada, &ben);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..LINES).for_each(|line| ada.sends(format!("{line} {text}\n"))));
        let mut lines = common::lines(&ben.stream);
        for line in 0..LINES {
            assert_eq!(lines.next().unwrap(), ada.says(&format!("{line} {text}")));
        }
    });
    // Once somebody reads it, it goes on, and says what is missing.
    server.read(transcript);
    let (mut shown, mut sent, mut expected) = (0, LINES, 0);
    let lost = loop {
        let line = server.line();
        if let Some(lost) = line.strip_prefix('(').and_then(|l| l.strip_suffix(" lines lost)")) {
            break lost.parse::<usize>().unwrap();
        }
        if let Some(said) = line.strip_suffix(&text) {
            assert_eq!(said, ada.says(&format!("{expected} ")));
            expected += 1;
            shown += 1;
            // There is room for one more.
            ada.sends("more\n");
            sent += 1;
        }
    };
    assert!(lost > 0 && lost <= sent - shown, "{sent} sent, {shown} shown, {lost} lost");
    server.signal(Signal::TERM);
    assert_eq!(server.ends().status, Some(0));
}

#[test]
fn a_transcript_that_cannot_be_written_ends_nothing() {
    let (server, transcript) = Server::start_unread("chat", "127.0.0.1:0", &[]);
    drop(transcript);
    let (ada, ben) = (Guest::connect(&server), Guest::connect(&server));
    for guest in [&ada, &ben] {
        guest.reads(GREETING);
    }
    meet(&ada, &ben);
    ada.sends("still here\n");
    ben.reads(&(ada.says("still here") + "\r\n"));
    server.stops();
}

#[test]
fn a_transcript_that_nobody_reads_does_not_keep_the_chat_from_ending() {
    let (server, _transcript) = Server::start_unread("chat", "127.0.0.1:0", &[]);
    let (ada, ben) = (Guest::connect(&server), Guest::connect(&server));
    for guest in [&ada, &ben] {
        guest.reads(GREETING);
    }
    meet(&ada, &ben);
    for line in 0..2000 {
        ada.sends(format!("{line} {}\n", "x".repeat(90)));
    }
    for line in 0..2000 {
        ben.reads(&format!("{}\r\n", ada.says(&format!("{line} {}", "x".repeat(90)))));
    }
    server.signal(Signal::TERM);
    // Its standard output is still open, and full.
    assert_eq!(server.ends().status, Some(0));
}

/// Both are in the room when this returns, and have read everything that was said so far.
fn meet(ada: &Guest, ben: &Guest) {
    // Whoever reads what another has said is in the room, and so is the other.
    let mut number = 0;
    wait_until("that they meet", || {
        number += 1;
        ada.sends(format!("meet {number}\n"));
        let mut byte = [0];
        ben.stream.set_nonblocking(true).unwrap();
        let has_come = ben.stream.peek(&mut byte).is_ok();
        ben.stream.set_nonblocking(false).unwrap();
        has_come
    });
    let last = ada.says(&format!("meet {number}"));
    while line_of(&ben.stream).trim_end() != last {}
    // Nobody but Ben can have said anything since.
    ben.sends("well met\n");
    while !line_of(&ada.stream).trim_end().ends_with("well met") {}
}

#[test]
fn nc_and_telnet_chat() {
    let server = chat(&[]);
    let ada = Guest::join(&server);

    // printf 'a\nb' | nc -N
    let mut command = Command::new("nc");
    command.arg("-N").args(server.host_and_port());
    let ended = run(command, "a\nb");
    assert_eq!((ended.status, ended.text(), &*ended.stderr), (Some(0), GREETING, ""));
    let joined = server.line();
    let name = joined.strip_prefix("Client joined ").unwrap();
    ada.reads(&format!("{joined}\r\n"));
    for line in [format!("[{name}] a"), format!("[{name}] b"), format!("Client left {name}")] {
        all_read(&server, &[&ada], &line);
    }

    let mut command = Command::new("telnet");
    command.args(server.host_and_port());
    let mut telnet = Process::spawn(command);
    while telnet.line().trim_end() != GREETING.trim_end() {}
    let joined = server.line();
    let name = joined.strip_prefix("Client joined ").unwrap();
    ada.reads(&format!("{joined}\r\n"));
    telnet.send("hello from telnet\n");
    all_read(&server, &[&ada], &format!("[{name}] hello from telnet"));
    ada.sends("welcome\n");
    assert_eq!(telnet.line().trim_end(), ada.says("welcome"));
    assert_eq!(server.line(), ada.says("welcome"));
    telnet.end_of_input();
    all_read(&server, &[&ada], &format!("Client left {name}"));
    telnet.wait();
    server.stops();
}

// The chat with names.

fn named_chat() -> Server {
    Server::start("named_chat", "127.0.0.1:0", &[])
}

/// Connects and gives a name; what was answered.
#[track_caller]
fn enter(server: &Server, name: impl AsRef<[u8]>) -> (Guest, String) {
    let guest = Guest::connect(server);
    guest.sends([name.as_ref(), b"\n"].concat());
    let answer = line_of(&guest.stream) + "\n";
    (guest, answer)
}

#[track_caller]
fn succeeds(server: &Server, name: &str) -> Guest {
    let (mut guest, answer) = enter(server, name);
    assert_eq!(answer, "success\r\n", "{name}");
    guest.name = name.to_owned();
    guest
}

#[track_caller]
fn is_turned_away(server: &Server, name: impl AsRef<[u8]>, why: &str) {
    let (guest, answer) = enter(server, name);
    assert_eq!(answer, format!("{why}\r\n"));
    guest.reads_last("");
}

/// Reads `[Sat Nov 20 23:46:01 2026] NAME: TEXT`, and the time is now.
#[track_caller]
fn reads_stamped(guest: &Guest, from: &Guest, text: &str) {
    let line = line_of(&guest.stream);
    assert_eq!(without_time(&line), format!("{}: {text}\r", from.name));
}

/// All of them are in the room when this returns, and have read everything.
fn all_meet(guests: &[&Guest]) {
    for (index, ada) in guests.iter().enumerate() {
        for ben in &guests[index + 1..] {
            wait_until_heard(ada, ben);
        }
    }
    // Now that each hears each other, one last word of each ends what is left to read.
    for (index, guest) in guests.iter().enumerate() {
        guest.sends(format!("last of {index}\n"));
        for other in guests.iter().filter(|other| other.name != guest.name) {
            while !line_of(&other.stream).trim_end().ends_with(&format!("last of {index}")) {}
        }
    }
}

/// Both are in the room when this returns; the other may have read a line in part.
fn wait_until_heard(ada: &Guest, ben: &Guest) {
    let mut number = 0;
    let mut heard = String::new();
    wait_until("that one hears the other", || {
        number += 1;
        ada.sends(format!("meet {number}\n"));
        let mut bytes = [0; 4096];
        ben.stream.set_nonblocking(true).unwrap();
        let read = (&ben.stream).read(&mut bytes);
        ben.stream.set_nonblocking(false).unwrap();
        heard += str::from_utf8(&bytes[..read.unwrap_or(0)]).unwrap();
        heard.contains(&format!(" {}: meet ", ada.name))
    });
}

#[test]
fn named_guests_read_what_the_others_say() {
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
    cyd.sends(b"\x1b[2J\ttab\xff\r[forged]\n");
    for guest in [&ada, &ben] {
        reads_stamped(guest, &cyd, "\u{fffd}[2J\ttab\u{fffd}\u{fffd}[forged]");
    }
    ben.sends("my last words");
    ben.half_closes();
    reads_stamped(&ada, &ben, "my last words");
    reads_stamped(&cyd, &ben, "my last words");
    ben.reads_last("");
    // Nobody is told who comes and goes.
    let ben = succeeds(&server, "Ben Jr.");
    ben.sends("quit\n");
    ben.reads_last("quit\r\n");
    ada.sends("bye\n");
    reads_stamped(&cyd, &ada, "bye");
    server.stops();
    for guest in [ada, cyd] {
        guest.reads_last("");
    }
}

#[test]
fn a_name_is_somebodys_as_long_as_they_stay() {
    let server = named_chat();
    let mut ada = succeeds(&server, "ada");
    is_turned_away(&server, "ada", "reuse");
    is_turned_away(&server, "ada\r", "reuse");
    let _other = succeeds(&server, "Ada");

    // After each of these it is free at once.
    for end in ["quit\n", "quit\r\n", "quit"] {
        ada.sends(end);
        if end == "quit" {
            ada.half_closes();
        }
        ada.reads_last("quit\r\n");
        ada = succeeds(&server, "ada");
        is_turned_away(&server, "ada", "reuse");
    }
    ada.half_closes();
    ada.reads_last("");
    ada = succeeds(&server, "ada");

    // These are not answered, and so the name is free when the server has noticed.
    is_turned_away(&server, "ada", "reuse");
    drop(ada);
    ada = succeeds_in_the_end(&server, "ada");
    is_turned_away(&server, "ada", "reuse");
    ada.resets();
    ada = succeeds_in_the_end(&server, "ada");
    is_turned_away(&server, "ada", "reuse");
    drop(ada);
    server.stops();
}

fn succeeds_in_the_end(server: &Server, name: &str) -> Guest {
    let mut entered = None;
    wait_until("a name that is free again", || {
        let (mut guest, answer) = enter(server, name);
        guest.name = name.to_owned();
        entered = (answer == "success\r\n").then_some(guest);
        entered.is_some()
    });
    entered.unwrap()
}

#[test]
fn a_line_that_is_too_long_gives_the_name_back() {
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
    assert_eq!(server.ends().status, Some(0));
}

#[test]
fn a_name_that_is_none_is_invalid() {
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
        let guest = succeeds(&server, name);
        is_turned_away(&server, name, "reuse");
        guest.sends("quit\n");
        guest.reads_last("quit\r\n");
    }
    // A name without its end is one, and nothing at all is not.
    let guest = Guest::connect(&server);
    guest.sends("ada");
    guest.half_closes();
    guest.reads_last("success\r\n");
    let guest = Guest::connect(&server);
    guest.half_closes();
    guest.reads_last("");
    server.stops();
}

#[test]
fn a_python_script_chats() {
    const SCRIPT: &str = r#"
import socket, sys
host, port = sys.argv[1:]
sock = socket.create_connection((host, int(port)), timeout=30)
lines = sock.makefile("rw", newline="")
def say(line): lines.write(line + "\n"); lines.flush()
say("py")
print(lines.readline().strip(), flush=True)
say("anybody?")
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
    assert!(line.ends_with("] py: anybody?\r"), "{line}");
    ada.stream.write_all(b"me\n").unwrap();
    assert_eq!(python.line(), "ada: me");
    assert_eq!(python.line(), r"'quit\r\n'");
    assert_eq!(python.wait().status, Some(0));
    server.stops();
}

#[test]
fn a_chat_cannot_fork_and_says_why() {
    for name in ["chat", "named_chat"] {
        let mut command = example(name);
        command.args(["--mixin", "forking"]);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.text()), (Some(2), ""));
        let why = "--mixin forking cannot work here: processes share no memory";
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1);
    }
}
