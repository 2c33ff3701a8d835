//! SMTP smuggling: `mail` never reads a part of a message as a command, wherever another server
//! would see the end of the message.

use crate::demos::mail::{Mail, files, messages};
use crate::support::TempDir;

const MIXINS: [&str; 3] = ["sequential", "threading", "fibers"];

const ADA: &str = "ada@example.test";

#[test]
fn only_crlf_dot_crlf_ends_a_message() {
    // Bytes that some servers accept as the end of a message, and a message that could follow.
    let ends: [&[u8]; 16] = [
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\r.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\n.\r",
        b"\r.\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
        b"\r\n\n.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n\0.\r\n",
        b"\r\0\n.\r\n",
        b"\0",
        b"\n",
    ];
    let second = "MAIL FROM:<evil@client.test>\r\nRCPT TO:<ben@example.test>\r\nDATA\r\n\
                  Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n";
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin]);
        for (number, end) in ends.iter().enumerate() {
            let mut smtp = mail.hello();
            let text = [b"Subject: x\r\n\r\nfirst", *end, second.as_bytes()].concat();
            smtp.begins(&[ADA]);
            if number % 2 == 0 {
                smtp.sends(&text);
            } else {
                // The same, byte by byte.
                text.iter().for_each(|byte| smtp.sends([*byte]));
            }
            smtp.reads(554);
            // There is one reply, and no message is stored.
            smtp.asks("HELP", 214);
            assert_eq!(messages(&folder, "ada").len(), number, "{}", end.escape_ascii());
            smtp.mails_ada("good\r\n.\r\n", 250);
            smtp.asks("QUIT", 221);
            smtp.reads_the_end();
        }
        assert_eq!(messages(&folder, "ada"), vec![b"good\r\n"; ends.len()]);
        assert!(messages(&folder, "ben").is_empty());
        assert!(files(&folder, "ada", "tmp").is_empty());
        mail.stop();
    }
}

#[test]
fn a_command_with_a_bare_line_end_is_the_last_one() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let mail_and_more = "MAIL FROM:<a@client.test>\nRCPT TO:<ada@example.test>\nDATA\n.\n";
    for line in ["NOOP\n", "NOOP\rNOOP\r\n", "NOOP\r\r\n", "\n", "NOOP x\nDATA\r\n", mail_and_more]
    {
        let mut smtp = mail.hello();
        smtp.sends([line, "NOOP\r\n", "QUIT\r\n"].concat());
        smtp.is_closed_with(&[500, 421]);
    }
    let mut smtp = mail.hello();
    smtp.sends([&b"x".repeat(600)[..], b"\nNOOP\r\n"].concat());
    smtp.is_closed_with(&[500, 421]);
    assert!(messages(&folder, "ada").is_empty());
    mail.stop();
}

#[test]
fn text_behind_a_refused_data_is_no_command() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let text =
        "RSET\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<ada@example.test>\r\nDATA\r\nevil\r\n.\r\n";
    let mut smtp = mail.hello();
    smtp.sends(format!("MAIL FROM:<a@b.test>\r\nRCPT TO:<cyd@example.test>\r\nDATA\r\n{text}"));
    smtp.is_closed_with(&[250, 550, 503, 421]);
    for (line, code) in [("DATA", 503), ("data now", 501), ("BDAT 99 LAST", 502)] {
        let mut smtp = mail.hello();
        smtp.sends(format!("{line}\r\n{text}"));
        smtp.is_closed_with(&[code, 421]);
    }
    assert!(messages(&folder, "ada").is_empty());

    // The same for text in a later write, by a client that ignores the reply.
    for (line, code) in [("DATA", 503), ("BDAT 99 LAST", 502)] {
        for begin in ["Received: from x\r\n", "\r\n", "\u{e9}\r\n", &("x".repeat(600) + "\r\n")] {
            let mut smtp = mail.hello();
            smtp.asks(line, code);
            smtp.sends(format!("{begin}{text}"));
            smtp.is_closed_with(&[500, 421]);
        }
    }
    assert!(messages(&folder, "ada").is_empty());

    // A client that waits for 354 can go on after a refusal.
    let mut smtp = mail.hello();
    smtp.sends("MAIL FROM:<a@b.test>\r\nRCPT TO:<cyd@example.test>\r\nDATA\r\n");
    for code in [250, 550, 503] {
        smtp.reads(code);
    }
    smtp.asks("RSET", 250);
    smtp.asks("NOPE", 500);
    smtp.begins(&[ADA]);
    smtp.sends("bare\n.\r\nNOOP\r\n.\r\nNOOP\r\n");
    smtp.reads(554);
    smtp.reads(250);
    drop(smtp);
    mail.stop();
}

#[test]
fn commands_may_come_in_one_write() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin]);
        let mut smtp = mail.smtp();
        // RFC 2920 requires four writes; one is accepted too.
        smtp.sends(
            "EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<cyd@example.test>\r\n\
             RCPT TO:<ada@example.test>\r\nDATA\r\nQUIT\r\n\r\n..\r\n.\r\nMAIL FROM:<a@b.test>\r\n\
             RCPT TO:<ben@example.test>\r\nDATA\r\nto Ben\r\n.\r\nQUIT\r\nMAIL FROM:<a@b.test>\r\n",
        );
        // Commands after QUIT are not read.
        smtp.is_closed_with(&[220, 250, 250, 550, 250, 354, 250, 250, 250, 354, 250, 221][1..]);
        assert_eq!(messages(&folder, "ada"), [b"QUIT\r\n\r\n.\r\n"]);
        assert_eq!(messages(&folder, "ben"), [b"to Ben\r\n"]);
        mail.stop();
    }
}
