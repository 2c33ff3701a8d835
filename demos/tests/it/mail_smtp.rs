//! SMTP as `mail` implements it: the order and syntax of commands, limits of length and time.

use std::time::{Duration, Instant};

use crate::demos::mail::{Mail, files, messages};
use crate::support::{TempDir, wait_until};
use rustix::process::Signal;

const MIXINS: [&str; 3] = ["sequential", "threading", "fibers"];

const ADA: &str = "ada@example.test";

#[test]
fn commands_that_are_not_ascii_are_refused() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.hello();
    for line in [&b"NOOP \0\r\n"[..], b"\0\r\n", b"NOOP\t\r\n", b"NOOP \xc3\xa9\r\n", b"\x7f\r\n"] {
        smtp.sends(line);
        smtp.reads(500);
        smtp.asks("NOOP", 250);
    }
    drop(smtp);
    mail.stop();
}

#[test]
fn command_lines_have_a_limit() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.hello();
    let noop = |length: usize| format!("NOOP {}", "x".repeat(length - "NOOP \r\n".len()));
    smtp.asks(&noop(512), 250);
    for length in [513, 600, 1024, 200_000] {
        smtp.asks(&noop(length), 500);
        smtp.asks(&noop(512), 250);
    }
    let (local, domain) = ("x".repeat(64), format!("{}.{}.", "x".repeat(63), "x".repeat(63)));
    let path = format!("{local}@{domain}{}.test", "x".repeat(56));
    assert_eq!(path.len() + 2, 256);
    smtp.asks(&format!("RCPT TO:<{path}>"), 503);
    smtp.asks(&format!("MAIL FROM:<{path}>"), 250);
    smtp.asks("RSET", 250);
    smtp.asks(&format!("MAIL FROM:<{path}x>"), 501);
    smtp.asks(&format!("MAIL FROM:<x{local}@x.test>"), 501);
    smtp.asks(&format!("MAIL FROM:<x@{}.test>", "x".repeat(64)), 501);
    drop(smtp);
    mail.stop();
}

#[test]
fn lines_of_a_message_have_no_limit_but_that_of_the_message() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin, "--max-size", "200000"]);
        let mut smtp = mail.hello();
        let line = |length: usize| "x".repeat(length) + "\r\n";
        let lengths = [998, 999, 1000, 100_000, 199_998];
        for length in lengths {
            smtp.mails_ada(line(length) + ".\r\n", 250);
            // An added dot does not count.
            smtp.mails_ada(format!("..{}.\r\n", line(length - 1)), 250);
        }
        smtp.mails_ada(line(199_999) + ".\r\n", 552);
        // No matter how long the line, a bare line end is none.
        smtp.mails_ada(format!("{}\n.\r\n.\r\n", "x".repeat(2000)), 554);
        let mut sizes: Vec<_> = messages(&folder, "ada").iter().map(Vec::len).collect();
        sizes.sort();
        assert_eq!(sizes, lengths.map(|length| [length + 2; 2]).concat());
        smtp.asks("QUIT", 221);
        mail.stop();
    }
}

#[test]
fn no_mail_is_refused_because_of_the_name_after_ehlo() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let longest = "x".repeat(512 - "EHLO \r\n".len());
    for (number, (name, traced)) in [
        ("two words", "two?words"),
        ("a..b", "a..b"),
        ("-a", "-a"),
        ("a/b", "a?b"),
        ("my_host", "my_host"),
        ("[300.0.0.1]", "[300.0.0.1]"),
        ("[IPv6:127.0.0.1]", "[IPv6:127.0.0.1]"),
        ("[IPv6:fe80::1%eth0]", "[IPv6:fe80::1%eth0]"),
        // The name cannot add a part to the header field.
        ("a (b) by c; d <e@f>", "a??b??by?c??d??e?f?"),
        (&*longest, &*longest),
    ]
    .into_iter()
    .enumerate()
    {
        let mut smtp = mail.smtp();
        smtp.asks(&format!("{} {name}", if number % 2 == 0 { "EHLO" } else { "helo" }), 250);
        smtp.mails_ada(".\r\n", 250);
        let file = files(&folder, "ada", "new").pop().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let received = format!("\r\nReceived: from {traced} ([127.0.0.1])\r\n\tby ");
        assert!(text.contains(&received), "{text}");
    }
    mail.stop();
}

#[test]
fn commands_have_an_order() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.smtp();
    for (line, code) in [
        ("NOOP", 250),
        ("HELP", 214),
        ("VRFY ada", 252),
        ("RSET", 250),
        ("MAIL FROM:<a@b.test>", 503),
        ("RCPT TO:<ada@example.test>", 503),
        ("DATA", 503),
        ("HELO client.test", 250),
        ("RCPT TO:<ada@example.test>", 503),
        ("DATA", 503),
        // Parameters need EHLO.
        ("MAIL FROM:<a@b.test> SIZE=1", 555),
        ("MAIL FROM:<a@b.test>", 250),
        ("MAIL FROM:<a@b.test>", 503),
        ("DATA", 503),
        ("RCPT TO:<ada@example.test>", 250),
        ("RSET", 250),
        ("DATA", 503),
        ("MAIL FROM:<a@b.test>", 250),
        ("RCPT TO:<ada@example.test>", 250),
        // EHLO resets like RSET.
        ("ehlo client.test", 250),
        ("DATA", 503),
        ("mail from:<a@b.test> body=8bitmime SIZE=10", 250),
        ("rcpt to:<ada@example.test>", 250),
        ("noop", 250),
        ("Vrfy ada", 252),
        ("data", 354),
    ] {
        smtp.asks(line, code);
    }
    smtp.sends("hello\r\n.\r\n");
    smtp.reads(250);
    smtp.asks("DATA", 503);
    smtp.asks("QUIT", 221);
    smtp.reads_the_end();
    assert_eq!(messages(&folder, "ada"), [b"hello\r\n"]);
    mail.stop();
}

#[test]
fn ehlo_lists_the_extensions() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &["--max-size", "1234"]);
    let lines = mail.smtp().asks("EHLO client.test", 250);
    assert_eq!(lines, ["example.test", "PIPELINING", "SIZE 1234", "8BITMIME", "HELP"]);
    assert_eq!(mail.smtp().asks("HELO client.test", 250), ["example.test"]);
    mail.stop();
}

#[test]
fn what_has_the_wrong_form_is_refused() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    for (line, code) in [
        ("", 500),
        (" NOOP", 500),
        ("NOPE", 500),
        ("MAILFROM:<a@b.test>", 500),
        ("EXPN list", 502),
        ("STARTTLS", 502),
        ("BDAT 4 LAST", 502),
        ("EHLO", 501),
        ("EHLO ", 501),
        ("VRFY", 501),
        ("RSET now", 501),
        ("DATA now", 501),
        ("QUIT now", 501),
        ("MAIL", 501),
        ("MAIL FROM", 501),
        ("MAIL TO:<a@b.test>", 501),
        ("MAIL FROM :<a@b.test>", 501),
        ("MAIL FROM: a@b.test", 501),
        ("MAIL FROM:a@b.test", 501),
        ("MAIL FROM:<a@b.test", 501),
        ("MAIL FROM:<a@b.test>>", 501),
        ("MAIL FROM:<a>", 501),
        ("MAIL FROM:<@b.test>", 501),
        ("MAIL FROM:<a@>", 501),
        ("MAIL FROM:<a@b..test>", 501),
        ("MAIL FROM:<.a@b.test>", 501),
        ("MAIL FROM:<a.@b.test>", 501),
        ("MAIL FROM:<a b@b.test>", 501),
        ("MAIL FROM:<a@b@b.test>", 501),
        ("MAIL FROM:<\"a@b.test>", 501),
        ("MAIL FROM:<\"a\\\"@b.test>", 501),
        ("MAIL FROM:<\"a\\\" >\"@b.test>", 250),
        ("MAIL FROM:<a+b/c=d@[127.0.0.1]>", 250),
        ("MAIL FROM:<a@[IPv6:::1]>", 250),
        ("MAIL FROM:<a@[::1]>", 501),
        ("MAIL FROM:<postmaster>", 501),
        ("MAIL FROM:<@relay.test,@b.test:a@c.test>", 250),
        ("MAIL FROM:<@relay.test:>", 501),
        ("MAIL FROM:<a@b.test>SIZE=1", 501),
        ("MAIL FROM:<a@b.test> SIZE", 501),
        ("MAIL FROM:<a@b.test> SIZE=", 501),
        ("MAIL FROM:<a@b.test> SIZE=+1", 501),
        ("MAIL FROM:<a@b.test> SIZE=-1", 501),
        ("MAIL FROM:<a@b.test> SIZE=1 SIZE=1", 501),
        ("MAIL FROM:<a@b.test> SIZE=99999999999999999999", 552),
        ("MAIL FROM:<a@b.test> SIZE=999999999999999999999", 501),
        ("MAIL FROM:<a@b.test> BODY=7BIT SIZE=00000000000000000001", 250),
        ("MAIL FROM:<a@b.test> BODY=BINARYMIME", 501),
        ("MAIL FROM:<a@b.test> BODY=7BIT BODY=7BIT", 501),
        ("MAIL FROM:<a@b.test> SMTPUTF8", 555),
        ("MAIL FROM:<a@b.test> RET=FULL", 555),
    ] {
        let mut smtp = mail.hello();
        smtp.asks(line, code);
        smtp.asks("NOOP", 250);
    }
    mail.stop();
}

#[test]
fn more_spaces_than_needed_are_ignored() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.smtp();
    for (line, code) in [
        ("EHLO  client.test ", 250),
        ("NOOP  ", 250),
        ("VRFY  ada ", 252),
        ("RSET ", 250),
        ("MAIL FROM:<a@b.test> ", 250),
        ("RSET", 250),
        ("MAIL  FROM:  <a@b.test>  SIZE=1  BODY=7BIT ", 250),
        ("RCPT TO: <ada@example.test>", 250),
        ("RCPT  TO:<ada@example.test>  ", 250),
        ("DATA ", 354),
        (".", 250),
        ("QUIT ", 221),
    ] {
        smtp.asks(line, code);
    }
    smtp.reads_the_end();
    let file = files(&folder, "ada", "new").remove(0);
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.starts_with("Return-Path: <a@b.test>\r\nReceived: from client.test ("), "{text}");
    mail.stop();
}

#[test]
fn mail_is_accepted_for_the_users_only() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.hello();
    smtp.asks("MAIL FROM:<a@b.test>", 250);
    for (recipient, code) in [
        ("ada@example.test", 250),
        ("ADA@Example.TEST", 250),
        ("\"ada\"@example.test", 250),
        ("\"a\\da\"@example.test", 250),
        ("@relay.test:ada@example.test", 250),
        ("PostMaster", 250),
        ("postmaster@example.test", 250),
        ("ada@example.test.", 501),
        ("ada", 501),
        ("", 501),
        ("ada@elsewhere.test", 550),
        ("postmaster@elsewhere.test", 550),
        ("ada@sub.example.test", 550),
        ("ada@example.tes", 550),
        ("ada@[127.0.0.1]", 550),
        ("cyd@example.test", 550),
        ("ada%elsewhere.test@example.test", 550),
        ("ben@elsewhere.test@example.test", 501),
        ("\"ben@elsewhere.test\"@example.test", 550),
        ("elsewhere.test!ben@example.test", 550),
        ("@example.test:ben@elsewhere.test", 550),
        ("\"../ada\"@example.test", 550),
    ] {
        smtp.asks(&format!("RCPT TO:<{recipient}>"), code);
    }
    smtp.asks("RCPT TO:<ada@example.test> NOTIFY=NEVER", 555);
    smtp.asks("DATA", 354);
    smtp.sends("hello\r\n.\r\n");
    smtp.reads(250);
    assert_eq!(messages(&folder, "ada"), [b"hello\r\n"]);
    assert!(messages(&folder, "ben").is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    drop(smtp);
    mail.stop();
}

#[test]
fn a_message_has_a_size_and_a_number_of_recipients() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &["--max-size", "1000"]);
    let mut smtp = mail.hello();
    smtp.asks("MAIL FROM:<a@b.test> SIZE=1001", 552);
    smtp.asks("MAIL FROM:<a@b.test> SIZE=1000", 250);
    for number in 1..=101 {
        smtp.asks("RCPT TO:<ada@example.test>", if number <= 100 { 250 } else { 452 });
    }
    // Added dots do not count.
    let text = "..3456\r\n".repeat(1000 / 7) + "xxxx\r\n";
    smtp.asks("DATA", 354);
    smtp.sends(format!("{text}.\r\n"));
    smtp.reads(250);
    smtp.mails_ada(format!("x{text}.\r\n"), 552);
    // The excess is stored neither on disk nor in memory.
    let before = mail.peak_memory();
    smtp.begins(&[ADA]);
    smtp.sends("x\r\n".repeat(10_000_000));
    let spool = files(&folder, "ada", "tmp").remove(0);
    assert!(std::fs::metadata(spool).unwrap().len() < 10_000);
    smtp.sends(".\r\n");
    smtp.reads(552);
    smtp.mails_ada("x".repeat(12_000_000) + "\r\n.\r\n", 552);
    smtp.asks(&"x".repeat(12_000_000), 500);
    assert!(mail.peak_memory() - before < 2 << 20, "from {before} to {}", mail.peak_memory());
    let messages = messages(&folder, "ada");
    assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [1000]);
    assert!(files(&folder, "ada", "tmp").is_empty());
    drop(smtp);
    mail.stop();
}

#[test]
fn a_client_that_makes_too_many_mistakes_is_told_421() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mut smtp = mail.hello();
    smtp.asks("MAIL FROM:<a@b.test>", 250);
    for number in 0..20 {
        smtp.asks(&format!("RCPT TO:<user{number}@example.test>"), 550);
    }
    smtp.is_closed_with(&[421]);
    mail.stop();
}

#[test]
fn a_client_that_stalls_is_told_421() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin, "--timeout", "1"]);
        let begin = Instant::now();
        mail.smtp().is_closed_with(&[421]);
        assert!(begin.elapsed() >= Duration::from_secs(1));

        let mut smtp = mail.hello();
        smtp.begins(&[ADA]);
        smtp.sends("Subject: x\r\n");
        smtp.is_closed_with(&[421]);
        assert!(messages(&folder, "ada").is_empty() && files(&folder, "ada", "tmp").is_empty());
        mail.stop_and_read_log();
    }
}

#[test]
fn a_client_with_too_many_connections_is_told_421() {
    for mixin in ["threading", "fibers"] {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin]);
        let mut first = mail.smtp();
        let _others: Vec<_> = (1..75).map(|_| mail.smtp()).collect();
        mail.connect_smtp().is_closed_with(&[421]);
        first.asks("NOOP", 250);
        // The two servers count separately.
        let _sessions: Vec<_> = (0..75).map(|_| mail.pop3()).collect();
        let mut pop3 = mail.connect_pop3();
        assert_eq!(pop3.reads_error(), "[SYS/TEMP] too many connections");
        pop3.reads_the_end();
        first.asks("QUIT", 221);
        first.reads_the_end();
        wait_until("a place", || mail.connect_smtp().line().starts_with(b"220"));
        mail.stop();
    }
}

#[test]
fn a_client_may_come_by_ipv6() {
    let folder = TempDir::new();
    let mail = Mail::listen("[::1]:0", folder.path(), &[]);
    let mut smtp = mail.smtp();
    smtp.asks("EHLO [IPv6:::1]", 250);
    smtp.mails_ada("hello\r\n.\r\n", 250);
    assert_eq!(messages(&folder, "ada"), [b"hello\r\n"]);
    let text = String::from_utf8(mail.ada().text("RETR 1")).unwrap();
    assert!(text.contains("\r\nReceived: from [IPv6:::1] ([IPv6:::1])\r\n"), "{text}");
    drop(smtp);
    mail.stop();
}

#[test]
fn a_stop_tells_connected_clients_421() {
    for mixin in ["threading", "fibers"] {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin]);
        let (mut one, mut other) = (mail.smtp(), mail.hello());
        other.mails_ada("hello\r\n.\r\n", 250);
        mail.signal(Signal::TERM);
        one.is_closed_with(&[421]);
        other.is_closed_with(&[421]);
        assert_eq!(mail.wait_and_read_log(), "");
        assert_eq!(messages(&folder, "ada"), [b"hello\r\n"]);
    }
}
