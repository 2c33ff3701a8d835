//! Symbolic links beneath the root of `http_files`, and that no path leads out of it: by openat2,
//! and where the system has none.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::demos::site::{Answer, HELLO, SECRET, Site};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Sites whose servers open files in each of their ways.
fn sites() -> [Site; 2] {
    [Site::start(&[]), Site::without_openat2(Errno::NOSYS)]
}

#[test]
fn files_are_served_where_openat2_is_missing_or_forbidden() {
    for errno in [Errno::NOSYS, Errno::PERM] {
        let site = Site::without_openat2(errno);
        for (path, text) in
            [("/hello.txt", HELLO), ("/sub/inner.txt", "inside\n"), ("/page/", "<p>A page")]
        {
            let answer = site.get(path);
            assert_eq!((answer.status, answer.text()), (200, text), "{path}: {errno}");
        }
        assert_eq!(site.get("/sub").field("location"), Some("/sub/"), "{errno}");
        for folder in ["/", "/sub/"] {
            assert!(site.get(folder).text().contains("<ul>"), "{folder}: {errno}");
        }
        for path in ["/nothing", "/hello.txt/", "/hello.txt/x", "/sub/nothing"] {
            site.get(path).is_error(404, "keep-alive");
        }
        site.stop();
    }
}

#[test]
fn no_path_leads_out_of_the_root() {
    for site in sites() {
        let outside = site.path("../secret.txt").canonicalize().unwrap();
        for (link, target) in [
            ("absolute", outside.to_str().unwrap()),
            ("relative", "../secret.txt"),
            ("sub/deeper", "../../secret.txt"),
            ("sub/parent", "../.."),
            ("everything", "/"),
            ("magic", "/proc/self/root"),
            ("chain", "relative"),
            ("loop", "loop"),
            ("dangling", "nowhere"),
        ] {
            symlink(target, site.path(link)).unwrap();
        }
        // Its target is the root and more: only the whole target of a link may lead back inside.
        let root = site.path("").canonicalize().unwrap();
        let around = [
            format!("/everything{}/hello.txt", root.display()),
            format!("/sub/parent/{}/hello.txt", root.file_name().unwrap().display()),
        ];
        for path in [
            "/../secret.txt",
            "/sub/../../secret.txt",
            "/sub/../hello.txt",
            "/./hello.txt",
            "/%2e%2e/secret.txt",
            "/%2E./secret.txt",
            "/..%2fsecret.txt",
            "/sub%2f..%2f..%2fsecret.txt",
            "/sub%2finner.txt",
            "/..%5csecret.txt",
            "/%2fetc/hostname",
            "//etc/hostname",
            "//../secret.txt",
            "/..",
            "/../",
            "/%2e%2e/",
            "/hello.txt%00",
            "/hello.txt%00.html",
            "/absolute",
            "/relative",
            "/sub/deeper",
            "/sub/parent/secret.txt",
            "/sub/parent/",
            "/everything/etc/hostname",
            "/magic/etc/hostname",
            "/chain",
            "/loop",
            "/dangling",
        ]
        .into_iter()
        .chain(around.iter().map(String::as_str))
        {
            let answer = site.get(path);
            assert_eq!(answer.status, 404, "{path}");
            assert!(!answer.text().contains(SECRET), "{path}");
        }
        site.stop();
    }
}

#[test]
fn links_whose_targets_are_inside_are_followed() {
    for site in sites() {
        let root = site.path("").canonicalize().unwrap();
        let name = root.file_name().unwrap().to_str().unwrap();
        symlink(&root, site.path("../alias")).unwrap();
        for (link, target) in [
            ("sub/link", "../hello.txt".into()),
            ("folder", "sub".into()),
            ("absolute", root.join("hello.txt").display().to_string()),
            ("sub/absolute", root.join("sub").display().to_string()),
            ("self", root.display().to_string()),
            ("twice", root.join("absolute").display().to_string()),
            ("mixed", "self/sub/absolute/link".into()),
            ("alias", site.path("../alias/hello.txt").display().to_string()),
            ("around", format!("../{name}/hello.txt")),
        ] {
            symlink(target, site.path(link)).unwrap();
        }
        for (path, text) in [
            ("/sub/link", HELLO),
            ("/folder/inner.txt", "inside\n"),
            ("/absolute", HELLO),
            ("/sub/absolute/inner.txt", "inside\n"),
            ("/sub/absolute/absolute/absolute/link", HELLO),
            ("/self/self/sub/inner.txt", "inside\n"),
            ("/twice", HELLO),
            ("/mixed", HELLO),
            ("/alias", HELLO),
            ("/around", HELLO),
            ("/self/page/", "<p>A page"),
        ] {
            let answer = site.get(path);
            assert_eq!((answer.status, answer.text()), (200, text), "{path}");
        }
        assert_eq!(site.get("/self").field("location"), Some("/self/"));
        assert!(site.get("/self/").text().contains("hello.txt"));
        let index = site.path("page/index.html");
        for target in [root.join("sub/inner.txt"), "../sub/inner.txt".into()] {
            std::fs::remove_file(&index).unwrap();
            symlink(target, &index).unwrap();
            assert_eq!(site.get("/page/").text(), "inside\n");
        }
        std::fs::remove_file(&index).unwrap();
        symlink("../../secret.txt", &index).unwrap();
        assert!(!site.get("/page/").text().contains(SECRET));
        site.stop();
    }
}

#[test]
fn a_folder_that_is_exchanged_for_a_link_does_not_lead_outside() {
    for site in sites() {
        std::fs::create_dir(site.path("../outside")).unwrap();
        std::fs::write(site.path("../outside/inner.txt"), SECRET).unwrap();
        symlink("../outside", site.path("other")).unwrap();
        symlink("../hello.txt", site.path("page/link")).unwrap();
        let (folder, other) = (site.path("sub"), site.path("other"));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat_with(CWD, &folder, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            // The flag is also set when an assertion fails.
            let _over = Over(&is_over);
            let stream = site.connect();
            let (mut asked, mut seen, mut unseen) = (0, 0, 0);
            while asked < 1000 || seen == 0 || unseen == 0 {
                (&stream).write_all(b"GET /sub/inner.txt HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                let answer = Answer::next(&stream);
                match answer.status {
                    200 => assert_eq!(answer.text(), "inside\n"),
                    404 => unseen += 1,
                    _ => panic!("{answer:?}"),
                }
                seen += usize::from(answer.status == 200);
                // openat2 fails with EAGAIN at `..` when a rename interferes.
                (&stream).write_all(b"GET /page/link HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                assert_eq!(Answer::next(&stream).status, 200);
                asked += 1;
                assert!(asked < 100_000, "{seen} and {unseen}");
            }
        });
        site.stop();
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
