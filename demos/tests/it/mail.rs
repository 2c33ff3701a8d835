//! `mail`, `send_mail` and `read_mail`, and the files on disk. The protocols are tested in
//! `mail_smtp.rs` and `mail_pop3.rs`.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::demos::demo;
use crate::demos::mail::{Mail, files, messages};
use crate::support::clients::line_of;
use crate::support::process::run;
use crate::support::{TIMEOUT, TempDir, wait_until};
use jiff::fmt::rfc2822;
use rustix::process::Signal;

const MIXINS: [&str; 3] = ["sequential", "threading", "fibers"];

#[test]
fn what_send_mail_sends_read_mail_shows_and_removes() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut send = demo("send_mail");
    send.args(["--server", mail.address(), "--from", "me@here.test", "--subject", "Lunch?"]);
    send.args(["--to", "ada@example.test", "--to", "Ben <ben@example.test>"]);
    let ended = run(send, ".\nSee you at noon.\n..\n");
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));

    let read = |user: &str, password: &str, flags: &[&str]| {
        let mut read = demo("read_mail");
        read.args(["--server", mail.pop3_address(), "--user", user, "--password", password]);
        read.args(flags);
        run(read, "")
    };
    for (user, password) in [("ada", "secret"), ("ben", "two words")] {
        for flags in [&[][..], &["--delete"]] {
            let ended = read(user, password, flags);
            assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
            assert!(ended.text().starts_with("--- 1 of 1: "), "{}", ended.text());
            assert!(ended.text().contains("\r\nSubject: Lunch?\r\n"), "{}", ended.text());
            let body = "\r\n\r\n.\r\nSee you at noon.\r\n..\r\n";
            assert!(ended.text().ends_with(body), "{}", ended.text());
        }
        assert_eq!(read(user, password, &[]).text(), "");
    }
    let ended = read("ada", "two words", &[]);
    assert_eq!((ended.status, ended.text()), (Some(1), ""));
    assert!(ended.stderr.starts_with("read_mail: the server says: -ERR [AUTH]"));

    let mut send = demo("send_mail");
    send.args(["--server", mail.address(), "--to", "ada@elsewhere.test"]);
    let ended = run(send, "");
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("no such user"), "{}", ended.stderr);
    mail.stop();
}

#[test]
fn a_text_with_crlf_is_sent_as_one_without() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    for text in ["one\r\ntwo\r\n", "one\r\ntwo", "one\ntwo\r\n", "one\ntwo"] {
        let mut send = demo("send_mail");
        send.args(["--server", mail.address(), "--to", "ada@example.test"]);
        let ended = run(send, text);
        assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{text:?}");
    }
    for message in messages(&folder, "ada") {
        assert!(message.ends_with(b"\r\n\r\none\r\ntwo\r\n"), "{}", message.escape_ascii());
    }
    mail.stop();
    for flags in [&[][..], &["--to", "a@b.test", "--server", "x"]] {
        let mut send = demo("send_mail");
        send.args(flags);
        assert_eq!(run(send, "").status, Some(2), "{flags:?}");
    }
}

#[test]
fn read_mail_shows_lines_of_any_length() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.hello();
    let text = ["x".repeat(300_000), format!(".{}", "x".repeat(65_533)), ".".into(), "end".into()];
    smtp.begins(&["ada@example.test"]);
    smtp.sends(format!("{}\r\n.{}\r\n.{}\r\n{}\r\n.\r\n", text[0], text[1], text[2], text[3]));
    smtp.reads(250);
    let mut read = demo("read_mail");
    read.args(["--server", mail.pop3_address(), "--user", "ada", "--password", "secret"]);
    let ended = run(read, "");
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
    assert!(ended.text().ends_with(&(text.join("\r\n") + "\r\n")));
    smtp.asks("QUIT", 221);
    mail.stop();
}

#[test]
fn read_mail_replaces_control_characters_of_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let to_retr = "+OK \u{1b}[2J\r\nhello\r\n.\r\n";
        for answer in
            ["+OK\r\n", "+OK\r\n", "+OK\r\n", "+OK 1 7\r\n", to_retr, "-ERR \u{1b}[2J\r\n"]
        {
            stream.write_all(answer.as_bytes()).unwrap();
            line_of(&stream);
        }
    });
    let mut read = demo("read_mail");
    read.args(["--server", &address, "--user", "ada", "--password", "secret"]);
    let ended = run(read, "");
    assert_eq!(ended.text(), "--- 1 of 1: \u{fffd}[2J\nhello\r\n");
    assert_eq!(ended.stderr, "read_mail: the server says: -ERR \u{fffd}[2J\n");
    server.join().unwrap();
}

#[test]
fn a_message_says_where_it_comes_from() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    for (hello, protocol) in [("EHLO [127.0.0.1]", "ESMTP"), ("HELO client.test", "SMTP")] {
        let mut smtp = mail.smtp();
        smtp.asks(hello, 250);
        smtp.asks("MAIL FROM:<\"a >b\"@Client.test>", 250);
        smtp.asks("RCPT TO:<ada@example.test>", 250);
        smtp.asks("DATA", 354);
        smtp.sends(".\r\n");
        let id = smtp.reads(250).remove(0);
        let name = hello.split(' ').next_back().unwrap();
        let text = std::fs::read_to_string(folder.join("ada").join("new").join(&id)).unwrap();
        let date = text.trim_end().rsplit('\t').next().unwrap();
        let received = format!(
            "Return-Path: <\"a >b\"@Client.test>\r\nReceived: from {name} ([127.0.0.1])\r\n\
             \tby example.test with {protocol} id {id};\r\n\t{date}\r\n"
        );
        assert_eq!(text, received);
        let date = rfc2822::parse(date).unwrap().timestamp();
        assert!(jiff::Timestamp::now().duration_since(date).abs().as_secs() < 600);
    }
    let mut smtp = mail.hello();
    smtp.asks("MAIL FROM:<>", 250);
    smtp.asks("RCPT TO:<ada@example.test>", 250);
    smtp.asks("DATA", 354);
    smtp.sends(".\r\n");
    smtp.reads(250);
    let file = files(&folder, "ada", "new").pop().unwrap();
    assert!(std::fs::read(file).unwrap().starts_with(b"Return-Path: <>\r\n"));
    mail.stop();
}

#[test]
fn what_is_abandoned_leaves_nothing() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin]);
        for text in ["", "half a line", "Subject: x\r\n\r\nhello\r\n.", "hello\r\n.\r"] {
            let mut smtp = mail.hello();
            smtp.begins(&["ada@example.test", "ben@example.test"]);
            smtp.sends(text);
            assert_eq!(files(&folder, "ada", "tmp").len(), 1);
            drop(smtp);
            wait_until("that it is gone", || files(&folder, "ada", "tmp").is_empty());
        }
        // A stop discards an unfinished message, and the reply tells the client to retry.
        let mut smtp = mail.hello();
        smtp.begins(&["ada@example.test"]);
        smtp.sends("Subject: x\r\n\r\nhello\r\n");
        mail.signal(Signal::TERM);
        smtp.is_closed_with(&[421]);
        mail.wait_and_read_log();
        assert_eq!(messages(&folder, "ada").len() + messages(&folder, "ben").len(), 0);
        assert!(files(&folder, "ada", "tmp").is_empty());
    }
}

#[test]
fn a_message_that_cannot_be_stored_for_one_is_stored_for_none() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let bens = folder.join("ben").join("new");
    std::fs::remove_dir(&bens).unwrap();
    File::create(&bens).unwrap();
    let mut smtp = mail.hello();
    let both = ["ada@example.test", "ben@example.test"];
    smtp.begins(&both);
    smtp.sends("hello\r\n.\r\n");
    smtp.reads(451);
    assert!(messages(&folder, "ada").is_empty());
    assert!(files(&folder, "ada", "tmp").is_empty());

    std::fs::remove_file(&bens).unwrap();
    std::fs::create_dir(&bens).unwrap();
    smtp.begins(&both);
    smtp.sends("hello\r\n.\r\n");
    smtp.reads(250);
    for user in ["ada", "ben"] {
        assert_eq!(messages(&folder, user), [b"hello\r\n"]);
    }
    // A user who is named twice has one copy. A missing folder is reported before the text is sent.
    smtp.begins(&["ada@example.test", "ADA@EXAMPLE.TEST", "postmaster@example.test"]);
    smtp.sends("twice\r\n.\r\n");
    smtp.reads(250);
    assert_eq!(messages(&folder, "ada").len(), 2);
    std::fs::remove_dir(folder.join("ada").join("tmp")).unwrap();
    smtp.asks("MAIL FROM:<>", 250);
    smtp.asks("RCPT TO:<ada@example.test>", 250);
    smtp.asks("DATA", 451);
    smtp.asks("NOOP", 250);
    drop(smtp);
    let log = mail.stop_and_read_log();
    assert_eq!(log.matches("not stored").count(), 2, "{log}");
}

#[test]
fn what_a_crash_left_is_removed_at_the_start_if_it_is_old() {
    let folder = TempDir::new();
    Mail::start(folder.path(), &[]).stop();
    let [old, young] = ["old", "young"].map(|name| folder.join("ada").join("tmp").join(name));
    let hours = |hours: u64| SystemTime::now() - Duration::from_secs(3600 * hours);
    File::create(&old).unwrap().set_modified(hours(37)).unwrap();
    File::create(&young).unwrap().set_modified(hours(35)).unwrap();
    Mail::start(folder.path(), &[]).stop();
    assert_eq!(files(&folder, "ada", "tmp"), [young]);
}

#[test]
fn a_server_starts_while_another_one_is_busy_in_its_folder() {
    let folder = TempDir::new();
    Mail::start(folder.path(), &[]).stop();
    let tmp = folder.join("ada").join("tmp");
    let (started, has_started) = mpsc::channel::<()>();
    let busy = thread::spawn(move || {
        while has_started.try_recv() == Err(mpsc::TryRecvError::Empty) {
            let files: Vec<_> = (0..100).map(|number| tmp.join(format!("{number}"))).collect();
            files.iter().for_each(|file| _ = File::create(file).unwrap());
            files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        }
    });
    for _ in 0..20 {
        Mail::start(folder.path(), &[]).stop();
    }
    drop(started);
    busy.join().unwrap();
}

#[test]
fn help_says_what_flags_there_are() {
    for (name, words) in [
        ("mail", &["--listen", "--pop3", "--maildir", "--domain", "--user", "127.0.0.1:2500"][..]),
        ("send_mail", &["--to", "--from", "--subject", "--server"]),
        ("read_mail", &["--user", "--password", "--delete", "--server"]),
    ] {
        let mut command = demo(name);
        command.arg("--help");
        let ended = run(command, "");
        assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{name}");
        for word in words {
            assert!(ended.text().contains(word), "{name}, {word}: {}", ended.text());
        }
        assert!(!ended.text().contains("forking"));
        let mut command = demo(name);
        command.arg("--nonsense");
        assert_eq!(run(command, "").status, Some(2), "{name}");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    let folder = TempDir::new();
    let path = folder.path().to_str().unwrap();
    for (flags, word) in [
        (&[][..], "--maildir"),
        (&["--maildir", path], "no users"),
        (&["--maildir", path, "--user", "ada"], "password"),
        (&["--maildir", path, "--user", "../x:y"], "name"),
        (&["--maildir", path, "--user", ".:y"], "name"),
        (&["--maildir", path, "--user", "a:b", "--user", "A:b"], "mailbox already"),
        (&["--maildir", path, "--domain", "a b"], "domain"),
        (&["--maildir", path, "--user", "a:b", "--timeout", "0"], "--timeout"),
        (&["--maildir", path, "--user", "a:b", "--pop3", "x"], "bad address"),
        (&["--mixin", "forking"], "one process"),
    ] {
        let mut command = demo("mail");
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        let ended = run(command, "");
        assert_eq!((ended.status, ended.text()), (Some(2), ""), "{flags:?}");
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
}
