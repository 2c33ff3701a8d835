//! The files and listings of `http_files`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;

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
        site.stop();
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
    site.stop();
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
    site.stop();
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
    site.stop();
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
    site.stop();
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
    site.stop();
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
        site.stop();
    }
}
