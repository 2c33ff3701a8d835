//! Files that `http_files` cannot read, whose size is not what the system says, or whose charset is
//! not known.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::demos::demo;
use crate::demos::site::{Answer, Site};
use crate::support::process::run;
use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};

/// A site whose server may not read what has no permissions, although root may.
fn unprivileged_site() -> Site {
    const NOBODY: u32 = 65_534;
    // Opened here, since the user may not have access to the folder that it is in.
    let program = File::open(demo("http_files").get_program()).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.args(["--listen", "127.0.0.1:0"]).env_remove("RUST_LOG");
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Site::spawn(command)
}

#[track_caller]
fn set_mode(site: &Site, name: &str, mode: u32) {
    std::fs::set_permissions(site.path(name), Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_cannot_be_read_is_told_403() {
    let site = unprivileged_site();
    set_mode(&site, "page/index.html", 0o000);
    set_mode(&site, "hello.txt", 0o000);
    for path in ["/page/", "/page/index.html", "/hello.txt"] {
        site.get(path).is_error(403, "keep-alive");
    }
    set_mode(&site, "page/index.html", 0o444);
    assert_eq!(site.get("/page/").text(), "<p>A page");
    // Neither without permission to list the folder, nor without permission to search it.
    for (mode, path) in [(0o000, "/page/"), (0o444, "/page/"), (0o444, "/page/index.html")] {
        set_mode(&site, "page", mode);
        site.get(path).is_error(403, "keep-alive");
    }
    set_mode(&site, "page", 0o755);
    site.stop();
}

#[test]
fn an_index_that_is_not_there_is_replaced_by_a_listing() {
    let site = Site::start(&[]);
    let index = site.path("page/index.html");
    std::fs::remove_file(&index).unwrap();
    assert!(site.get("/page/").text().contains("<ul>"));
    symlink("nowhere", &index).unwrap();
    assert!(site.get("/page/").text().contains("<ul>"));
    std::fs::remove_file(&index).unwrap();
    std::fs::create_dir(&index).unwrap();
    assert!(site.get("/page/").text().contains("index.html/"));
    site.stop();
}

/// Leaves a process this many descriptors to open.
fn leave_descriptors(pid: Pid, number: usize) {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let used: Vec<u64> = entries
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let unused = (0..).filter(|descriptor| !used.contains(descriptor));
    let limit = Rlimit { current: unused.clone().nth(number), ..getrlimit(Resource::Nofile) };
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
}

#[test]
fn with_no_descriptor_left_it_is_told_503() {
    use std::io::Write;
    let site = Site::start(&[]);
    let stream = site.connect();
    let get = |path: &str| {
        write!(&stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        Answer::next(&stream)
    };
    assert_eq!(get("/page/").text(), "<p>A page");
    for (number, path, status) in [
        (0, "/hello.txt", 503),
        (0, "/page/", 503),
        (1, "/hello.txt", 200),
        // One for the folder, one for its index.
        (1, "/page/", 503),
        (1, "/sub/", 503),
        (2, "/page/", 200),
        (2, "/sub/", 200),
    ] {
        leave_descriptors(site.pid(), number);
        assert_eq!(get(path).status, status, "{path} with {number}");
    }
    drop(stream);
    site.stop();
}

/// A file of `/proc` that is longer than a buffer, and does not change: the environment of a
/// server, and the path of it.
fn environment_of(site: &Site) -> (Vec<u8>, String) {
    let path = format!("/{}/environ", site.pid().as_raw_nonzero());
    let environment = std::fs::read(format!("/proc{path}")).unwrap();
    assert!(environment.len() > 200_000);
    (environment, path)
}

fn proc_site() -> Site {
    let mut command = demo("http_files");
    command.args(["--listen", "127.0.0.1:0", "--root", "/proc"]);
    command.env("LONG", "x".repeat(100_000)).env("LONGER", "y".repeat(120_000));
    Site::spawn(command)
}

#[test]
fn a_file_whose_size_is_not_what_the_system_says_is_sent_whole() {
    let site = proc_site();
    for path in ["/version", "/filesystems"] {
        let content = std::fs::read(format!("/proc{path}")).unwrap();
        assert!(!content.is_empty());
        let answer = site.get(path);
        assert_eq!((answer.status, &answer.body), (200, &content), "{path}");
        assert_eq!(answer.field("content-length"), Some(&*content.len().to_string()));
        // The time is no more true than the size.
        assert_eq!(answer.field("last-modified"), None);
        let range = site.ask("GET", path, &["Range: bytes=1-5"]);
        assert_eq!((range.status, &range.body[..]), (206, &content[1..6]), "{path}");
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(site.send(head).field("content-length"), answer.field("content-length"));
    }
    site.stop();
    let site = Site::start(&["--root", "/sys/devices/system/cpu"]);
    let content = std::fs::read("/sys/devices/system/cpu/possible").unwrap();
    let answer = site.get("/possible");
    assert_eq!((answer.status, answer.body), (200, content));
    site.stop();
}

#[test]
fn a_file_of_unknown_length_is_sent_in_chunks_or_up_to_the_end() {
    let site = proc_site();
    let (environment, path) = environment_of(&site);
    let mut command = demo("http_get");
    command.arg(site.url(&path)).envs([("NO_PROXY", "*"), ("no_proxy", "*")]);
    let got = run(command, "");
    assert!(got.status == Some(0) && got.stdout == environment, "{}", got.stderr);

    let request =
        format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\nRange: bytes=0-4\r\n\r\n");
    let answer = site.send(request);
    assert!((answer.status, &answer.body) == (200, &environment), "{}", answer.head);
    for name in ["content-length", "transfer-encoding", "accept-ranges", "last-modified"] {
        assert_eq!(answer.field(name), None, "{}", answer.head);
    }
    assert_eq!(answer.field("connection"), Some("close"));

    let next = "GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for method in ["GET", "HEAD"] {
        let answer = site.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n{next}"));
        assert_eq!((answer.status, answer.field("transfer-encoding")), (200, Some("chunked")));
        assert_eq!(answer.field("content-length"), None);
        let version = std::fs::read("/proc/version").unwrap();
        assert!(answer.body.ends_with(&version), "{method}: the connection is closed");
        let is_empty = answer.body.len() < environment.len();
        assert_eq!(is_empty, method == "HEAD");
    }
    site.stop();
}

#[test]
fn what_fails_to_be_read_is_told_so_before_anything_is_sent() {
    let site = Site::start(&["--root", "/proc"]);
    // EIO: nothing is mapped at the address 0.
    site.get(&format!("/{}/mem", site.pid().as_raw_nonzero())).is_error(500, "keep-alive");
    let (server, _folder) = site.into_server();
    assert!(server.error_line().contains("mem"));
    server.stop();
}

#[test]
fn a_charset_is_named_only_where_it_is_known() {
    let site = Site::start(&[]);
    let html = "text/html";
    let (utf8, html_utf8) = ("text/plain; charset=utf-8", "text/html; charset=utf-8");
    let long = "\u{e4}".repeat(100_000);
    for (name, content, media_type) in [
        ("a.txt", &b"plain"[..], utf8),
        ("b.txt", "\u{e4}\u{1f600}".as_bytes(), utf8),
        ("c.txt", b"\xe4", "text/plain"),
        ("d.txt", b"a\0b\0", "text/plain"),
        ("e.txt", b"\x1b$B$3\x1b(B", "text/plain"),
        ("f.txt", long.as_bytes(), "text/plain"),
        ("g.txt", b"about charset=iso-8859-1", utf8),
        ("a.html", b"<p>page", html_utf8),
        ("b.html", "<p>\u{e4}".as_bytes(), html_utf8),
        ("c.html", b"<p>\xe4", html),
        ("d.html", b"<meta charset=iso-8859-1><p>\xe4", html),
        ("e.html", b"<META CharSet=utf-8><p>", html),
        (
            "f.html",
            b"<meta http-equiv=content-type content='text/html; charset=iso-2022-jp'>",
            html,
        ),
        ("a.css", b"@charset \"iso-8859-1\";", "text/css"),
        ("b.css", b"p { color: red }", "text/css; charset=utf-8"),
        ("a.xml", b"<?xml version='1.0' encoding='iso-8859-1'?><a/>", "text/xml"),
        ("a.png", b"image", "image/png"),
    ] {
        site.write(name, content);
        for (method, fields) in [("GET", &[][..]), ("GET", &["Range: bytes=0-2"])] {
            let answer = site.ask(method, &format!("/{name}"), fields);
            assert_eq!(answer.field("content-type"), Some(media_type), "{name} {fields:?}");
        }
    }
    // What the server writes itself.
    for path in ["/", "/nothing"] {
        assert_eq!(site.get(path).field("content-type"), Some(html_utf8));
    }
    site.stop();
}
