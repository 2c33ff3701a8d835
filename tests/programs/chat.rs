//! The example `chat`: which client reads what, line by line.

use std::io::Write;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Test, tests};
use crate::members::{GREETING, Member};
use crate::support::clients::{line_of, lines, rest_of, unix};
use crate::support::process::{Process, Server, example, run};
use crate::support::{abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    three_members_read_what_the_others_send_and_who_joins_and_leaves,
    all_members_read_the_same_lines_in_the_same_order,
    a_member_that_resets_is_announced_as_left,
    control_characters_and_bad_utf8_are_replaced,
    a_line_that_is_too_long_ends_its_connection_only,
    the_greeting_is_replaceable,
    a_chat_over_ipv6_or_a_unix_socket,
    a_standard_output_that_is_not_read_does_not_delay_the_chat,
    a_standard_output_that_is_closed_does_not_end_the_chat,
    a_standard_output_that_is_not_read_does_not_delay_a_stop,
    nc_chats: ["nc"],
    telnet_chats: ["telnet"],
    a_chat_with_forking_is_an_error_that_says_why,
];

/// The server prints this line, and sends it to each of these members.
#[track_caller]
fn all_read(server: &Server, members: &[&Member], line: &str) {
    assert_eq!(server.line(), line);
    for member in members {
        member.reads(&format!("{line}\r\n"));
    }
}

fn chat(flags: &[&str]) -> Server {
    Server::start("chat", "127.0.0.1:0", flags)
}

fn three_members_read_what_the_others_send_and_who_joins_and_leaves() {
    let server = chat(&[]);
    let ada = Member::join(&server);
    let ben = Member::join(&server);
    ada.reads(&(ben.joined() + "\r\n"));
    let cyd = Member::join(&server);
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

    // A member that shuts down its writes has left, and gets nothing more.
    ben.sends("good");
    ben.sends("bye");
    ben.shut_down_writes();
    all_read(&server, &[&ada, &cyd], &ben.says("goodbye"));
    all_read(&server, &[&ada, &cyd], &ben.left());
    ben.reads_last("");

    let (ada_left, ada_said) = (ada.left(), ada.says("me too"));
    ada.sends("me too");
    drop(ada);
    all_read(&server, &[&cyd], &ada_said);
    all_read(&server, &[&cyd], &ada_left);

    let dot = Member::join(&server);
    cyd.reads(&(dot.joined() + "\r\n"));
    dot.sends("is this on?\n");
    all_read(&server, &[&cyd], &dot.says("is this on?"));
    let transcript = server.stop();
    // Both leave, in any order, and nothing else is sent.
    let mut lines: Vec<_> = transcript.text().lines().collect();
    lines.sort();
    let mut left = [cyd.left(), dot.left()];
    left.sort();
    assert_eq!(lines, left);
    for (member, other) in [(&cyd, &dot), (&dot, &cyd)] {
        let rest = String::from_utf8(rest_of(&member.stream)).unwrap();
        assert!(rest.is_empty() || rest == other.left() + "\r\n", "{rest}");
    }
}

fn all_members_read_the_same_lines_in_the_same_order() {
    const LINES: usize = 200;
    let server = chat(&[]);
    let (ada, ben) = (Member::join(&server), Member::join(&server));
    ada.reads(&(ben.joined() + "\r\n"));
    let (cyd, dot) = (Member::join(&server), Member::join(&server));
    for member in [&ada, &ben] {
        member.reads(&(cyd.joined() + "\r\n"));
        member.reads(&(dot.joined() + "\r\n"));
    }
    cyd.reads(&(dot.joined() + "\r\n"));
    std::thread::scope(|scope| {
        for member in [&ada, &ben] {
            scope.spawn(move || (0..LINES).for_each(|line| member.sends(format!("{line}\n"))));
        }
    });
    let mut own = [0, 0];
    for _ in 0..2 * LINES {
        let line = server.line();
        for member in [&cyd, &dot] {
            member.reads(&format!("{line}\r\n"));
        }
        for (member, other, count) in [(&ada, &ben, 0), (&ben, &ada, 1)] {
            if line == other.says(&own[count].to_string()) {
                member.reads(&format!("{line}\r\n"));
                own[count] += 1;
            }
        }
    }
    assert_eq!(own, [LINES, LINES]);
    server.stop();
}

fn a_member_that_resets_is_announced_as_left() {
    let server = chat(&[]);
    let ada = Member::join(&server);
    for said in ["", "not the last word\n"] {
        let ben = Member::join(&server);
        ada.reads(&(ben.joined() + "\r\n"));
        ben.sends(said);
        if !said.is_empty() {
            all_read(&server, &[&ada], &ben.says("not the last word"));
        }
        let left = ben.left();
        ben.resets();
        all_read(&server, &[&ada], &left);
    }
    let cyd = Member::join(&server);
    cyd.sends("all well\n");
    ada.reads(&(cyd.joined() + "\r\n"));
    all_read(&server, &[&ada], &cyd.says("all well"));
    server.stop();
}

fn control_characters_and_bad_utf8_are_replaced() {
    let server = chat(&[]);
    let (ada, eve) = (Member::join(&server), Member::join(&server));
    ada.reads(&(eve.joined() + "\r\n"));
    for (sent, shown) in [
        (&b"\x1b[2J\x1b]0;owned\x07"[..], "\u{fffd}[2J\u{fffd}]0;owned\u{fffd}"),
        (b"me\r[127.0.0.1:1] you", "me\u{fffd}[127.0.0.1:1] you"),
        (b"a\xc3\xfez", "a\u{fffd}\u{fffd}z"),
        (b"\xe2\x82", "\u{fffd}"),
        (b"nul \0, del \x7f, csi \xc2\x9b", "nul \u{fffd}, del \u{fffd}, csi \u{fffd}"),
        (b"a\ttab", "a\ttab"),
        ("gr\u{fc}n \u{1f980}".as_bytes(), "gr\u{fc}n \u{1f980}"),
        (b"two ends\r", "two ends\u{fffd}"),
    ] {
        eve.sends([sent, b"\r\n"].concat());
        all_read(&server, &[&ada], &eve.says(shown));
    }
    server.stop();
}

fn a_line_that_is_too_long_ends_its_connection_only() {
    const LIMIT: usize = 64 * 1024;
    let server = chat(&[]);
    let (ada, ben) = (Member::join(&server), Member::join(&server));
    ada.reads(&(ben.joined() + "\r\n"));
    ben.sends([&vec![b'x'; LIMIT - 1][..], b"\n"].concat());
    all_read(&server, &[&ada], &ben.says(&"x".repeat(LIMIT - 1)));
    ben.sends(vec![b'x'; LIMIT + 1]);
    ben.reads_last("line too long\r\n");
    all_read(&server, &[&ada], &ben.left());
    let cyd = Member::join(&server);
    ada.reads(&(cyd.joined() + "\r\n"));
    ada.sends("short\n");
    all_read(&server, &[&cyd], &ada.says("short"));
    server.stop();
}

fn the_greeting_is_replaceable() {
    let server = chat(&["--greeting", "Pssst"]);
    let member = Member::connect(&server);
    member.reads("Pssst\r\n");
    assert_eq!(server.line(), member.joined());
    server.stop();
}

fn a_chat_over_ipv6_or_a_unix_socket() {
    let server = Server::start("chat", "[::1]:0", &[]);
    let (ada, ben) = (Member::join(&server), Member::join(&server));
    assert!(ben.name.starts_with("[::1]:"));
    ada.reads(&(ben.joined() + "\r\n"));
    ben.sends("six\n");
    all_read(&server, &[&ada], &ben.says("six"));
    server.stop();

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
    server.stop();
}

fn a_standard_output_that_is_not_read_does_not_delay_the_chat() {
    // More than the pipe and the server keep.
    const LINES: usize = 13_000;
    let text = "x".repeat(90);
    let (server, transcript) = Server::start_unread("chat", "127.0.0.1:0", &[]);
    let (ada, ben) = (Member::connect(&server), Member::connect(&server));
    for member in [&ada, &ben] {
        member.reads(GREETING);
    }
    meet(&ada, &ben);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..LINES).for_each(|line| ada.sends(format!("{line} {text}\n"))));
        let mut lines = lines(&ben.stream);
        for line in 0..LINES {
            assert_eq!(lines.next().unwrap(), ada.says(&format!("{line} {text}")));
        }
    });
    // When it is read, the output goes on, and tells how many lines are missing.
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
            // There is room for one more line.
            ada.sends("more\n");
            sent += 1;
        }
    };
    assert!(lost > 0 && lost <= sent - shown, "{sent} sent, {shown} shown, {lost} lost");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));
}

fn a_standard_output_that_is_closed_does_not_end_the_chat() {
    let (server, transcript) = Server::start_unread("chat", "127.0.0.1:0", &[]);
    drop(transcript);
    let (ada, ben) = (Member::connect(&server), Member::connect(&server));
    for member in [&ada, &ben] {
        member.reads(GREETING);
    }
    meet(&ada, &ben);
    ada.sends("still here\n");
    ben.reads(&(ada.says("still here") + "\r\n"));
    server.stop();
}

fn a_standard_output_that_is_not_read_does_not_delay_a_stop() {
    let (server, _transcript) = Server::start_unread("chat", "127.0.0.1:0", &[]);
    let (ada, ben) = (Member::connect(&server), Member::connect(&server));
    for member in [&ada, &ben] {
        member.reads(GREETING);
    }
    meet(&ada, &ben);
    for line in 0..2000 {
        ada.sends(format!("{line} {}\n", "x".repeat(90)));
    }
    for line in 0..2000 {
        ben.reads(&format!("{}\r\n", ada.says(&format!("{line} {}", "x".repeat(90)))));
    }
    server.signal(Signal::TERM);
    // Its standard output is open, and full.
    assert_eq!(server.wait().status, Some(0));
}

/// Returns when both have joined, and have read all that was sent so far.
fn meet(ada: &Member, ben: &Member) {
    // When Ben receives a line of Ada, both have joined.
    let mut number = 0;
    wait_until("both have joined", || {
        number += 1;
        ada.sends(format!("meet {number}\n"));
        let mut byte = [0];
        ben.stream.set_nonblocking(true).unwrap();
        let has_arrived = ben.stream.peek(&mut byte).is_ok();
        ben.stream.set_nonblocking(false).unwrap();
        has_arrived
    });
    let last = ada.says(&format!("meet {number}"));
    while line_of(&ben.stream).trim_end() != last {}
    // Only Ben has sent anything since.
    ben.sends("well met\n");
    while !line_of(&ada.stream).trim_end().ends_with("well met") {}
}

fn nc_chats() {
    let server = chat(&[]);
    let ada = Member::join(&server);
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
    server.stop();
}

fn telnet_chats() {
    let server = chat(&[]);
    let ada = Member::join(&server);
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
    server.stop();
}

fn a_chat_with_forking_is_an_error_that_says_why() {
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
