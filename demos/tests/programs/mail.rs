//! `mail` and the clients that people use: Python's `smtplib` and `poplib`, curl, a browser.

use std::process::Command;

use crate::demos::demo;
use crate::demos::mail::{Mail, files, messages};
use crate::harness::{Test, tests};
use crate::support::TempDir;
use crate::support::process::{Ended, run};

pub(crate) const TESTS: &[Test] = tests![
    a_full_disk_fails_one_message_and_no_other: ["sh"],
    a_file_system_needs_no_hard_links: ["cc"],
    the_body_of_a_browsers_request_is_not_read_as_commands: ["curl"],
    curl_sends_and_reads: ["curl"],
    what_smtplib_sends_poplib_reads_byte_for_byte: ["python3"],
];

const MIXINS: [&str; 3] = ["sequential", "threading", "fibers"];

/// Sends messages to two users, and reads them as each of the two.
const ROUND_TRIP: &str = r#"
import poplib, smtplib, sys
smtp_host, smtp_port, pop3_host, pop3_port, limit = sys.argv[1:]
limit = int(limit)
people = {"ada": "secret", "ben": "two words"}
head = b"Subject: x\r\n\r\n"
messages = [
    head + b"hello\r\n",
    head + b".\r\n..\r\n...\r\n.x\r\n. \r\n\r\n.\r\n",
    b".\r\n",
    b".first\r\n" + head,
    head,
    b"\r\n",
    head + bytes(set(range(1, 256)) - {10, 13}) + b"\r\n",
    head + (b"x" * 998 + b"\r\n") * 3 + (b"." * 998 + b"\r\n") * 3,
    head + (b"x" * 1500 + b"\r\n") * 3 + (b"." * 1500 + b"\r\n") * 3,
    head + b"\r\n" * 1000,
]
line = b".2345678" * 9 + b"\r\n"
large = head + line * ((limit - len(head)) // len(line) - 1)
messages.append(large + b"x" * (limit - 2 - len(large)) + b"\r\n")
assert len(messages[-1]) == limit

with smtplib.SMTP(smtp_host, int(smtp_port), timeout=30) as smtp:
    for message in messages:
        recipients = [f"{name}@example.test" for name in people]
        refused = smtp.sendmail("me@here.test", recipients, message, ["BODY=8BITMIME"])
        assert refused == {}, refused
    assert int(smtp.esmtp_features["size"]) == limit, smtp.esmtp_features

for name, password in people.items():
    pop3 = poplib.POP3(pop3_host, int(pop3_port), timeout=30)
    pop3.user(name)
    pop3.pass_(password)
    count, size = pop3.stat()
    listed = [int(line.split()[1]) for line in pop3.list()[1]]
    assert (count, size) == (len(messages), sum(listed))
    assert len(set(pop3.uidl()[1])) == count
    for number, sent in enumerate(messages, 1):
        _, lines, octets = pop3.retr(number)
        text = b"".join(line + b"\r\n" for line in lines)
        assert len(text) == octets == listed[number - 1], (len(text), octets, listed)
        assert lines[0] == b"Return-Path: <me@here.test>", lines[0]
        assert text.endswith(sent) and text.count(b"\r\n") == sent.count(b"\r\n") + 4, number
        assert pop3.top(number, 10**6)[1] == lines
        pop3.dele(number)
    pop3.quit()
print("all is well")
"#;
fn what_smtplib_sends_poplib_reads_byte_for_byte() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin, "--max-size", "300000"]);
        let mut python = Command::new("python3");
        python.args(["-c", ROUND_TRIP]).args(mail.host_and_port());
        python.args(mail.pop3_address().split(':')).arg("300000");
        let ended = run(python, "");
        assert_eq!((ended.status, ended.text()), (Some(0), "all is well\n"), "{}", ended.stderr);
        for user in ["ada", "ben"] {
            for name in ["new", "cur", "tmp"] {
                assert_eq!(files(&folder, user, name).len(), 0, "{user}/{name}");
            }
        }
        mail.stop();
    }
}

fn curl_sends_and_reads() {
    let folder = TempDir::new();
    let mail = Mail::start(folder.path(), &[]);
    let message = "Subject: x\r\n\r\nhello\r\n.dot\r\n";
    let flags = ["--mail-from", "me@here.test", "--mail-rcpt", "ada@example.test", "-T", "-"];
    let ended = curl(&flags, &format!("smtp://{}/client.test", mail.address()), message);
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
    assert_eq!(messages(&folder, "ada"), [message.as_bytes()]);

    let pop3 = |path: &str, flags: &[&str]| {
        let flags = [&["--user", "ada:secret"], flags].concat();
        curl(&flags, &format!("pop3://{}/{path}", mail.pop3_address()), "")
    };
    let size = std::fs::metadata(&files(&folder, "ada", "new")[0]).unwrap().len();
    let ended = pop3("", &[]);
    assert_eq!((ended.status, ended.text()), (Some(0), &*format!("1 {size}\r\n")));
    let ended = pop3("1", &[]);
    assert_eq!((ended.status, ended.stdout.len() as u64), (Some(0), size));
    assert!(ended.text().ends_with(message), "{}", ended.text());
    assert_eq!(pop3("1", &["--request", "DELE", "--list-only"]).status, Some(0));
    assert_eq!(pop3("", &[]).text().trim(), "");
    assert!(files(&folder, "ada", "new").is_empty());
    mail.stop();
}

/// Runs curl, without the proxies of the user who runs the tests.
#[track_caller]
fn curl(flags: &[&str], url: &str, input: &str) -> Ended {
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]);
    command.args(flags).arg(url);
    run(command, input)
}

fn the_body_of_a_browsers_request_is_not_read_as_commands() {
    let body = "EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<ada@example.test>\r\nDATA\r\nhello\r\n.\r\n";
    for mixin in MIXINS {
        let folder = TempDir::new();
        let mail = Mail::start(folder.path(), &["--mixin", mixin]);
        let url = format!("http://{}/", mail.address());
        let ended = curl(&["--http0.9", "--data-binary", body], &url, "");
        assert!(ended.text().ends_with("\r\n421 this is SMTP\r\n"), "{ended:?}");
        assert!(messages(&folder, "ada").is_empty());
        mail.stop();
    }
}

fn a_full_disk_fails_one_message_and_no_other() {
    for mixin in MIXINS {
        let folder = TempDir::new();
        // Writes beyond 8 KiB fail, as on a full disk. SIGXFSZ is ignored, or it would end the
        // process.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh"]);
        command.arg(demo("mail").get_program()).args(["--mixin", mixin]);
        let mail = Mail::spawn(command, folder.path());
        let mut smtp = mail.hello();
        let text = "QUIT\r\n".repeat(20_000);
        smtp.mails_ada(format!("{text}.\r\n"), 451);
        smtp.mails_ada("QUIT\r\n.\r\n", 250);
        smtp.asks("QUIT", 221);
        assert_eq!(messages(&folder, "ada"), [b"QUIT\r\n"]);
        assert!(files(&folder, "ada", "tmp").is_empty());
        let log = mail.stop_and_read_log();
        assert!(log.contains("not stored"), "{log}");
    }
}

/// Replaces the system call by one that fails, as on a file system without hard links.
const NO_LINKS: &str = r#"
#include <errno.h>
#include <stdlib.h>
int linkat(int from, const char *old, int to, const char *new, int flags) {
    errno = atoi(getenv("LINK_ERRNO"));
    return -1;
}
int link(const char *old, const char *new) { return linkat(0, old, 0, new, 0); }
"#;

fn a_file_system_needs_no_hard_links() {
    let directory = TempDir::new();
    let (source, library) = (directory.join("no_links.c"), directory.join("no_links.so"));
    std::fs::write(&source, NO_LINKS).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
    let ended = run(command, "");
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);

    for errno in [libc::EPERM, libc::EOPNOTSUPP, libc::ENOSYS, libc::EXDEV, libc::EMLINK] {
        let folder = TempDir::new();
        let mut command = demo("mail");
        command.env("LD_PRELOAD", &library).env("LINK_ERRNO", errno.to_string());
        let mail = Mail::spawn(command, folder.path());
        let mut smtp = mail.hello();
        for text in ["one\r\n", "two\r\n"] {
            smtp.begins(&["ada@example.test", "ben@example.test"]);
            smtp.sends(format!("{text}.\r\n"));
            smtp.reads(250);
        }
        // In all mailboxes or in none.
        let bens = folder.join("ben").join("new");
        let away = folder.join("away");
        std::fs::rename(&bens, &away).unwrap();
        smtp.begins(&["ada@example.test", "ben@example.test"]);
        smtp.sends("three\r\n.\r\n");
        smtp.reads(451);
        std::fs::rename(&away, &bens).unwrap();
        smtp.asks("QUIT", 221);
        for user in ["ada", "ben"] {
            assert_eq!(messages(&folder, user), [b"one\r\n", b"two\r\n"], "errno {errno}");
            assert!(files(&folder, user, "tmp").is_empty());
        }
        mail.stop_and_read_log();
    }
}
