//! The files, listings, ranges and conditions of `http_files`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use crate::demos::site::{Answer, HELLO, Site};
use rustix::fs::{CWD, FileType, Mode, mknodat};

#[test]
fn files_and_pages_are_served_under_every_mixin() {
    for mixin in ["sequential", "threading", "forking", "fibers"] {
        let site = Site::start(&["--mixin", mixin]);
        let file = site.get("/hello.txt");
        assert_eq!((file.status, file.text()), (200, HELLO), "{mixin}");
        assert_eq!(file.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(file.field("content-length"), Some("14"));
        assert!(httpdate::parse_http_date(file.field("date").unwrap()).is_ok(), "{file:?}");
        assert_eq!(site.get("/sub/inner.txt?a=b").text(), "inside\n", "{mixin}");
        assert_eq!(site.get("/empty.txt").text(), "", "{mixin}");
        let page = site.get("/page/");
        assert_eq!((page.status, page.text()), (200, "<p>A page"), "{mixin}");
        assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
        let listing = site.get("/");
        assert!(listing.text().contains("<a href=\"hello.txt\">hello.txt</a>"), "{listing:?}");
        site.get("/nothing.txt").is_error(404, "keep-alive");
        site.get("/hello.txt/").is_error(404, "keep-alive");
        site.stops();
    }
}

#[test]
fn a_folder_without_its_slash_is_redirected_to_where_its_links_work() {
    let site = Site::start(&[]);
    for (path, place) in [("/sub", "/sub/"), ("/sub?a=/b", "/sub/?a=/b"), ("/s%75b", "/s%75b/")] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.field("location")), (301, Some(place)), "{path}");
    }
    assert!(site.get("/sub/").text().contains("<a href=\"inner.txt\">inner.txt</a>"));
    // A redirect to `//sub/` would lead to another host.
    for path in ["//sub", "///sub", "http://a//sub"] {
        assert_eq!(site.get(path).field("location"), Some("/sub/"), "{path}");
    }
    // A character of the query that is not allowed in a URI is encoded.
    let answer = site.get("/sub?a=%zz|\"<#>\u{e4}");
    let place = Some("/sub/?a=%zz%7C%22%3C%23%3E%C3%A4");
    assert_eq!((answer.status, answer.field("location")), (301, place));
    site.stops();
}

#[test]
fn several_slashes_are_as_one() {
    let site = Site::start(&[]);
    for (path, text) in [
        ("//hello.txt", HELLO),
        ("/sub//inner.txt", "inside\n"),
        ("///sub///inner.txt", "inside\n"),
        ("/page//", "<p>A page"),
    ] {
        let answer = site.get(path);
        assert_eq!((answer.status, answer.text()), (200, text), "{path}");
    }
    assert!(site.get("//").text().contains("<h1>/</h1>\n<ul>\n<li><a href=\"empty.txt\">"));
    assert!(site.get("//sub//").text().contains("<h1>/sub/</h1>"));
    for path in ["//hello.txt//", "/sub//../hello.txt", "//."] {
        site.get(path).is_error(404, "keep-alive");
    }
    site.stops();
}

#[test]
fn a_query_may_have_any_character() {
    let site = Site::start(&[]);
    for character in "|{}^\"<>`\\#[]@?%\u{e4}\u{1f600}".chars() {
        for target in ["/hello.txt?", "/hello.txt?a=", "http://a/hello.txt?"] {
            let target = format!("{target}{character}b");
            let answer = site.get(&target);
            assert_eq!((answer.status, answer.text()), (200, HELLO), "{target}");
        }
        if !"[]@?".contains(character) {
            let path = format!("/hello{character}.txt");
            assert_eq!(site.get(&path).status, 400, "{path}");
        }
    }
    site.stops();
}

#[test]
fn a_listing_is_escaped_and_each_of_its_links_leads_to_its_file() {
    let names: [&[u8]; 10] = [
        b"plain.txt",
        b"<script>alert(1)<",
        b"a & \"b\" 'c'.txt",
        b"javascript:alert(1)",
        b"100%41.txt",
        b"what?#now",
        b"..hidden",
        b"back\\slash",
        "\u{e4}\u{1f600}".as_bytes(),
        b"not \xff utf-8",
    ];
    let site = Site::start(&[]);
    for name in names {
        let path = site.path("sub").join(OsStr::from_bytes(name));
        std::fs::write(path, name).unwrap();
    }
    std::fs::create_dir(site.path("sub/folder")).unwrap();
    mknodat(CWD, site.path("sub/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();

    let listing = site.get("/sub/");
    let text = listing.text();
    assert!(text.contains(">&lt;script&gt;alert(1)&lt;</a>"), "{text}");
    assert!(text.contains("<a href=\"folder/\">folder/</a>"), "{text}");
    for never in ["<script", "\"javascript:", "fifo"] {
        assert!(!text.contains(never), "{never}: {text}");
    }
    let links = text.split("<a href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let mut found: Vec<Vec<u8>> = links
        .filter(|link| !link.ends_with('/') && *link != "inner.txt")
        .map(|link| site.get(&format!("/sub/{link}")).body)
        .collect();
    found.sort();
    let mut expected = names.map(<[u8]>::to_vec);
    expected.sort();
    assert_eq!(found, expected, "{text}");
    site.stops();
}

#[test]
fn a_range_is_answered_with_that_part_of_the_file() {
    let site = Site::start(&[]);
    for (range, part, place) in [
        ("0-4", "Hello", "bytes 0-4/14"),
        ("7-7", "w", "bytes 7-7/14"),
        ("7-", "world!\n", "bytes 7-13/14"),
        ("-2", "!\n", "bytes 12-13/14"),
        ("-99", HELLO, "bytes 0-13/14"),
        ("12-99999999999999999999999", "!\n", "bytes 12-13/14"),
    ] {
        let answer = site.ask("GET", "/hello.txt", &[&format!("Range: bytes={range}")]);
        assert_eq!((answer.status, answer.text()), (206, part), "{range}");
        assert_eq!(answer.field("content-range"), Some(place));
    }
    for range in ["14-", "99-100", "-0", "99999999999999999999999-"] {
        let answer = site.ask("GET", "/hello.txt", &[&format!("Range: bytes={range}")]);
        answer.is_error(416, "keep-alive");
        assert_eq!(answer.field("content-range"), Some("bytes */14"), "{range}");
    }
    // Several or invalid ranges are answered with the whole file.
    for field in ["bytes=0-1,3-4", "bytes=4-1", "bytes=-", "bytes=a-b", "bytes=+1-2", "lines=1-2"] {
        let answer = site.ask("GET", "/hello.txt", &[&format!("Range: {field}")]);
        assert_eq!((answer.status, answer.text()), (200, HELLO), "{field}");
        assert_eq!(answer.field("content-range"), None);
    }
    let only_if = "If-Range: Tue, 01 Jan 2030 00:00:00 GMT";
    let answer = site.ask("GET", "/hello.txt", &["Range: bytes=0-4", only_if]);
    assert_eq!((answer.status, answer.text()), (200, HELLO));
    let head =
        "HEAD /hello.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=0-4\r\nConnection: close\r\n\r\n";
    let answer = site.send(head);
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("14")));
    assert_eq!(site.ask("GET", "/empty.txt", &["Range: bytes=-5"]).status, 200);
    site.ask("GET", "/empty.txt", &["Range: bytes=0-"]).is_error(416, "keep-alive");
    site.stops();
}

#[test]
fn a_file_that_has_not_changed_is_not_sent_again() {
    let site = Site::start(&[]);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_700);
    let file = std::fs::File::options().append(true).open(site.path("hello.txt")).unwrap();
    file.set_modified(modified).unwrap();
    assert_eq!(
        site.get("/hello.txt").field("last-modified"),
        Some("Sun, 09 Sep 2001 01:46:40 GMT")
    );
    for (since, status) in [
        ("Sun, 09 Sep 2001 01:46:39 GMT", 200),
        ("Sun, 09 Sep 2001 01:46:40 GMT", 304),
        ("Sunday, 09-Sep-01 01:46:41 GMT", 304),
    ] {
        let answer = site.ask("GET", "/hello.txt", &[&format!("If-Modified-Since: {since}")]);
        let text = if status == 304 { "" } else { HELLO };
        assert_eq!((answer.status, answer.text()), (status, text), "{since}");
    }
    for field in ["If-Modified-Since: never", "If-None-Match: \"tag\""] {
        let since = "If-Modified-Since: Sun, 09 Sep 2001 01:46:41 GMT";
        assert_eq!(site.ask("GET", "/hello.txt", &[since, field]).status, 200, "{field}");
    }
    // `Last-Modified` is not later than `Date`.
    file.set_modified(SystemTime::now() + Duration::from_secs(1_000_000)).unwrap();
    let answer = site.get("/hello.txt");
    let of = |name| httpdate::parse_http_date(answer.field(name).unwrap()).unwrap();
    assert!(of("last-modified") <= of("date"), "{answer:?}");
    // A time that HTTP cannot express is left out.
    file.set_modified(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).unwrap();
    let answer = site.get("/hello.txt");
    assert_eq!((answer.status, answer.field("last-modified")), (200, None));
    site.stops();
}

#[test]
fn a_part_of_a_file_that_has_changed_is_not_sent() {
    let site = Site::start(&[]);
    let file = std::fs::File::options().append(true).open(site.path("hello.txt")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    let before = "If-Unmodified-Since: Sun, 09 Sep 2001 01:46:39 GMT";
    let then = "If-Unmodified-Since: Sun, 09 Sep 2001 01:46:40 GMT";
    for (fields, status) in [
        (&[before][..], 412),
        (&[then], 206),
        (&["If-Unmodified-Since: never"], 206),
        (&["If-Match: \"tag\""], 412),
        (&["If-Match: \"tag\"", then], 412),
        // `*` matches any file, and beside entity tags the time is ignored.
        (&["If-Match: *", before], 206),
    ] {
        let answer = site.ask("GET", "/hello.txt", &[&["Range: bytes=7-11"], fields].concat());
        match status {
            206 => assert_eq!((answer.status, answer.text()), (206, "world"), "{fields:?}"),
            _ => answer.is_error(status, "keep-alive"),
        }
    }
    site.ask("GET", "/nothing", &[before]).is_error(404, "keep-alive");
    site.stops();
}

#[test]
fn a_head_is_answered_by_the_head_alone() {
    let site = Site::start(&[]);
    let head = |path: &str| format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n");
    for (path, status) in [("/hello.txt", 200), ("/", 200), ("/sub", 301), ("/nothing", 404)] {
        let answer = site.send(head(path) + "\r\n" + &head(path) + "Connection: close\r\n\r\n");
        let next = Answer::of(&answer.body);
        assert_eq!((answer.status, next.status), (status, status), "{path}");
        assert_eq!(next.text(), "", "{path}");
        assert!(next.field("content-length").is_some_and(|length| length != "0"), "{next:?}");
    }
    site.stops();
}

#[test]
fn neither_a_fifo_nor_a_socket_is_served_or_blocks_the_server() {
    for mixin in ["sequential", "fibers"] {
        let site = Site::start(&["--mixin", mixin]);
        mknodat(CWD, site.path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _listener = UnixListener::bind(site.path("socket")).unwrap();
        for path in ["/fifo", "/socket", "/fifo/", "/socket/"] {
            site.get(path).is_error(404, "keep-alive");
        }
        assert_eq!(site.get("/hello.txt").text(), HELLO);
        site.stops();
    }
}
