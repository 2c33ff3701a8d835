//! The ranges and conditions of `http_files`.

use std::time::{Duration, SystemTime};

use crate::demos::site::{HELLO, Site};

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
    let head =
        "HEAD /hello.txt HTTP/1.1\r\nHost: a\r\nRange: bytes=0-4\r\nConnection: close\r\n\r\n";
    let answer = site.send(head);
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("14")));
    // An empty file has no part that `Content-Range` could express.
    for range in ["0-", "0-0", "5-", "-5", "-0"] {
        let answer = site.ask("GET", "/empty.txt", &[&format!("Range: bytes={range}")]);
        assert_eq!((answer.status, answer.text()), (200, ""), "{range}");
        assert_eq!(answer.field("content-range"), None);
    }
    site.stop();
}

#[test]
fn a_range_is_answered_if_its_date_proves_that_the_file_is_the_same() {
    let site = Site::start(&[]);
    let part = |fields: &[&str]| {
        let answer = site.ask("GET", "/hello.txt", &[&["Range: bytes=7-11"], fields].concat());
        match answer.status {
            200 => assert_eq!(answer.text(), HELLO, "{fields:?}"),
            _ => assert_eq!((answer.status, answer.text()), (206, "world"), "{fields:?}"),
        }
        answer.status == 206
    };
    let file = std::fs::File::options().append(true).open(site.path("hello.txt")).unwrap();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_700);
    file.set_modified(modified).unwrap();
    assert!(part(&[]));
    for same in
        ["If-Range: Sun, 09 Sep 2001 01:46:40 GMT", "If-Range: Sunday, 09-Sep-01 01:46:40 GMT"]
    {
        assert!(part(&[same]), "{same}");
        assert!(!part(&[same, same]), "{same}");
        let tag = "If-Range: \"tag\"";
        assert!(!part(&[same, tag]), "{same}");
    }
    for other in [
        "Sun, 09 Sep 2001 01:46:39 GMT",
        "Sun, 09 Sep 2001 01:46:41 GMT",
        "Tue, 01 Jan 2030 00:00:00 GMT",
        "never",
        "\"tag\"",
        "W/\"tag\"",
        "*",
    ] {
        assert!(!part(&[&format!("If-Range: {other}")]), "{other}");
    }
    // A file can change twice in the second that a date names, or again in the second that is now.
    for (age, is_proof) in [(0, false), (3 * 3600, true)] {
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        let answer = site.get("/hello.txt");
        let date = answer.field("last-modified").unwrap();
        assert_eq!(part(&[&format!("If-Range: {date}")]), is_proof, "{age} s");
    }
    // The date is the server's own, since the file's is in the future.
    file.set_modified(SystemTime::now() + Duration::from_secs(1_000_000)).unwrap();
    let answer = site.get("/hello.txt");
    let date = answer.field("last-modified").unwrap();
    assert!(!part(&[&format!("If-Range: {date}")]));
    site.stop();
}

#[test]
fn any_file_or_folder_that_exists_matches_an_asterisk() {
    let site = Site::start(&[]);
    for path in ["/hello.txt", "/", "/page/", "/empty.txt"] {
        for method in ["GET", "HEAD"] {
            let answer = site.ask(method, path, &["If-None-Match: *"]);
            assert_eq!((answer.status, answer.text()), (304, ""), "{method} {path}");
            assert_eq!(answer.field("content-length"), None, "{method} {path}");
            // The time is ignored beside it.
            let before = "If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT";
            let answer = site.ask(method, path, &["If-None-Match: *", before]);
            assert_eq!(answer.status, 304, "{method} {path}");
        }
        for field in ["If-None-Match: \"*\"", "If-None-Match: \"tag\"", "If-Match: *"] {
            assert_eq!(site.ask("GET", path, &[field]).status, 200, "{field} {path}");
        }
        site.ask("GET", path, &["If-Match: \"tag\""]).is_error(412, "keep-alive");
    }
    // Conditions are for what would be answered 200.
    for (path, status) in [("/nothing", 404), ("/sub", 301)] {
        for field in ["If-None-Match: *", "If-Match: \"tag\""] {
            assert_eq!(site.ask("GET", path, &[field]).status, status, "{field} {path}");
        }
    }
    site.stop();
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
    site.stop();
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
    site.stop();
}
