//! `mail` as a process, and clients that send any bytes.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use socketserver::Endpoint;

use crate::demos::demo;
use crate::support::TempDir;
use crate::support::clients::tcp;
use crate::support::process::Server;

/// Flags for the users `ada` and `ben`.
pub(crate) const USERS: [&str; 4] = ["--user", "ada:secret", "--user", "ben:two words"];

/// A running server.
pub(crate) struct Mail {
    server: Server,
    pop3: String,
}

impl Mail {
    #[track_caller]
    pub(crate) fn start(folder: &Path, flags: &[&str]) -> Mail {
        Mail::listen("127.0.0.1:0", folder, flags)
    }

    /// The same, with both servers at this address.
    #[track_caller]
    pub(crate) fn listen(address: &str, folder: &Path, flags: &[&str]) -> Mail {
        let mut command = demo("mail");
        command.args(flags);
        Mail::spawn_at(address, command, folder)
    }

    /// Starts a command that runs `mail`; adds flags.
    #[track_caller]
    pub(crate) fn spawn(command: Command, folder: &Path) -> Mail {
        Mail::spawn_at("127.0.0.1:0", command, folder)
    }

    #[track_caller]
    fn spawn_at(address: &str, mut command: Command, folder: &Path) -> Mail {
        command.args(["--listen", address, "--pop3", address]);
        command.arg("--maildir").arg(folder).args(USERS);
        let server = Server::spawn(command);
        let pop3 = server.line().strip_prefix("listening on ").expect("an address").to_owned();
        assert!(server.line().starts_with("try: "));
        Mail { server, pop3 }
    }

    pub(crate) fn pop3_address(&self) -> &str {
        &self.pop3
    }

    /// Connects, and reads nothing.
    pub(crate) fn connect_smtp(&self) -> Smtp {
        Smtp(Client::connect(self.server.address()))
    }

    /// Connects, and reads the greeting.
    #[track_caller]
    pub(crate) fn smtp(&self) -> Smtp {
        let mut smtp = self.connect_smtp();
        smtp.reads(220);
        smtp
    }

    /// The same, and sends EHLO.
    #[track_caller]
    pub(crate) fn hello(&self) -> Smtp {
        let mut smtp = self.smtp();
        smtp.asks("EHLO client.test", 250);
        smtp
    }

    #[track_caller]
    pub(crate) fn pop3(&self) -> Pop3 {
        let mut pop3 = self.connect_pop3();
        pop3.reads_ok();
        pop3
    }

    /// Connects, and reads nothing.
    pub(crate) fn connect_pop3(&self) -> Pop3 {
        Pop3(Client::connect(&self.pop3))
    }

    /// Logs in as Ada.
    #[track_caller]
    pub(crate) fn ada(&self) -> Pop3 {
        let mut pop3 = self.pop3();
        pop3.ok("USER ada");
        pop3.ok("PASS secret");
        pop3
    }

    /// The peak of its resident memory, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.server.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        1024 * line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    }

    pub(crate) fn stop(self) {
        self.server.stop();
    }

    /// Kills it by SIGKILL.
    pub(crate) fn kill(self) {
        self.server.signal(Signal::KILL);
        assert_eq!(self.server.wait().signal, Some(9));
    }

    /// Stops it by SIGTERM; returns its log.
    pub(crate) fn stop_and_read_log(self) -> String {
        self.server.signal(Signal::TERM);
        self.wait_and_read_log()
    }

    /// Waits for the end of a stop that has begun; returns the log.
    pub(crate) fn wait_and_read_log(self) -> String {
        let ended = self.server.wait();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.stderr
    }
}

impl Deref for Mail {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The files in a folder of a user's Maildir: `new`, `tmp` or `cur`.
pub(crate) fn files(folder: &TempDir, user: &str, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join(user).join(name)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The new messages of a user, without the header fields that the server adds.
#[track_caller]
pub(crate) fn messages(folder: &TempDir, user: &str) -> Vec<Vec<u8>> {
    let files = files(folder, user, "new").into_iter();
    files.map(|file| as_sent(&std::fs::read(file).unwrap()).to_vec()).collect()
}

/// A message without the header fields that the server adds, which are four lines.
#[track_caller]
pub(crate) fn as_sent(message: &[u8]) -> &[u8] {
    let mut rest = message;
    for begin in ["Return-Path: <", "Received: from ", "\tby example.test with ", "\t"] {
        assert!(rest.starts_with(begin.as_bytes()), "{}", message.escape_ascii());
        let end = rest.windows(2).position(|two| two == b"\r\n").expect("lines");
        rest = &rest[end + 2..];
    }
    rest
}

/// A client's end of a connection.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Client {
        let stream = tcp(address.parse::<Endpoint>().unwrap());
        stream.set_nodelay(true).unwrap();
        Client(BufReader::new(stream))
    }

    #[track_caller]
    pub(crate) fn sends(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads a line, which ends with CRLF; returns it with its end.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "{:?}", line.escape_ascii().to_string());
        line
    }

    /// Reads EOF, or a RST after it.
    #[track_caller]
    pub(crate) fn reads_the_end(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(rest.escape_ascii().to_string(), "");
    }

    pub(crate) fn half_closes(&mut self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }
}

pub(crate) struct Smtp(Client);

impl Smtp {
    /// Reads a reply with this code; returns the text of its lines.
    #[track_caller]
    pub(crate) fn reads(&mut self, code: u16) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        loop {
            let line = String::from_utf8(self.line()).unwrap();
            assert!(line.starts_with(&code.to_string()), "{line:?} and not {code}");
            assert!(line.len() <= 512, "{line}");
            lines.push(line[4..].trim_end().to_owned());
            match line.as_bytes()[3] {
                b' ' => return lines,
                byte => assert_eq!(byte, b'-', "{line}"),
            }
        }
    }

    /// Sends a command, and reads a reply with this code.
    #[track_caller]
    pub(crate) fn asks(&mut self, line: &str, code: u16) -> Vec<String> {
        self.sends(format!("{line}\r\n"));
        self.reads(code)
    }

    /// Sends the commands up to DATA, so that the message can follow.
    #[track_caller]
    pub(crate) fn begins(&mut self, recipients: &[&str]) {
        self.asks("MAIL FROM:<sender@client.test>", 250);
        for recipient in recipients {
            self.asks(&format!("RCPT TO:<{recipient}>"), 250);
        }
        self.asks("DATA", 354);
    }

    /// Sends a message to Ada. The text is sent unchanged, so it must contain the end of the data.
    #[track_caller]
    pub(crate) fn mails_ada(&mut self, text: impl AsRef<[u8]>, code: u16) {
        self.begins(&["ada@example.test"]);
        self.sends(text);
        self.reads(code);
    }

    /// Reads replies with these codes, and then EOF.
    #[track_caller]
    pub(crate) fn is_closed_with(&mut self, codes: &[u16]) {
        for code in codes {
            self.reads(*code);
        }
        self.reads_the_end();
    }
}

pub(crate) struct Pop3(Client);

impl Pop3 {
    #[track_caller]
    fn reads_ok(&mut self) -> String {
        let line = String::from_utf8(self.line()).unwrap();
        let text = line.strip_prefix("+OK").expect(&line);
        text.trim().to_owned()
    }

    /// Sends a command; returns the text after `+OK`.
    #[track_caller]
    pub(crate) fn ok(&mut self, line: &str) -> String {
        self.sends(format!("{line}\r\n"));
        self.reads_ok()
    }

    /// The same for an answer of several lines; returns them without added dots and the last line.
    #[track_caller]
    pub(crate) fn text(&mut self, line: &str) -> Vec<u8> {
        self.ok(line);
        let mut text = Vec::new();
        loop {
            let line = self.line();
            if line == b".\r\n" {
                return text;
            }
            text.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    /// Sends a command; returns the text after `-ERR`.
    #[track_caller]
    pub(crate) fn fails(&mut self, line: &str) -> String {
        self.sends(format!("{line}\r\n"));
        self.reads_error()
    }

    #[track_caller]
    pub(crate) fn reads_error(&mut self) -> String {
        let line = String::from_utf8(self.line()).unwrap();
        line.strip_prefix("-ERR ").expect(&line).trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn quits(&mut self) {
        self.ok("QUIT");
        self.reads_the_end();
    }
}

impl Deref for Smtp {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl DerefMut for Smtp {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0
    }
}

impl Deref for Pop3 {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl DerefMut for Pop3 {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0
    }
}
