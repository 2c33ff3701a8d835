//! Symbolic links beneath the root of `http_files`, and that no path leads out of it.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::demos::site::{Answer, HELLO, SECRET, Site};
use rustix::fs::{CWD, RenameFlags, renameat_with};

#[test]
fn no_path_leads_out_of_the_root() {
    let site = Site::start(&[]);
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
    ] {
        symlink(target, site.path(link)).unwrap();
    }
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
        "/sub//inner.txt",
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
    ] {
        let answer = site.get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.text().contains(SECRET), "{path}");
    }
    site.stops();
}

#[test]
fn links_that_stay_inside_lead_there() {
    let site = Site::start(&[]);
    symlink("../hello.txt", site.path("sub/link")).unwrap();
    symlink("sub", site.path("folder")).unwrap();
    symlink("../hello.txt", site.path("page/again.html")).unwrap();
    for (path, text) in [("/sub/link", HELLO), ("/folder/inner.txt", "inside\n")] {
        assert_eq!(site.get(path).text(), text, "{path}");
    }
    std::fs::remove_file(site.path("page/index.html")).unwrap();
    symlink("../sub/inner.txt", site.path("page/index.html")).unwrap();
    assert_eq!(site.get("/page/").text(), "inside\n");
    std::fs::remove_file(site.path("page/index.html")).unwrap();
    symlink("../../secret.txt", site.path("page/index.html")).unwrap();
    assert!(!site.get("/page/").text().contains(SECRET));
    site.stops();
}

#[test]
fn a_folder_that_is_exchanged_for_a_link_does_not_lead_outside() {
    let site = Site::start(&[]);
    std::fs::create_dir(site.path("../outside")).unwrap();
    std::fs::write(site.path("../outside/inner.txt"), SECRET).unwrap();
    symlink("../outside", site.path("other")).unwrap();
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
                // 503: openat2 fails with EAGAIN when a rename interferes.
                404 | 503 => unseen += 1,
                _ => panic!("{answer:?}"),
            }
            seen += usize::from(answer.status == 200);
            asked += 1;
            assert!(asked < 100_000, "{seen} and {unseen}");
        }
    });
    site.stops();
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
