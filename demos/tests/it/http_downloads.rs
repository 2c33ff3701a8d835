//! The example `http_files` as clients other than curl meet it: Python, a browser, the example
//! `http_get`, and some that take their time.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError::Timeout};
use std::thread;
use std::time::Duration;

use crate::common::{TempDir, bounded, rest_of};
use crate::demos::demo;
use crate::demos::site::{Answer, HELLO, Site};
use crate::process::{Ended, Server, run};
use rustix::process::Signal;

const MIXINS: [&str; 4] = ["sequential", "threading", "forking", "fibers"];

const PYTHON: &str = r#"
import http.client, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
BODIES = {"/hello.txt": b"Hello, world!\n", "/sub/inner.txt": b"inside\n", "/empty.txt": b""}

def check(path, answer):
    body = answer.read()
    assert answer.status == (200 if path in BODIES else 404), (path, answer.status)
    assert BODIES.get(path, body) == body, (path, body)

connection = http.client.HTTPConnection(host, port, timeout=30)
connection.connect()
first = connection.sock
for path in ["/hello.txt", "/nothing", "/sub/inner.txt", "/empty.txt"]:
    connection.request("GET", path)
    check(path, connection.getresponse())
connection.request("HEAD", "/hello.txt")
answer = connection.getresponse()
assert (answer.status, answer.read(), answer.length) == (200, b"", 0), answer.status
# A short body is dropped, and what follows it is the next request.
connection.request("GET", "/hello.txt", body=b"x" * 60_000)
check("/hello.txt", connection.getresponse())
assert connection.sock is first, "another connection"
connection.close()

def request(path, more=""):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()

with socket.create_connection((host, port), timeout=30) as pipeline:
    paths = ["/hello.txt", "/nothing", "/sub/inner.txt", "/empty.txt"] * 50
    last = request("/hello.txt", "Connection: close\r\n")
    pipeline.sendall(b"".join(map(request, paths)) + last)
    for path in paths + ["/hello.txt"]:
        answer = http.client.HTTPResponse(pipeline, method="GET")
        # Without a buffer, it takes nothing that belongs to the next one.
        answer.fp = pipeline.makefile("rb", buffering=0)
        answer.begin()
        check(path, answer)
    assert pipeline.recv(1) == b"", "not closed"
print("well")
"#;

#[test]
fn python_keeps_its_connection_and_reads_pipelined_answers_in_order() {
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        let (server, _folder) = site.into_server();
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]).args(server.host_and_port());
        let ended = run(command, "");
        assert_eq!((ended.text(), ended.stderr.as_str()), ("well\n", ""), "{mixin}");
        server.stops();
    }
}

#[track_caller]
fn http_get(arguments: &[&str]) -> Ended {
    let mut command = demo("http_get");
    command.args(arguments);
    // Whatever proxy whoever runs this may have.
    command.envs([("NO_PROXY", "*"), ("no_proxy", "*")]);
    run(command, "")
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
    site.stops();
}

#[test]
fn a_file_larger_than_all_memory_goes_through_both() {
    const LENGTH: u64 = 1 << 28;
    let limited = |program: Command, then: &str| {
        let mut command = Command::new("bash");
        // In KiB: less than the file has.
        let script = format!("ulimit -v 200000; {then}");
        command.args(["-c", &script, "bash"]).arg(program.get_program());
        command
    };
    let root = TempDir::new();
    std::fs::File::create(root.join("zeros")).unwrap().set_len(LENGTH).unwrap();
    let mut command = limited(demo("http_files"), r#"exec "$@""#);
    command.args(["--listen", "127.0.0.1:0", "--root"]).arg(root.path());
    let server = Server::spawn(command);

    let count = r#"set -o pipefail; "$@" 2> /dev/null | wc -c"#;
    let mut command = limited(demo("http_get"), count);
    command.arg(format!("http://{}/zeros", server.address()));
    command.envs([("NO_PROXY", "*"), ("no_proxy", "*")]);
    let ended = run(command, "");
    assert_eq!((ended.status, ended.text().trim()), (Some(0), &*LENGTH.to_string()));
    server.stops();
}

#[test]
fn a_browser_shows_a_page_with_its_style_its_image_and_its_script() {
    let _bound = bounded();
    for mixin in MIXINS {
        // A browser opens several connections, which is a long wait where they take turns.
        let site = Site::start(&["--mixin", mixin, "--idle-timeout", "0.3"]);
        site.write(
            "page/index.html",
            "<!DOCTYPE html><link rel=stylesheet href=style.css><img src=../image.svg>\
             <p>Nothing yet</p><script src=/script.js></script>",
        );
        site.write("page/style.css", "p { color: rgb(1, 2, 3) }");
        site.write(
            "image.svg",
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="7" height="5"/>"#,
        );
        site.write(
            "script.js",
            "addEventListener('load', () => {
                const text = document.querySelector('p');
                const width = document.querySelector('img').naturalWidth;
                text.textContent = `${getComputedStyle(text).color}, ${width} wide`;
            })",
        );
        let own = TempDir::new();
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
        command.args(["--disable-component-update", "--no-proxy-server", "--dump-dom"]);
        command.arg(format!("--user-data-dir={}", own.path().display())).arg(site.url("/page"));
        // What else it leaves, it leaves there too.
        command.env("HOME", own.path()).env("TMPDIR", own.path());
        let ended = run(command, "");
        assert!(ended.text().contains("<p>rgb(1, 2, 3), 7 wide</p>"), "{mixin}: {ended:?}");
        site.stops();
    }
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
    let ended = server.ends();
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn who_takes_its_answer_too_slowly_is_cut_off() {
    const LENGTH: u64 = 64 << 20;
    for mixin in MIXINS {
        let site =
            Site::start(&["--mixin", mixin, "--head-deadline", "0.3", "--min-rate", "1000000"]);
        site.write_zeros("zeros", LENGTH);
        let stream = site.connect();
        (&stream).write_all(b"GET /zeros HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let (server, _folder) = site.into_server();
        thread::scope(|scope| {
            let (over, is_over) = mpsc::channel::<()>();
            let mut stream = &stream;
            // It takes something each time that it is looked at: only its rate is low.
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
        server.stops();
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_ends_its_connection_and_no_other() {
    // More than the system takes while nobody reads.
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

    assert_eq!(site.curl(&[], "/zeros").text(), "short");
    let (server, _folder) = site.into_server();
    assert!(server.error_line().contains("has shrunk"));
    server.stops();
}
