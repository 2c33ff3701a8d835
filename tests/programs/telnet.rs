//! The chats with Telnet clients at a terminal, which `script` (of util-linux) makes of its pipes:
//! what their keys do, and that nothing which they negotiate becomes a line.

use std::process::Command;

use crate::harness::{Test, tests};
use crate::members::{GREETING, Member};
use crate::support::clients::{line_of, rest_of};
use crate::support::process::{Process, Server};

pub(crate) const TESTS: &[Test] = tests![
    ctrl_c_in_telnet_drops_the_line_and_the_screen_goes_on: ["telnet", "script"],
    telnet_that_asks_for_character_mode_sends_lines: ["telnet", "script"],
    telnet_asks_whether_the_chat_is_there: ["telnet", "script"],
    what_putty_negotiates_is_no_name: ["plink"],
    what_putty_is_known_to_negotiate_is_no_name,
];

const CTRL_C: &str = "\x03";
/// The escape character of telnet, which opens its prompt.
const ESCAPE: &str = "\x1d";

/// Telnet at a terminal, in the chat of this server, and its name there.
#[track_caller]
fn telnet(server: &Server) -> (Process, String) {
    let mut command = Command::new("script");
    let line = format!("telnet {}", server.host_and_port().join(" "));
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
    let telnet = Process::spawn(command);
    telnet.wait_for(GREETING);
    let name = server.line().strip_prefix("Client joined ").unwrap().to_owned();
    (telnet, name)
}

fn ctrl_c_in_telnet_drops_the_line_and_the_screen_goes_on() {
    let server = Server::start("chat", "127.0.0.1:0", &[]);
    let ada = Member::join(&server);
    let (mut telnet, name) = telnet(&server);
    ada.reads(&format!("Client joined {name}\r\n"));
    for _ in 0..2 {
        telnet.send("half a line");
        telnet.wait_for("half a line");
        telnet.send(CTRL_C);
        telnet.wait_for("^C");
        telnet.send("a whole one\r");
        ada.reads(&format!("[{name}] a whole one\r\n"));
        // Without an answer to its TIMING-MARK, telnet would drop all that it receives.
        ada.sends("do you read me?\n");
        telnet.wait_for(&format!("{}\r\n", ada.says("do you read me?")));
    }
    server.stop();
}

fn telnet_that_asks_for_character_mode_sends_lines() {
    let server = Server::start("chat", "127.0.0.1:0", &[]);
    let ada = Member::join(&server);
    let (mut telnet, name) = telnet(&server);
    ada.reads(&format!("Client joined {name}\r\n"));
    // It asks for `DO ECHO` and `DO SUPPRESS-GO-AHEAD`.
    for line in ["one", "two"] {
        telnet.send(ESCAPE);
        telnet.wait_for("telnet> ");
        telnet.send("mode character\r");
        telnet.wait_for("mode character\r\n");
        telnet.send(format!("{line}\r"));
        ada.reads(&format!("[{name}] {line}\r\n"));
    }
    server.stop();
}

fn telnet_asks_whether_the_chat_is_there() {
    let server = Server::start("chat", "127.0.0.1:0", &[]);
    let (mut telnet, name) = telnet(&server);
    telnet.send(ESCAPE);
    telnet.wait_for("telnet> ");
    telnet.send("send ayt\r");
    telnet.wait_for("\r\n[Yes]\r\n");
    telnet.send("yes\r");
    assert_eq!(server.line(), format!("[{name}] yes"));
    server.stop();
}

fn what_putty_negotiates_is_no_name() {
    let server = Server::start("named_chat", "127.0.0.1:0", &[]);
    // PuTTY's own connections, without its window.
    let [host, port] = server.host_and_port();
    let mut command = Command::new("plink");
    command.args(["-telnet", "-P", &port, &host]);
    let mut plink = Process::spawn(command);
    plink.send("ada\n");
    plink.wait_for("success\r\n");
    let ben = Member::connect(&server);
    ben.sends("ben\n");
    assert_eq!(line_of(&ben.stream), "success\r");
    plink.send("quit\n");
    plink.wait_for("quit\r\n");
    drop(plink);
    server.stop();
}

fn what_putty_is_known_to_negotiate_is_no_name() {
    const PUTTY: &[u8] =
        b"\xff\xfb\x1f\xff\xfb\x20\xff\xfb\x18\xff\xfb\x27\xff\xfd\x01\xff\xfb\x03\xff\xfd\x03";
    const REFUSED: &[u8] =
        b"\xff\xfe\x1f\xff\xfe\x20\xff\xfe\x18\xff\xfe\x27\xff\xfc\x01\xff\xfe\x03\xff\xfc\x03";
    let server = Server::start("named_chat", "127.0.0.1:0", &[]);
    let ada = Member::connect(&server);
    ada.sends([PUTTY, b"ada\r\nquit\r\n"].concat());
    let answers = rest_of(&ada.stream);
    assert_eq!(answers, [REFUSED, b"success\r\nquit\r\n"].concat());
    server.stop();
}
