//! Clients of `http_files` that send a body which is refused, and read the answer only after that.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::demos::site::{Answer, Site};
use crate::support::clients::{rest_of, unix};
use crate::support::{TIMEOUT, abstract_name};
use rustix::process::Signal;
use socketserver::Endpoint;

const MIXINS: [&str; 5] = ["sequential", "threading", "forking", "prefork", "fibers"];

/// The head of an upload whose length is refused.
const UPLOAD: &str = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n";

/// What precedes ten megabytes, and the status.
const REFUSED: [(&str, u16); 7] = [
    (UPLOAD, 413),
    ("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n989680\r\n", 405),
    ("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    // The client does not wait to be told to send it.
    ("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", 405),
    ("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
    ("GET /", 414),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: ", 431),
];

#[test]
fn a_client_that_sends_all_of_it_reads_why_it_is_refused() {
    let body = vec![b'x'; 10_000_000];
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        for (head, status) in REFUSED {
            let answer = site.send([head.as_bytes(), &body].concat());
            answer.is_error(status, "close");
        }
        site.stop();
    }
    for (head, status) in REFUSED {
        let name = format!("unix:{}", abstract_name());
        let site = Site::listen(&name, &[]);
        let mut stream = unix(name.parse::<Endpoint>().unwrap());
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        Answer::of(&rest_of(stream)).is_error(status, "close");
        site.stop();
    }
}

#[test]
fn a_client_that_takes_its_time_reads_why_it_is_refused() {
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        let mut stream = site.connect();
        stream.write_all(UPLOAD.as_bytes()).unwrap();
        for _ in 0..20 {
            // More than the socket buffers hold, of both together.
            stream.write_all(&vec![b'x'; 500_000]).unwrap();
            thread::sleep(Duration::from_millis(100));
        }
        Answer::of(&rest_of(stream)).is_error(413, "close");
        site.stop();
    }
}

/// Sends pieces until the server resets the connection.
#[track_caller]
fn is_cut_off(mut stream: &TcpStream, piece: &[u8], pause: Duration) {
    let begun = Instant::now();
    while stream.write_all(piece).is_ok() {
        assert!(begun.elapsed() < TIMEOUT, "it is never cut off");
        thread::sleep(pause);
    }
}

#[test]
fn a_refused_client_that_sends_without_end_is_cut_off() {
    for mixin in MIXINS {
        for (flag, value, piece, pause) in [
            ("--linger-bytes", "100000", 65_536, 0),
            ("--linger-timeout", "0.3", 1, 20),
            ("--linger-timeout", "0.3", 65_536, 0),
            // It sends nothing for so long.
            ("--idle-timeout", "0.3", 1, 1000),
        ] {
            let site = Site::start(&["--mixin", mixin, flag, value]);
            let stream = site.connect();
            (&stream).write_all(UPLOAD.as_bytes()).unwrap();
            Answer::next(&stream).is_error(413, "close");
            is_cut_off(&stream, &vec![b'x'; piece], Duration::from_millis(pause));
            site.stop();
        }
    }
}

#[test]
fn a_stop_does_not_wait_for_a_refused_client() {
    for mixin in MIXINS {
        let patient = ["--idle-timeout", "60", "--linger-timeout", "60", "--stop-timeout", "60"];
        let site = Site::start(&[&["--mixin", mixin], &patient[..]].concat());
        let stream = site.connect();
        (&stream).write_all(UPLOAD.as_bytes()).unwrap();
        (&stream).write_all(b"some of it").unwrap();
        Answer::next(&stream).is_error(413, "close");
        let (server, _folder) = site.into_server();
        server.stop_by(Signal::TERM);
    }
}
