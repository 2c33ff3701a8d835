//! `http_get`, and downloads from `http_files` that are large, slow, or interrupted by a stop.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError::Timeout};
use std::thread;
use std::time::Duration;

use crate::demos::demo;
use crate::demos::site::{Answer, HELLO, Site};
use crate::support::clients::rest_of;
use crate::support::process::{Ended, run};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

const MIXINS: [&str; 5] = ["sequential", "threading", "forking", "prefork", "fibers"];

fn http_get_command(arguments: &[&str]) -> Command {
    let mut command = demo("http_get");
    // The environment may name a proxy.
    command.args(arguments).envs([("NO_PROXY", "*"), ("no_proxy", "*")]);
    command
}

#[track_caller]
fn http_get(arguments: &[&str]) -> Ended {
    run(http_get_command(arguments), "")
}

#[test]
fn http_get_writes_the_body_apart_from_the_head() {
    let site = Site::start(&[]);
    let url = site.url("/hello.txt");
    let got = http_get(&[&url]);
    assert_eq!((got.status, got.text()), (Some(0), HELLO));
    assert!(got.stderr.starts_with("HTTP/1.1 200 OK\n"), "{}", got.stderr);
    assert!(got.stderr.contains("\ncontent-length: 14\n"), "{}", got.stderr);

    let got = http_get(&["--range", "-7", &url]);
    assert_eq!((got.status, got.text()), (Some(0), "world!\n"));
    assert!(got.stderr.contains("\ncontent-range: bytes 7-13/14\n"), "{}", got.stderr);

    let got = http_get(&["--head", &url]);
    assert_eq!((got.status, got.text()), (Some(0), ""));
    assert!(got.stderr.contains("\ncontent-length: 14\n"), "{}", got.stderr);

    let got = http_get(&[&site.url("/page")]);
    assert_eq!((got.status, got.text()), (Some(0), "<p>A page"));

    let got = http_get(&[&site.url("/nothing")]);
    assert_eq!(got.status, Some(1));
    assert!(got.text().contains("<h1>404 Not Found</h1>"), "{got:?}");
    assert!(got.stderr.ends_with(": 404 Not Found\n"), "{}", got.stderr);

    for arguments in [&[][..], &["--range"], &["--nonsense", &url], &[&url, &url]] {
        assert_eq!(http_get(arguments).status, Some(2), "{arguments:?}");
    }
    site.stop();
}

#[test]
fn a_file_larger_than_all_memory_goes_through_both() {
    const LENGTH: u64 = 1 << 28;
    // Of address space: less than the length of the file.
    const MEMORY: u64 = 200_000 << 10;
    let limit = |pid| {
        let limit = Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) };
        prlimit(Some(pid), Resource::As, limit).unwrap();
    };
    let site = Site::start(&[]);
    site.write_zeros("zeros", LENGTH);
    limit(site.pid());
    let mut command = http_get_command(&[&site.url("/zeros")]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    limit(Pid::from_child(&client));
    let length = io::copy(&mut client.stdout.take().unwrap(), &mut io::sink()).unwrap();
    assert_eq!((length, client.wait().unwrap().code()), (LENGTH, Some(0)));
    site.stop();
}

#[test]
fn a_stop_lets_a_download_come_to_its_end() {
    const LENGTH: usize = 64 << 20;
    let site = Site::start(&[]);
    site.write_zeros("zeros", LENGTH as u64);
    let mut stream = site.connect();
    stream.write_all(b"GET /zeros HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut begin = [0];
    stream.read_exact(&mut begin).unwrap();
    let (server, _folder) = site.into_server();
    server.signal(Signal::TERM);
    let answer = Answer::of(&[&begin[..], &rest_of(stream)].concat());
    assert_eq!((answer.status, answer.body.len()), (200, LENGTH));
    let ended = server.wait();
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_client_that_reads_too_slowly_is_cut_off() {
    const LENGTH: u64 = 64 << 20;
    for mixin in MIXINS {
        let site =
            Site::start(&["--mixin", mixin, "--head-timeout", "0.3", "--min-rate", "1000000"]);
        site.write_zeros("zeros", LENGTH);
        let stream = site.connect();
        (&stream).write_all(b"GET /zeros HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let (server, _folder) = site.into_server();
        thread::scope(|scope| {
            let (over, is_over) = mpsc::channel::<()>();
            let mut stream = &stream;
            // The client keeps reading, so that only its rate is too low.
            scope.spawn(move || {
                while is_over.recv_timeout(Duration::from_millis(10)) == Err(Timeout) {
                    stream.read_exact(&mut [0; 100]).unwrap();
                }
            });
            let line = server.error_line();
            assert!(line.contains("slow"), "{mixin}: {line}");
            drop(over);
        });
        assert!((rest_of(&stream).len() as u64) < LENGTH);
        server.stop();
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_ends_its_connection_and_no_other() {
    // More than the socket buffers hold.
    const LENGTH: u64 = 64 << 20;
    let site = Site::start(&[]);
    site.write_zeros("zeros", LENGTH);
    let stream = site.connect();
    (&stream).write_all(b"GET /zeros HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut begin = [0];
    (&stream).read_exact(&mut begin).unwrap();
    site.write("zeros", "short");
    let answer = Answer::of(&[&begin[..], &rest_of(&stream)].concat());
    assert_eq!(answer.field("content-length"), Some(&*LENGTH.to_string()));
    assert!((answer.body.len() as u64) < LENGTH);

    assert_eq!(site.get("/zeros").text(), "short");
    let (server, _folder) = site.into_server();
    assert!(server.error_line().contains("has shrunk"));
    server.stop();
}
