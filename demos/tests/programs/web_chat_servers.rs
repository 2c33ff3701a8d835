//! `web_chat` over TLS, and on two servers over Redis.

use std::io::Write;
use std::process::Command;

use serde_json::json;

use super::web_chat::{join_at, lines, say};
use crate::demos::chromium::Chromium;
use crate::demos::demo;
use crate::demos::web_chat::{Browser, GREETING, start};
use crate::harness::{Test, tests};
use crate::support::clients::tcp;
use crate::support::process::{Process, run};
use crate::support::{TempDir, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    one_room_on_two_servers_over_redis: ["redis-server"],
    tabs_and_openssl_read_each_other_over_tls: ["chromium", "openssl"],
];

/// Without the feature `tls`, this only asserts that there is no flag for it.
fn tabs_and_openssl_read_each_other_over_tls() {
    let folder = TempDir::new();
    let [certificate, key] =
        ["certificate.pem", "key.pem"].map(|name| folder.join(name).display().to_string());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-subj", "/CN=localhost", "-out", &certificate, "-keyout", &key]);
    assert_eq!(run(openssl, "").status, Some(0));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    if !cfg!(feature = "tls") {
        let mut command = demo("web_chat");
        command.args(tls);
        assert_eq!(run(command, "").status, Some(2));
        return;
    }
    let chromium = Chromium::start();
    for mixin in ["threading", "fibers"] {
        let server = start(&[&["--mixin", mixin, "--silence", "3"], &tls[..]].concat());
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-connect", server.address()]);
        let mut openssl = Process::spawn(openssl);
        assert_eq!(openssl.line(), GREETING);
        let tabs = ["Ada", "Ben"]
            .map(|name| join_at(&chromium, &format!("https://{}/", server.address()), name));
        say(&tabs[0], "is this secret?");
        openssl.wait_for("[Ada] is this secret?\r\n");
        openssl.send("it is\n");
        for tab in &tabs {
            wait_until("two lines", || lines(tab).len() == 2);
            assert!(lines(tab)[1].ends_with(": it is"), "{mixin}");
        }
        let [ada, ben] = tabs;
        ben.close();
        openssl.wait_for("Client left Ben\r\n");
        ada.close();
        openssl.wait_for("Client left Ada\r\n");
        drop(openssl);
        server.stop();
    }
    chromium.close();
}

fn one_room_on_two_servers_over_redis() {
    const LINES: usize = 20;
    let folder = TempDir::new();
    let mut redis = Command::new("redis-server");
    redis.args(["--port", "0", "--unixsocket", "redis.sock", "--save", ""]);
    redis.current_dir(folder.path());
    let redis = Process::spawn(redis);
    while !redis.line().contains("eady to accept connections") {}
    let url = format!("redis+unix://{}", folder.join("redis.sock").display());
    for mixin in ["threading", "fibers"] {
        let flags = ["--backplane", &url, "--room", mixin, "--mixin", mixin];
        let servers = [(); 2].map(|()| start(&flags));
        let [first, second] = &servers;
        let (mut ada, _) = Browser::join(first, "Ada");
        // That Ada has joined may be news to the second server.
        let mut ben = Browser::connect(second);
        ben.asks_for("Ben");
        while ben.next_text() != "+ Ben" {}
        ada.sees("+ Ben");
        let mut telnet = tcp(second.endpoint());
        let name = telnet.local_addr().unwrap().to_string();
        for number in 0..LINES {
            ada.says(&format!("line {number}"));
            ben.says(&format!("line {number}"));
            telnet.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        let [read, same] = [&mut ada, &mut ben].map(|browser| {
            let events = (0..3 * LINES + 1).map(|_| browser.next_text());
            events.collect::<Vec<_>>()
        });
        assert_eq!(read, same, "{mixin}");
        for name in ["Ada", "Ben", &name] {
            let of_one = read.iter().filter(|event| event.starts_with(&format!("{name}: ")));
            let expected: Vec<_> = (0..LINES).map(|n| format!("{name}: line {n}")).collect();
            assert_eq!(of_one.collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>(), "{mixin}");
        }
        // The second server says that its members leave, before it ends.
        let [first, second] = servers;
        second.stop();
        let mut left = [ada.next_text(), ada.next_text()];
        left.sort();
        assert_eq!(left, [format!("- {name}"), "- Ben".to_owned()], "{mixin}");
        // A name that was not seen to join is known as soon as it speaks.
        let third = start(&flags);
        let (mut eva, welcome) = Browser::join(&third, "Eva");
        assert_eq!(welcome["names"], json!([]));
        ada.says("hello");
        eva.sees("Ada: hello");
        let (_, welcome) = Browser::join(&third, "Fay");
        assert_eq!(welcome["names"], json!(["Ada", "Eva"]));
        third.stop();
        first.stop();
    }
}
