//! The command lines of the example servers.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::examples::SERVERS;
use crate::harness::{Test, tests};
use crate::support::process::{Server, example, run};
use crate::support::system::{drop_port_privilege, has_privileged_ports};
use crate::support::{TempDir, abstract_name};

pub(crate) const TESTS: &[Test] = tests![
    help_lists_the_flags,
    a_wrong_command_line_is_one_line_and_status_2,
    a_bad_address_is_one_line_and_status_2,
    an_address_in_use_is_one_line_and_status_1,
    an_address_that_cannot_be_bound_is_one_line_and_status_1,
    a_privileged_port_is_one_line_and_status_1,
    rust_log_sets_what_is_logged,
];

fn help_lists_the_flags() {
    for (name, default) in SERVERS {
        let mut command = example(name);
        command.arg("--help");
        let ended = run(command, "");
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{name}");
        for word in [
            "--listen",
            "--mixin",
            "--stop-timeout",
            "--proxy-protocol",
            "sequential",
            "--tls-cert FILE",
            default,
        ] {
            assert!(ended.text().contains(word), "{name}, {word}: {}", ended.text());
        }
        let forks = !["chat", "named_chat", "ticker", "store", "embed"].contains(&name);
        assert_eq!(ended.text().contains("forking"), forks, "{name}");
        assert_eq!(ended.text().contains("--greeting"), name == "chat", "{name}");
    }
}

/// The example fails with one line on standard error, which names it and contains these words, and
/// prints nothing on standard output.
#[track_caller]
fn fails(name: &str, arguments: &[&str], status: i32, words: &[&str]) {
    let mut command = example(name);
    command.args(arguments);
    let ended = run(command, "");
    assert_eq!((ended.status, ended.text()), (Some(status), ""), "{ended:?}");
    let line = ended.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n') && line.starts_with(&format!("{name}: ")), "{line}");
    for word in words {
        assert!(line.contains(word), "{line:?} does not say {word:?}");
    }
}

fn a_wrong_command_line_is_one_line_and_status_2() {
    for (name, _) in SERVERS {
        fails(name, &["--nonsense"], 2, &["--nonsense"]);
        fails(name, &["nonsense"], 2, &["nonsense"]);
        fails(
            name,
            &["--mixin", "quick"],
            2,
            &["quick", "sequential, threading, forking, prefork or fibers"],
        );
        fails(name, &["--mixin"], 2, &["--mixin"]);
        fails(name, &["--listen"], 2, &["--listen"]);
        fails(name, &["--stop-timeout", "soon"], 2, &["soon"]);
        fails(name, &["--stop-timeout=-1"], 2, &["-1"]);
        fails(name, &["--listen", "two\nlines"], 2, &[r"two\nlines"]);
    }
    fails("chat", &["--greeting"], 2, &["--greeting"]);
    #[cfg(not(feature = "tls"))]
    for flag in ["--tls-cert", "--tls-key", "--tls-client-ca"] {
        fails("echo", &[flag, "file"], 2, &[flag, "built without TLS"]);
    }
    #[cfg(not(feature = "tls"))]
    fails("gateway", &["--upstream", "[::1]:1", "--upstream-tls"], 2, &["built without TLS"]);
    for name in ["chat", "named_chat", "ticker", "store", "embed"] {
        fails(name, &["--mixin", "forking"], 2, &["--mixin forking", "share"]);
        fails(name, &["--mixin", "prefork"], 2, &["--mixin prefork", "share"]);
    }
}

fn a_bad_address_is_one_line_and_status_2() {
    for address in ["", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:x", "::1:2525", ":2525"] {
        for name in ["hello", "echo"] {
            fails(name, &["--listen", address], 2, &["bad address", address]);
        }
    }
    let long = format!("unix:/tmp/{}", "x".repeat(103));
    fails("hello", &["--listen", &long], 2, &[&long, "108 bytes", "107"]);
    let long = format!("unixgram:@{}", "x".repeat(108));
    fails("echo", &["--listen", &long], 2, &[&long, "108 bytes", "107"]);

    for (name, address) in [
        ("timestamp", "udp:///tmp/socket"),
        ("echo", "tcp:///tmp/socket"),
        ("hello", "udp://127.0.0.1:0"),
        ("greeter", "unixgram:/tmp/socket"),
        ("chat", "udp://127.0.0.1:0"),
        ("embed", "127.0.0.1:0"),
        ("embed", "unixgram:@name"),
    ] {
        fails(name, &["--listen", address], 2, &["bad address", address]);
    }
}

fn an_address_in_use_is_one_line_and_status_1() {
    let directory = TempDir::new();
    let path = directory.join("socket").display().to_string();
    let name = abstract_name();
    let mut cases: Vec<(&str, String)> = SERVERS
        .map(|(server, _)| match server {
            "embed" => (server, format!("unix:{}", abstract_name())),
            _ => (server, "127.0.0.1:0".to_owned()),
        })
        .into();
    cases.extend([
        ("hello", "[::1]:0".to_owned()),
        ("hello", "tcp://127.0.0.1:0".to_owned()),
        ("echo", "udp://127.0.0.1:0".to_owned()),
        ("timestamp", "udp://[::1]:0".to_owned()),
        ("echo", format!("unix:{path}")),
        ("echo", format!("unix:{name}")),
        ("echo", format!("unixgram:{path}")),
        ("echo", format!("unixgram:{name}")),
        ("hello", path),
        ("hello", name),
    ]);
    for (example, listen) in cases {
        let server = Server::start(example, &listen, &[]);
        // It prints its address in the form that `--listen` takes.
        let address = server.address().to_owned();
        match listen.strip_suffix(":0") {
            Some(host) => assert!(address.contains(host.strip_prefix("tcp://").unwrap_or(host))),
            None => {
                assert_eq!(address.trim_start_matches("unix:"), listen.trim_start_matches("unix:"))
            }
        }
        assert!(!address.ends_with(":0"), "{address}");
        fails(example, &["--listen", &address], 1, &["cannot listen on", &address, "in use"]);
        assert_eq!(server.stop().text().lines().count(), usize::from(example == "embed"));
    }
}

fn an_address_that_cannot_be_bound_is_one_line_and_status_1() {
    let directory = TempDir::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().to_string();
    for name in ["hello", "chat", "framed"] {
        fails(name, &["--listen", &port], 1, &[&port, "in use"]);
    }
    // The label is too long for a name, so no resolver is asked.
    let nowhere = format!("{}.invalid:0", "x".repeat(64));
    fails("hello", &["--listen", &nowhere], 1, &["cannot resolve", "xxx.invalid"]);
    fails("echo", &["--listen", "192.0.2.1:0"], 1, &["192.0.2.1:0"]);

    let missing = directory.join("missing/socket").display().to_string();
    fails("echo", &["--listen", &missing], 1, &[&missing, "No such file"]);
    let file = directory.join("file");
    std::fs::write(&file, "not a socket").unwrap();
    let path = format!("unix:{}", file.display());
    fails("echo", &["--listen", &path], 1, &[&path, "in use"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"not a socket");
}

fn a_privileged_port_is_one_line_and_status_1() {
    if !has_privileged_ports() {
        return println!("this system has no privileged ports");
    }
    drop_port_privilege();
    fails("hello", &["--listen", "127.0.0.1:1"], 1, &["127.0.0.1:1", "Permission denied"]);
}

fn rust_log_sets_what_is_logged() {
    let mut command = example("hello");
    command.args(["--listen", "127.0.0.1:0"]).env("RUST_LOG", "info");
    let server = Server::spawn(command);
    let line = server.error_line();
    assert!(line.contains(&format!("serving on {}", server.address())), "{line}");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().status, Some(0));
}
