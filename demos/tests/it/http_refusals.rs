//! Requests that `http_files` refuses: malformed, ambiguous, too long or too slow.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::demos::site::{Answer, HELLO, Site};
use crate::support::TIMEOUT;
use crate::support::clients::rest_of;
use rustix::process::Signal;

/// A complete request that follows another one.
const NEXT: &str = "GET /sub/inner.txt HTTP/1.1\r\nHost: a\r\n\r\n";

/// Asserts that the answer is this error, after which the connection is closed: the bytes that
/// follow are not read as a request.
#[track_caller]
fn refuses(site: &Site, status: u16, request: &str) {
    let answer = site.send(format!("{request}{NEXT}"));
    assert_eq!(answer.status, status, "{request:?}: {answer:?}");
    answer.is_error(status, "close");
}

/// Asserts that the requests are answered with these statuses, and that EOF follows.
#[track_caller]
fn answers(site: &Site, statuses: &[u16], requests: &str) {
    let stream = site.connect();
    (&stream).write_all(requests.as_bytes()).unwrap();
    for status in statuses {
        assert_eq!(Answer::next(&stream).status, *status, "{requests:?}");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest_of(&stream), b"", "{requests:?}");
}

#[test]
fn what_is_not_http_is_told_400() {
    let site = Site::start(&[]);
    for request in [
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "GET /hello.txt\r\n\r\n",
        "GET  /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hello.txt HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /hello.txt XTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hello.txt HTTP/one\r\nHost: a\r\n\r\n",
        "G(T /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hel\u{0}lo.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hello.txt HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
        "GET /hello.txt HTTP/1.1\r\nHost: a\r\nB ad: name\r\n\r\n",
        "GET /hello.txt HTTP/1.1\r\nHost: a\r\nB: a\u{1}d value\r\n\r\n",
        "GET /hello.txt HTTP/1.1\r\nHost: a\r\nB: a\rd value\r\n\r\n",
        "\r\n\r\nGET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n",
        "\u{16}\u{3}\u{1} this is TLS\r\n\r\n",
    ] {
        refuses(&site, 400, request);
    }
    // One empty line before a request is skipped.
    answers(&site, &[200, 200], &format!("{NEXT}\r\n{NEXT}"));
    site.stop();
}

#[test]
fn a_line_ends_with_both_of_its_characters() {
    let site = Site::start(&[]);
    for request in [
        "GET /hello.txt HTTP/1.1\nHost: a\n\n",
        "GET /hello.txt HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET /hello.txt HTTP/1.1\r\nHost: a\r\n\n",
        "GET /hello.txt HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "\nGET /hello.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        refuses(&site, 400, request);
    }
    site.stop();
}

#[test]
fn a_head_that_ends_early_is_told_400() {
    let site = Site::start(&[]);
    for request in ["G", "GET /hello.txt HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX"] {
        let stream = site.connect();
        (&stream).write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        Answer::of(&rest_of(&stream)).is_error(400, "close");
    }
    site.stop();
}

#[test]
fn a_request_has_one_valid_host() {
    let site = Site::start(&[]);
    for fields in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: user@a\r\n",
        "Host: a, b\"\r\n",
    ] {
        refuses(&site, 400, &format!("GET /hello.txt HTTP/1.1\r\n{fields}\r\n"));
    }
    refuses(&site, 400, "GET /hello.txt HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n");
    // HTTP/1.0 does not require it, and an IPv6 address has brackets.
    assert_eq!(site.send("GET /hello.txt HTTP/1.0\r\n\r\n").text(), HELLO);
    answers(&site, &[200], "GET /hello.txt HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n");
    answers(&site, &[200], "GET /hello.txt HTTP/1.1\r\nHost:\r\n\r\n");
    site.stop();
}

#[test]
fn no_request_is_smuggled_within_another() {
    let site = Site::start(&[]);
    for fields in [
        "Content-Length: 0\r\nContent-Length: 42",
        "Content-Length: 42\r\nContent-Length: 42",
        "Content-Length: 0, 42",
        "Content-Length: +0",
        "Content-Length: -1",
        "Content-Length: 0x0",
        "Content-Length: 1 0",
        "Content-Length:",
        "Content-Length : 0",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: ,",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: y\r\n Content-Length: 42",
        "X: y\r\n\tz",
    ] {
        refuses(&site, 400, &format!("GET /hello.txt HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
    }
    refuses(&site, 400, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    // With one valid length, the bytes are a body, even if they look like a request.
    let length = NEXT.len();
    let request = format!("GET /hello.txt HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    answers(&site, &[200, 404], &format!("{request}{NEXT}GET /no HTTP/1.1\r\nHost: a\r\n\r\n"));
    site.stop();
}

#[test]
fn a_body_that_is_not_read_ends_its_connection() {
    let site = Site::start(&[]);
    let chunked = "GET /hello.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = site.send(format!("{chunked}0\r\n\r\n{NEXT}"));
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert_eq!(answer.text(), HELLO);

    let length = |length: &str| {
        format!("POST /hello.txt HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    };
    for too_long in ["65536", "1000000000000", "99999999999999999999999999"] {
        refuses(&site, 413, &length(too_long));
    }
    answers(&site, &[405, 200], &format!("{}{}{NEXT}", length("65535"), "x".repeat(65_535)));

    // The client waits to be told whether to send it.
    let expecting =
        "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n";
    site.send(expecting).is_error(405, "close");
    site.stop();
}

#[test]
fn other_codings_methods_and_versions_are_named() {
    let site = Site::start(&[]);
    let codings = "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    refuses(&site, 501, codings);
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3.0"] {
        refuses(&site, 505, &format!("GET / {version}\r\nHost: a\r\n\r\n"));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE"] {
        let answer = site.ask(method, "/hello.txt", &[]);
        answer.is_error(405, "keep-alive");
        assert_eq!(answer.field("allow"), Some("GET, HEAD"));
    }
    for method in ["get", "PROPFIND", "BREW"] {
        site.ask(method, "/hello.txt", &[]).is_error(501, "keep-alive");
    }
    answers(&site, &[405, 200], &format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"));
    answers(&site, &[405, 200], &format!("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n{NEXT}"));
    site.stop();
}

#[test]
fn what_is_too_long_is_told_so() {
    let site = Site::start(&[]);
    let long = |length| "x".repeat(length);
    let request = |fields: &str| format!("GET /hello.txt HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    refuses(&site, 414, &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(8192)));
    // A line that does not end.
    refuses(&site, 414, &long(9000));
    refuses(&site, 431, &request(&format!("X: {}\r\n", long(16_384))));
    refuses(&site, 431, &request(&format!("X: {}\r\n", long(1000)).repeat(17)));
    refuses(&site, 431, &request(&"X: y\r\n".repeat(100)));

    answers(&site, &[404], &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(8000)));
    answers(&site, &[200], &request(&format!("X: {}\r\n", long(16_000))));
    answers(&site, &[200], &request(&"X: y\r\n".repeat(99)));
    site.stop();
}

#[test]
fn a_client_that_stalls_is_told_408() {
    for mixin in ["threading", "forking", "fibers"] {
        let site = Site::start(&["--mixin", mixin, "--head-timeout", "0.3"]);
        for begin in [
            "G",
            "GET /hello.txt HTTP/1.1\r\n",
            "GET /hello.txt HTTP/1.1\r\nHost: a\r\n",
            "GET /hello.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12345678",
        ] {
            site.send(begin).is_error(408, "close");
            // The same after another request.
            let stream = site.connect();
            (&stream).write_all(format!("{NEXT}{begin}").as_bytes()).unwrap();
            assert_eq!(Answer::next(&stream).text(), "inside\n");
            Answer::of(&rest_of(&stream)).is_error(408, "close");
        }
        site.stop();
    }
}

#[test]
fn a_request_that_a_stop_cuts_off_is_answered_503() {
    for mixin in ["sequential", "threading", "forking", "fibers"] {
        for begin in [
            "G",
            "GET /hello.txt HTTP/1.1\r\n",
            "GET /hello.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12345678",
        ] {
            let site = Site::start(&["--mixin", mixin]);
            let stream = site.connect();
            (&stream).write_all(format!("{NEXT}{begin}").as_bytes()).unwrap();
            assert_eq!(Answer::next(&stream).text(), "inside\n");
            let (server, _folder) = site.into_server();
            server.signal(Signal::TERM);
            Answer::of(&rest_of(&stream)).is_error(503, "close");
            let ended = server.wait();
            assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{mixin}");
        }
    }
}

#[test]
fn bytes_that_drip_in_do_not_extend_the_deadline() {
    let site = Site::start(&["--head-timeout", "0.5"]);
    let stream = site.connect();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    (&stream).write_all(b"GET /").unwrap();
    let begun = Instant::now();
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 1024];
        match (&stream).read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(begun.elapsed() < TIMEOUT, "it waits for ever");
                (&stream).write_all(b"x").unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    Answer::of(&answer).is_error(408, "close");
    site.stop();
}

#[test]
fn an_idle_client_is_closed_without_an_answer() {
    let site = Site::start(&["--idle-timeout", "0.3"]);
    assert_eq!(rest_of(site.connect()), b"");
    let stream = site.connect();
    (&stream).write_all(NEXT.as_bytes()).unwrap();
    assert_eq!(Answer::next(&stream).text(), "inside\n");
    assert_eq!(rest_of(&stream), b"");
    site.stop();
}

#[test]
fn a_target_may_name_the_host_too() {
    let site = Site::start(&[]);
    let get =
        |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for target in ["http://a/hello.txt", "HTTP://a:80/hello.txt?x", "http://[::1]/hello.txt"] {
        assert_eq!(site.send(get(target)).text(), HELLO, "{target}");
    }
    for target in ["http://a", "http://a?x", "http://a/"] {
        assert!(site.send(get(target)).text().contains("href=\"hello.txt\""), "{target}");
    }
    for (target, status) in [
        ("http:///hello.txt", 400),
        ("http://:80/hello.txt", 400),
        ("http://user@a/hello.txt", 400),
        ("ftp://a/hello.txt", 400),
        ("http://a/../secret.txt", 404),
        ("http://a//hello.txt/", 404),
        ("hello.txt", 400),
        ("*", 400),
        ("/hello.txt#x", 400),
        ("/..\\secret.txt", 400),
        ("/%", 400),
        ("/%4", 400),
        ("/%zz", 400),
        ("/%+1", 400),
    ] {
        assert_eq!(site.send(get(target)).status, status, "{target}");
    }
    site.stop();
}
