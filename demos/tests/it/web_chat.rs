//! `web_chat`: who a client is, and what members read.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::demos::site::Answer;
use crate::demos::web_chat::{
    Browser, GREETING, handshake, in_short, line_client, start, start_at,
};
use crate::support::abstract_name;
use crate::support::clients::{line_of, lines, rest_of, tcp, unix};
use crate::support::process::Server;

pub(crate) const MIXINS: [&str; 2] = ["threading", "fibers"];

/// Short, so that tests need not wait for long; longer than a client takes that speaks first.
const SILENCE: [&str; 2] = ["--silence", "0.2"];

fn start_with(mixin: &str) -> Server {
    start(&[&["--mixin", mixin], &SILENCE[..]].concat())
}

/// A line client that speaks first.
#[track_caller]
fn speaker(server: &Server, line: &str) -> TcpStream {
    let mut stream = tcp(server.endpoint());
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    assert_eq!(line_of(&stream), GREETING);
    stream
}

fn name_of(client: &TcpStream) -> String {
    client.local_addr().unwrap().to_string()
}

const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[track_caller]
fn get_page(mut stream: &TcpStream) {
    stream.write_all(PAGE).unwrap();
    assert_eq!(Answer::next(stream).status, 200);
}

#[test]
fn members_of_both_kinds_read_each_other() {
    for mixin in MIXINS {
        let server = start_with(mixin);
        let (mut ada, welcome) = Browser::join(&server, "Ada");
        assert_eq!(welcome["you"], "Ada");
        assert_eq!((&welcome["here"], &welcome["names"]), (&json!(0), &json!([])));
        let mut first = line_client(&server);
        let name = name_of(&first);
        ada.sees(&format!("+ {name}"));
        let (ben, welcome) = Browser::join(&server, " Ben ");
        assert_eq!((&welcome["here"], &welcome["names"]), (&json!(2), &json!([name, "Ada"])));
        ada.sees("+ Ben");
        assert_eq!(line_of(&first), "Client joined Ben\r");
        first.write_all(b"hello  there\r\n\n").unwrap();
        ada.sees(&format!("{name}: hello there"));
        ada.sees(&format!("{name}: "));
        // Blank messages are none. A member reads what it writes when the others do.
        for text in ["hi!", " ", "", "two\nlines"] {
            ada.says(text);
        }
        for line in ["Ada: hi!", "Ada: two\u{fffd}lines"] {
            ada.sees(line);
        }
        assert_eq!(line_of(&first), "[Ada] hi!\r");
        assert_eq!(line_of(&first), "[Ada] two\u{fffd}lines\r");
        ben.leaves();
        ada.sees("- Ben");
        assert_eq!(line_of(&first), "Client left Ben\r");
        // Without the close handshake.
        drop(ada);
        assert_eq!(line_of(&first), "Client left Ada\r");
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(&first), b"");
        server.stop();
    }
}

#[test]
fn a_line_client_that_speaks_first_is_greeted_at_once() {
    // No test waits for so long.
    let server = start(&["--silence", "300"]);
    let (mut ada, _) = Browser::join(&server, "Ada");
    for line in ["hello", "GETTING up", "GE", "G", ""] {
        let client = speaker(&server, line);
        let name = name_of(&client);
        ada.sees(&format!("+ {name}"));
        ada.sees(&format!("{name}: {line}"));
        // Its last line lacks its end.
        (&client).write_all(b"bye").unwrap();
        drop(client);
        ada.sees(&format!("{name}: bye"));
        ada.sees(&format!("- {name}"));
    }
    server.stop();
}

#[test]
fn a_line_client_may_be_telnet() {
    let server = start(&["--silence", "300"]);
    let (mut ada, _) = Browser::join(&server, "Ada");
    let mut telnet = tcp(server.endpoint());
    // `WILL NAWS`, with which PuTTY begins; a line; and what `telnet` sends for Ctrl-C.
    telnet.write_all(b"\xff\xfb\x1fhello\r\0\xff\xf4\xff\xfd\x06").unwrap();
    assert_eq!(line_of(&telnet), GREETING);
    ada.sees(&format!("+ {}", name_of(&telnet)));
    ada.sees(&format!("{}: hello", name_of(&telnet)));
    // `DONT NAWS`, `WILL TIMING-MARK`.
    let mut answer = [0; 6];
    telnet.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"\xff\xfe\x1f\xff\xfb\x06");
    drop(telnet);
    server.stop();
}

#[test]
fn a_line_that_is_too_long_ends_its_client() {
    let server = start(&[]);
    let mut client = speaker(&server, "hello");
    client.write_all(&[b'x'; 4097]).unwrap();
    assert_eq!(line_of(&client), "line too long\r");
    server.stop();
}

#[test]
fn a_request_in_pieces_is_that_of_a_browser() {
    for mixin in MIXINS {
        let server = start_with(mixin);
        let mut stream = tcp(server.endpoint());
        stream.set_nodelay(true).unwrap();
        for byte in PAGE.chunks(1) {
            stream.write_all(byte).unwrap();
            // Else several may arrive at a time.
            thread::sleep(Duration::from_millis(1));
        }
        let answer = Answer::next(&stream);
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with("<!DOCTYPE html>\n"));
        assert_eq!(rest_of(&stream), b"");
        server.stop();
    }
}

#[test]
fn a_spare_connection_of_a_browser_is_not_greeted() {
    for mixin in MIXINS {
        let server = start_with(mixin);
        let (before, used) = (tcp(server.endpoint()), tcp(server.endpoint()));
        get_page(&used);
        let after = tcp(server.endpoint());
        let later = tcp(server.endpoint());
        // Something has to be waited for that does not happen.
        thread::sleep(Duration::from_millis(500));
        for spare in [&before, &after] {
            get_page(spare);
            assert_eq!(rest_of(spare), b"");
        }
        let (mut ada, welcome) = Browser::join(&server, "Ada");
        assert_eq!(welcome["here"], 0);
        // It may be a line client all the same.
        (&later).write_all(b"hello\n").unwrap();
        assert_eq!(line_of(&later), GREETING);
        ada.sees(&format!("+ {}", name_of(&later)));
        drop(later);
        server.stop();
    }
}

#[test]
fn a_request_among_lines_is_not_published() {
    let server = start(&SILENCE);
    // A browser that was silent for too long, and the form of another site's page.
    let (mut ada, _) = Browser::join(&server, "Ada");
    let greeted = line_client(&server);
    ada.sees(&format!("+ {}", name_of(&greeted)));
    let form = tcp(server.endpoint());
    for (mut client, method) in [(greeted, "GET"), (form, "POST")] {
        let name = name_of(&client);
        let request = format!("{method} / HTTP/1.1\r\nCookie: secret\r\n\r\nI was hacked\n");
        client.write_all(request.as_bytes()).unwrap();
        if method == "POST" {
            assert_eq!(line_of(&client), GREETING);
            ada.sees(&format!("+ {name}"));
        }
        ada.sees(&format!("- {name}"));
        // The member reads its own join at most.
        assert!(lines(&client).all(|line| line.starts_with("Client ")));
    }
    server.stop();
}

#[test]
fn who_says_nothing_sensible_is_not_answered() {
    let server = start(&[]);
    let (mut ada, _) = Browser::join(&server, "Ada");
    // The begin of a TLS handshake, as of a browser that tries `https://` first.
    let mut tls = tcp(server.endpoint());
    tls.write_all(b"\x16\x03\x01\x02\x00\x01\x00\n").unwrap();
    // A port scanner.
    let scanner = tcp(server.endpoint());
    scanner.shutdown(Shutdown::Write).unwrap();
    // One that gives up.
    let mut half = tcp(server.endpoint());
    half.write_all(b"GET / HT").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    for client in [tls, scanner, half] {
        assert_eq!(rest_of(&client), b"");
    }
    ada.says("nobody came");
    ada.sees("Ada: nobody came");
    server.stop();
}

#[test]
fn browsers_are_told_what_is_wrong_with_a_request() {
    let server = start(&[]);
    let long = format!("X: {}", "x".repeat(10_000));
    let many = "X: x\r\n".repeat(101);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (request, status) in [
        ("/nothing HTTP/1.1\r\nHost: a", 404),
        ("/?a=b HTTP/1.1\r\nHost: a", 200),
        ("/ HTTP/1.0", 200),
        ("/ HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        ("/ HTTP/1.1\r\nHost: a\r\n folded", 400),
        ("me a beer", 400),
        (&format!("/ HTTP/1.1\r\nHost: a\r\n{long}"), 431),
        (&format!("/ HTTP/1.1\r\nHost: a\r\n{many}"), 400),
        ("/room HTTP/1.1\r\nHost: a", 426),
        (&format!("/room HTTP/1.1\r\nHost: a\r\n{upgrade}"), 101),
        (&format!("/room HTTP/1.1\r\nHost: a:1\r\nOrigin: http://A:1\r\n{upgrade}"), 101),
        (&format!("/room HTTP/1.1\r\nHost: a:1\r\nOrigin: http://a:2\r\n{upgrade}"), 403),
        (&format!("/room HTTP/1.1\r\nHost: a\r\nOrigin: http://b.test\r\n{upgrade}"), 403),
        (&format!("/room HTTP/1.1\r\nHost: a\r\nOrigin: null\r\n{upgrade}"), 403),
        (&format!("/room HTTP/1.1\r\nOrigin: http://b.test\r\n{upgrade}"), 403),
    ] {
        let mut stream = tcp(server.endpoint());
        stream.write_all(format!("GET {request}\r\n\r\n").as_bytes()).unwrap();
        let answer = Answer::next(&stream);
        assert_eq!(answer.status, status, "{request}");
        if status == 200 {
            let policy = answer.field("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
            assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
        }
        if status == 426 {
            assert_eq!(answer.field("sec-websocket-version"), Some("13"));
        }
        if status != 101 {
            assert_eq!(answer.field("connection"), Some("close"), "{request}");
            assert_eq!(rest_of(&stream), b"", "{request}");
        }
    }
    server.stop();
}

#[test]
fn a_name_is_that_of_one_browser() {
    for mixin in MIXINS {
        let server = start_with(mixin);
        let (mut ada, _) = Browser::join(&server, "Ada\nsecret");
        let mut other = Browser::connect(&server);
        let too_long = "x".repeat(33);
        for (name, reason) in [
            ("", "invalid"),
            ("\nsecret", "invalid"),
            ("a: b", "invalid"),
            ("a] b", "invalid"),
            ("[a", "invalid"),
            ("unix#1", "invalid"),
            (&too_long, "invalid"),
            ("Ada", "taken"),
            ("Ada\n", "taken"),
            ("Ada\nguess", "taken"),
            // Cyrillic.
            ("\u{410}d\u{430}", "taken"),
        ] {
            let answer = other.asks_for(name);
            assert_eq!(answer, json!({"type": "refused", "reason": reason}), "{name:?}");
        }
        assert_eq!(other.asks_for("Ben")["you"], "Ben");
        ada.sees("+ Ben");
        // The browser that has the name has lost its connection, of which the server knows nothing.
        let mut again = Browser::connect(&server);
        let welcome = again.asks_for("Ada\nsecret");
        assert_eq!((&welcome["you"], &welcome["names"]), (&json!("Ada"), &json!(["Ben"])));
        for event in ["+ Ben", "- Ada", "+ Ada"] {
            other.sees(event);
        }
        again.sees("+ Ada");
        // The earlier one is closed, and the name stays with the later.
        let _ = ada.socket.get_mut().read_to_end(&mut Vec::new());
        assert_eq!(Browser::connect(&server).asks_for("Ada")["reason"], "taken");
        again.leaves();
        other.sees("- Ada");
        // From now on it is free.
        Browser::join(&server, "Ada");
        server.stop();
    }
}

#[test]
fn who_comes_later_is_shown_the_last_fifty_lines() {
    let server = start(&[]);
    let (mut ada, _) = Browser::join(&server, "Ada");
    for number in 0..60 {
        ada.says(&format!("{number}"));
        ada.sees(&format!("Ada: {number}"));
    }
    let (_ben, welcome) = Browser::join(&server, "Ben");
    let history = welcome["history"].as_array().unwrap();
    let shown: Vec<String> = history.iter().map(in_short).collect();
    let expected: Vec<String> = (10..60).map(|number| format!("Ada: {number}")).collect();
    assert_eq!(shown, expected);
    // Events are numbered, in their order, and this is the last one so far.
    let ids: Vec<u64> = history.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(welcome["id"], ids[49]);
    server.stop();
}

#[test]
fn who_does_not_answer_pings_leaves() {
    for mixin in MIXINS {
        let server = start(&["--mixin", mixin, "--ping", "0.05"]);
        let (mut ada, _) = Browser::join(&server, "Ada");
        let (_silent, _) = Browser::join(&server, "Ben");
        ada.sees("+ Ben");
        // Which reads, and so answers, while it waits.
        ada.sees("- Ben");
        ada.says("still here");
        ada.sees("Ada: still here");
        server.stop();
    }
}

#[test]
fn a_stop_is_announced_to_browsers() {
    for mixin in MIXINS {
        let server = start_with(mixin);
        let (mut ada, _) = Browser::join(&server, "Ada");
        let mut unnamed = Browser::connect(&server);
        let spare = tcp(server.endpoint());
        let mut line_client = speaker(&server, "hello");
        ada.sees(&format!("+ {}", name_of(&line_client)));
        ada.sees(&format!("{}: hello", name_of(&line_client)));
        ada.says("the last one");
        ada.sees("Ada: the last one");
        server.signal(Signal::TERM);
        assert_eq!(ada.is_closed(), Some(1001));
        assert_eq!(unnamed.is_closed(), Some(1001));
        assert_eq!(rest_of(&spare), b"");
        let mut rest = String::new();
        line_client.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("[Ada] the last one\r\n"), "{rest}");
        let ended = server.wait();
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{mixin}");
    }
}

#[test]
fn a_unix_socket_serves_line_clients() {
    let server = start_at(&format!("unix:{}", abstract_name()), &SILENCE);
    let [first, mut second] = [(); 2].map(|()| {
        let client = unix(server.endpoint());
        assert_eq!(line_of(&client), GREETING);
        client
    });
    second.write_all(b"hello\n").unwrap();
    assert_eq!(line_of(&first), "Client joined unix#2\r");
    assert_eq!(line_of(&first), "[unix#2] hello\r");
    server.stop();
}

#[test]
fn handshakes_carry_their_key() {
    let server = start(&[]);
    let mut stream = tcp(server.endpoint());
    let request = "GET /room HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    // The example of RFC 6455, 1.3.
    let accept = Answer::next(&stream).field("sec-websocket-accept").map(str::to_owned);
    assert_eq!(accept.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    // No such version.
    let mut request = handshake(&server);
    request.headers_mut().insert("Sec-WebSocket-Version", "8".parse().unwrap());
    assert_eq!(Browser::connect_with(&server, request).err(), Some(426));
    server.stop();
}
