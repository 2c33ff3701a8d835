//! `http_files` and the clients that people use: curl, nc, Python's `http.client`, a browser.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::demos::site::{Answer, HELLO, Site};
use crate::harness::{Test, tests};
use crate::support::process::run;
use crate::support::{TempDir, abstract_name};

pub(crate) const TESTS: &[Test] = tests![
    a_browser_shows_a_page_with_its_style_its_image_and_its_script: ["chromium"],
    curl_follows_the_redirect_to_a_folder: ["curl"],
    curl_is_answered_as_by_a_proxy: ["curl"],
    curl_is_not_sent_again_what_has_not_changed: ["curl"],
    curl_is_told_not_to_send_a_body: ["curl"],
    curl_is_told_why_its_upload_is_refused: ["curl"],
    curl_keeps_its_connection_as_its_version_of_http_has_it: ["curl"],
    curl_reads_files_and_pages_under_every_mixin: ["curl"],
    curl_reads_through_a_unix_socket: ["curl"],
    nc_is_answered_as_http_1_0: ["nc"],
    python_keeps_its_connection_and_reads_pipelined_answers_in_order: ["python3"],
    python_is_told_why_its_upload_is_refused: ["python3"],
];

const MIXINS: [&str; 5] = ["sequential", "threading", "forking", "prefork", "fibers"];

/// curl, without the settings and proxies of the user who runs the tests.
fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]);
    command
}

/// The answer that curl receives. It sends the path unchanged.
#[track_caller]
fn curl_answer(site: &Site, arguments: &[&str], path: &str) -> Answer {
    let mut command = curl();
    command.args(["--include", "--path-as-is", "--globoff"]).args(arguments);
    command.arg(site.url(path));
    let ended = run(command, "");
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{path}");
    Answer::of(&ended.stdout)
}

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
fn python_keeps_its_connection_and_reads_pipelined_answers_in_order() {
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        let (server, _folder) = site.into_server();
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]).args(server.host_and_port());
        let ended = run(command, "");
        assert_eq!((ended.text(), ended.stderr.as_str()), ("well\n", ""), "{mixin}");
        server.stop();
    }
}

const UPLOADS: &str = r#"
import http.client, sys
host, port = sys.argv[1], int(sys.argv[2])
piece = b"x" * 65_536
# A generator is sent in chunks.
for body, status in [(lambda: piece * 160, 413), (lambda: (piece for _ in range(160)), 405)] * 10:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("POST", "/hello.txt", body=body())
    answer = connection.getresponse()
    assert (answer.status, answer.read()[:9]) == (status, b"<!DOCTYPE"), answer.status
    connection.close()
print("well")
"#;

fn python_is_told_why_its_upload_is_refused() {
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        let (server, _folder) = site.into_server();
        let mut command = Command::new("python3");
        command.args(["-c", UPLOADS]).args(server.host_and_port());
        let ended = run(command, "");
        assert_eq!((ended.text(), ended.stderr.as_str()), ("well\n", ""), "{mixin}");
        server.stop();
    }
}

fn a_browser_shows_a_page_with_its_style_its_image_and_its_script() {
    for mixin in MIXINS {
        // A browser opens several connections, which `sequential` serves one after the other.
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
        // All its files are in the folder that the test removes.
        command.env("HOME", own.path()).env("TMPDIR", own.path());
        let ended = run(command, "");
        assert!(ended.text().contains("<p>rgb(1, 2, 3), 7 wide</p>"), "{mixin}: {ended:?}");
        site.stop();
    }
}

fn curl_reads_files_and_pages_under_every_mixin() {
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        let file = curl_answer(&site, &[], "/hello.txt");
        assert_eq!((file.status, file.text()), (200, HELLO), "{mixin}");
        let head = curl_answer(&site, &["--head"], "/hello.txt");
        assert_eq!((head.status, head.text()), (200, ""), "{mixin}");
        assert_eq!(head.field("content-length"), Some("14"));
        let part = curl_answer(&site, &["--range", "7-11"], "/hello.txt");
        assert_eq!((part.status, part.text()), (206, "world"), "{mixin}");
        assert_eq!(curl_answer(&site, &[], "/page/").text(), "<p>A page", "{mixin}");
        curl_answer(&site, &[], "/nothing.txt").is_error(404, "keep-alive");
        let refused = curl_answer(&site, &["--data", "a=b"], "/hello.txt");
        refused.is_error(405, "keep-alive");
        assert_eq!(refused.field("allow"), Some("GET, HEAD"));
        site.stop();
    }
}

fn curl_reads_through_a_unix_socket() {
    let name = abstract_name();
    let site = Site::listen(&format!("unix:{name}"), &[]);
    let mut command = curl();
    command.args(["--abstract-unix-socket", &name[1..], "http://localhost/hello.txt"]);
    assert_eq!(run(command, "").text(), HELLO);
    site.stop();
}

fn curl_keeps_its_connection_as_its_version_of_http_has_it() {
    let site = Site::start(&[]);
    let connects = |arguments: &[&str]| {
        let mut command = curl();
        command.args(["--write-out", "%{num_connects} ", "--output", "/dev/null"]).args(arguments);
        command.args(["--output", "/dev/null", "--output", "/dev/null"]);
        command.args(["/hello.txt", "/nothing", "/sub/"].map(|path| site.url(path)));
        run(command, "").text().to_owned()
    };
    assert_eq!(connects(&[]), "1 0 0 ");
    assert_eq!(connects(&["--header", "Connection: close"]), "1 1 1 ");
    assert_eq!(connects(&["--http1.0"]), "1 1 1 ");
    assert_eq!(connects(&["--http1.0", "--header", "Connection: Keep-Alive"]), "1 0 0 ");
    site.stop();
}

fn curl_follows_the_redirect_to_a_folder() {
    let site = Site::start(&[]);
    let mut command = curl();
    command.args(["--location", &site.url("/sub")]);
    assert!(run(command, "").text().contains("<a href=\"inner.txt\">inner.txt</a>"));
    site.stop();
}

fn curl_is_not_sent_again_what_has_not_changed() {
    let site = Site::start(&[]);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = File::options().append(true).open(site.path("hello.txt")).unwrap();
    file.set_modified(modified).unwrap();
    for (since, status, text) in
        [("Sun, 09 Sep 2001 01:46:39 GMT", 200, HELLO), ("Sun, 09 Sep 2001 01:46:40 GMT", 304, "")]
    {
        let answer = curl_answer(&site, &["--time-cond", since], "/hello.txt");
        assert_eq!((answer.status, answer.text()), (status, text), "{since}");
    }
    site.stop();
}

fn curl_is_told_not_to_send_a_body() {
    let site = Site::start(&[]);
    let body = site.path("hello.txt").display().to_string();
    let upload = ["--upload-file", &body, "--header", "Expect: 100-continue"];
    curl_answer(&site, &upload, "/x").is_error(405, "close");
    site.stop();
}

fn curl_is_told_why_its_upload_is_refused() {
    for mixin in MIXINS {
        let site = Site::start(&["--mixin", mixin]);
        site.write_zeros("zeros", 100_000_000);
        let body = site.path("zeros").display().to_string();
        for (field, status) in
            [("X: y", 413), ("Expect:", 413), ("Transfer-Encoding: chunked", 405)]
        {
            let upload = ["--upload-file", &body, "--header", field];
            curl_answer(&site, &upload, "/x").is_error(status, "close");
        }
        site.stop();
    }
}

fn curl_is_answered_as_by_a_proxy() {
    let site = Site::start(&[]);
    let mut command = curl();
    command.args(["--noproxy", "", "--proxy", &site.url(""), "http://elsewhere.test/hello.txt"]);
    assert_eq!(run(command, "").text(), HELLO);
    site.stop();
}

fn nc_is_answered_as_http_1_0() {
    let site = Site::start(&[]);
    let (server, _folder) = site.into_server();
    let mut command = Command::new("nc");
    command.arg("-N").args(server.host_and_port());
    let ended = run(command, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    assert!(ended.text().starts_with("HTTP/1.1 200 OK\r\n"), "{ended:?}");
    server.stop();
}
