//! POP3 as `mail` implements it: logins, what a session sees, and when a message is removed.

use std::time::Duration;

use crate::demos::mail::{Mail, Pop3, as_sent, files, messages};
use crate::support::{TempDir, wait_until};
use socket2::SockRef;

const MIXINS: [&str; 3] = ["sequential", "threading", "fibers"];

/// A server with these messages for Ada.
fn with_mail(folder: &TempDir, flags: &[&str], texts: &[&str]) -> Mail {
    let mail = Mail::start(folder.path(), flags);
    let mut smtp = mail.hello();
    for text in texts {
        smtp.mails_ada(format!("{text}.\r\n"), 250);
    }
    smtp.asks("QUIT", 221);
    mail
}

#[test]
fn commands_are_answered_as_the_rfc_says() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &[], &["Subject: 1\r\n\r\n..a\r\nb\r\nc\r\n", "Subject: 2\r\n"]);
    let sizes: Vec<u64> = files(&folder, "ada", "new")
        .iter()
        .map(|file| std::fs::metadata(file).unwrap().len())
        .collect();
    let mut ada = mail.ada();
    assert_eq!(ada.ok("STAT"), format!("2 {}", sizes[0] + sizes[1]));
    let list = format!("1 {}\r\n2 {}\r\n", sizes[0], sizes[1]);
    assert_eq!(ada.text("LIST"), list.as_bytes());
    assert_eq!(ada.ok("list 2"), format!("2 {}", sizes[1]));
    assert_eq!(as_sent(&ada.text("RETR 1")), b"Subject: 1\r\n\r\n.a\r\nb\r\nc\r\n");
    assert_eq!(as_sent(&ada.text("TOP 1 0")), b"Subject: 1\r\n\r\n");
    assert_eq!(as_sent(&ada.text("TOP 1 2")), b"Subject: 1\r\n\r\n.a\r\nb\r\n");
    assert_eq!(as_sent(&ada.text("TOP 1 99")), b"Subject: 1\r\n\r\n.a\r\nb\r\nc\r\n");
    // A message without a body.
    assert_eq!(as_sent(&ada.text("TOP 2 1")), b"Subject: 2\r\n");
    let capabilities = ada.text("CAPA");
    for word in ["TOP", "USER", "UIDL", "PIPELINING", "RESP-CODES"] {
        assert!(
            capabilities.split(|byte| *byte == b'\n').any(|line| line.starts_with(word.as_bytes()))
        );
    }

    ada.ok("DELE 1");
    assert_eq!(ada.ok("STAT"), format!("1 {}", sizes[1]));
    assert_eq!(ada.text("LIST"), format!("2 {}\r\n", sizes[1]).as_bytes());
    for line in ["RETR 1", "DELE 1", "LIST 1", "UIDL 1", "TOP 1 1"] {
        assert_eq!(ada.fails(line), "no such message");
    }
    ada.ok("NOOP");
    ada.ok("RSET");
    assert_eq!(ada.text("LIST"), list.as_bytes());
    ada.quits();
    assert_eq!(messages(&folder, "ada").len(), 2);
    mail.stop();
}

/// The answers to STAT, LIST and RETR name the number of bytes that RETR sends.
#[track_caller]
fn a_size_is_what_is_sent(folder: &TempDir, mail: &Mail, text: &[u8], sent: &[u8]) {
    std::fs::write(folder.join("ada").join("new").join("1.other.program"), text).unwrap();
    let mut ada = login(mail);
    assert!(ada.text("RETR 1") == sent, "{:.40} and so on", text.escape_ascii().to_string());
    assert_eq!(ada.ok("STAT"), format!("1 {}", sent.len()));
    assert_eq!(ada.ok("LIST 1"), format!("1 {}", sent.len()));
    assert_eq!(ada.ok("RETR 1"), format!("{} octets", sent.len()));
}

#[test]
fn the_size_of_a_message_is_what_is_sent_whatever_its_line_ends() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    for (text, sent) in [
        (&b""[..], &b""[..]),
        (b"\n", b"\r\n"),
        (b"\r\n", b"\r\n"),
        (b"Subject: x\n\n.a\nb\n", b"Subject: x\r\n\r\n.a\r\nb\r\n"),
        (b"one\ntwo\r\nthree\n", b"one\r\ntwo\r\nthree\r\n"),
        (b"no end", b"no end\r\n"),
        (b"half an end\r", b"half an end\r\n"),
        (b"in\rside\r\r\n", b"in\rside\r\r\n"),
    ] {
        a_size_is_what_is_sent(&folder, &mail, text, sent);
    }
    mail.stop();
}

#[test]
fn a_line_of_any_length_is_sent_in_pieces() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    // The ends of lines at the ends of pieces, and beside them; dots that begin no line.
    for length in [8190, 8191, 8192, 8193, 16_384] {
        for (begin, end) in
            [("x", ""), ("x", "\n"), ("", "\n"), ("x", "\r\n"), ("", "\r\n"), ("", "\rx\n")]
        {
            let line = format!("{begin}{}", ".".repeat(length));
            let text = format!("Subject: x\n\n{line}{end}");
            let sent = match end {
                "\rx\n" => format!("Subject: x\r\n\r\n{line}\rx\r\n"),
                _ => format!("Subject: x\r\n\r\n{line}\r\n"),
            };
            a_size_is_what_is_sent(&folder, &mail, text.as_bytes(), sent.as_bytes());
        }
    }
    // The server holds no line in memory.
    let long = format!("Subject: x\r\n\r\n{}\r\nsecond\r\n", "x".repeat(50_000_000));
    let before = mail.peak_memory();
    a_size_is_what_is_sent(&folder, &mail, long.as_bytes(), long.as_bytes());
    assert_eq!(login(&mail).text("TOP 1 1").len(), long.len() - "second\r\n".len());
    assert!(mail.peak_memory() - before < 4 << 20, "from {before} to {}", mail.peak_memory());
    mail.stop();
}

#[test]
fn blanks_at_the_end_of_a_line_are_ignored() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &[], &["one\r\n", "two\r\n"]);
    let mut ada = mail.pop3();
    ada.text("CAPA ");
    ada.ok("USER ada  ");
    // A password may end with a blank, so these do count.
    ada.fails("PASS secret ");
    ada.ok("USER ada");
    ada.ok("PASS secret");
    for line in ["STAT ", "NOOP  ", "RSET ", "LIST 1 ", "UIDL 2  ", "DELE 1 "] {
        ada.ok(line);
    }
    for line in ["LIST ", "UIDL  ", "RETR 2 ", "TOP 2 1 "] {
        ada.text(line);
    }
    ada.ok("QUIT ");
    ada.reads_the_end();
    assert_eq!(messages(&folder, "ada"), [b"two\r\n"]);
    mail.stop();
}

#[test]
fn what_has_the_wrong_form_is_refused() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &[], &["hello\r\n"]);
    for line in ["STAT", "LIST", "RETR 1", "NOOP", "PASS x", "PASS", "USER", "QUIT now", "NOPE"] {
        let mut pop3 = mail.pop3();
        pop3.fails(line);
        pop3.text("CAPA");
    }
    for line in [
        "",
        " ",
        "USER ada",
        "PASS secret",
        "STAT 1",
        "LIST 0",
        "LIST 2",
        "LIST -1",
        "LIST +1",
        "LIST x",
        "LIST 99999999999999999999",
        "RETR",
        "RETR ",
        "TOP 1",
        "TOP 1 -1",
        "TOP 1 x",
    ] {
        let mut ada = login(&mail);
        ada.fails(line);
        assert_eq!(ada.ok("LIST 1").split(' ').next(), Some("1"));
        ada.quits();
    }
    let mut pop3 = mail.pop3();
    let long = |length: usize| format!("NOOP{}", "x".repeat(length - 6));
    for length in [255, 256, 100_000] {
        let told = pop3.fails(&long(length));
        assert_eq!(told == "line too long", length > 255, "{told}");
    }
    pop3.sends("USER \0ada\r\n");
    assert_eq!(pop3.reads_error(), "not ASCII");
    pop3.sends("USER ada\nPASS secret\r\nSTAT\r\n");
    assert_eq!(pop3.reads_error(), "lines end in CRLF");
    pop3.reads_the_end();
    let mut pop3 = mail.pop3();
    for _ in 0..20 {
        pop3.fails("NOPE");
    }
    pop3.reads_the_end();
    mail.stop();
}

/// Logs in as Ada, as soon as the server has noticed that another session has ended.
fn login(mail: &Mail) -> Pop3 {
    let mut session = None;
    wait_until("the mailbox", || {
        let mut pop3 = mail.pop3();
        pop3.ok("USER ada");
        pop3.sends("PASS secret\r\n");
        let is_open = pop3.line().starts_with(b"+OK");
        session = is_open.then_some(pop3);
        is_open
    });
    session.unwrap()
}

#[test]
fn three_wrong_passwords_are_enough() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut told = Vec::new();
    for (user, password) in [("ada", "wrong"), ("ada", ""), ("nobody", ""), ("ben", "secret")] {
        let mut pop3 = mail.pop3();
        for _ in 0..3 {
            told.push(pop3.ok(&format!("USER {user}")));
            told.push(pop3.fails(&format!("PASS {password}")));
        }
        pop3.reads_the_end();
    }
    // The answers do not tell whether a user exists.
    told.sort();
    told.dedup();
    assert_eq!(told, ["[AUTH] wrong name or password", "password?"]);
    let mut pop3 = mail.pop3();
    for _ in 0..2 {
        pop3.ok("USER ada");
        pop3.fails("PASS wrong");
    }
    pop3.fails("PASS secret");
    pop3.ok("USER ada");
    pop3.ok("PASS secret");
    mail.stop();
}

#[test]
fn a_mailbox_is_open_in_one_session() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &[], &["hello\r\n"]);
    // Another process with the same folder.
    let other = Mail::start(folder.path(), &["--mixin", "fibers"]);
    let mut ada = mail.ada();
    for server in [&mail, &other] {
        let mut second = server.pop3();
        second.ok("USER ada");
        let told = second.fails("PASS secret");
        assert!(told.starts_with("[IN-USE] "), "{told}");
        // Ben has another mailbox.
        second.ok("USER ben");
        second.ok("PASS two words");
        second.quits();
    }
    ada.ok("QUIT");
    // After the answer, the lock is released.
    let mut ada = other.ada();
    ada.ok("DELE 1");
    ada.ok("QUIT");
    assert_eq!(mail.ada().ok("STAT"), "0 0");
    other.stop();
    mail.stop();
}

#[test]
fn mail_that_comes_later_is_for_the_next_session() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &[], &["first\r\n"]);
    let mut ada = mail.ada();
    let mut smtp = mail.hello();
    smtp.mails_ada("second\r\n.\r\n", 250);
    assert!(ada.ok("STAT").starts_with("1 "));
    ada.fails("RETR 2");
    ada.ok("DELE 1");
    ada.quits();
    let mut ada = mail.ada();
    assert_eq!(as_sent(&ada.text("RETR 1")), b"second\r\n");
    drop((ada, smtp));
    mail.stop();
}

#[test]
fn only_quit_removes_what_was_deleted() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = with_mail(&folder, &["--mixin", mixin], &["one\r\n", "two\r\n", "three\r\n"]);
        for number in 0..4 {
            let mut ada = login(&mail);
            assert!(ada.ok("STAT").starts_with("3 "));
            ada.ok("DELE 1");
            ada.ok("DELE 3");
            match number {
                0 => ada.half_closes(),
                1 => SockRef::from(ada.stream()).set_linger(Some(Duration::ZERO)).unwrap(),
                // An incomplete QUIT.
                2 => ada.sends("QUIT"),
                _ => ada.sends("RETR 2\r\n"),
            }
        }
        let mut ada = login(&mail);
        assert!(ada.ok("STAT").starts_with("3 "));
        ada.ok("DELE 1");
        ada.ok("DELE 3");
        assert_eq!(messages(&folder, "ada").len(), 3);
        ada.ok("QUIT");
        assert_eq!(messages(&folder, "ada"), [b"two\r\n"]);
        mail.stop();
    }
}

#[test]
fn a_timeout_closes_without_an_answer_and_removes_nothing() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &["--timeout", "1"], &["hello\r\n"]);
    let mut ada = mail.ada();
    ada.ok("DELE 1");
    ada.reads_the_end();
    assert_eq!(messages(&folder, "ada").len(), 1);
    let mut ada = login(&mail);
    ada.ok("DELE 1");
    mail.signal(rustix::process::Signal::TERM);
    ada.reads_the_end();
    // Nothing is logged.
    assert_eq!(mail.wait_and_read_log(), "");
    assert_eq!(messages(&folder, "ada").len(), 1);
}

#[test]
fn a_message_keeps_its_unique_id() {
    let folder = TempDir::new();
    let mail = with_mail(&folder, &[], &["one\r\n", "two\r\n"]);
    let first = mail.ada().text("UIDL");
    let file = files(&folder, "ada", "new").remove(0);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(first.starts_with(format!("1 {name}\r\n").as_bytes()));
    // Another program has marked it as read, and there are files with names that are not valid.
    std::fs::rename(&file, folder.join("ada").join("cur").join(format!("{name}:2,S"))).unwrap();
    let odd = ["9".repeat(71), "9 \u{e9}".to_owned(), ":2,S".to_owned()];
    for name in &odd {
        std::fs::write(folder.join("ada").join("new").join(name), "odd\r\n").unwrap();
    }
    std::fs::write(folder.join("ada").join("new").join(".hidden"), "").unwrap();
    let ids = |ada: &mut Pop3| String::from_utf8(ada.text("UIDL")).unwrap();
    let mut ada = login(&mail);
    let second = ids(&mut ada);
    assert!(second.as_bytes().starts_with(&first));
    let lines: Vec<_> = second.lines().collect();
    assert_eq!(lines.len(), 5);
    for line in &lines {
        let id = line.split_once(' ').unwrap().1;
        assert!((1..=70).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    assert_ne!(lines[2][2..], lines[3][2..]);
    assert_eq!(ada.ok("UIDL 3"), lines[2]);
    ada.quits();
    mail.stop();
    let mail = Mail::start(folder.path(), &[]);
    assert_eq!(ids(&mut mail.ada()), second);
    mail.stop();
}
